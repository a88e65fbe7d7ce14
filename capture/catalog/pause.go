package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Pause is what somebody has asked for: that nothing is published for a while. It stands in the comment of the first
// publication. There it is with what it holds, whoever captures from wherever sees it, and it outlives them all.
type Pause struct {
	Since  time.Time `json:"since"` // by the source's clock
	Until  time.Time `json:"until,omitzero"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// pausePrefix tells our comments from those of others.
const pausePrefix = "tributary: paused "

// Pause gives the pause that is asked for, nil for none, and what the source's clock says.
func (c *Catalog) Pause(ctx context.Context, p Publications) (*Pause, time.Time, error) {
	comment, _, now, err := c.comment(ctx, p)
	if err != nil {
		return nil, now, err
	}
	return parsePause(comment), now, nil
}

// parsePause reads a comment; nil: it asks for no pause.
func parsePause(comment string) *Pause {
	text, ours := strings.CutPrefix(comment, pausePrefix)
	var pause Pause
	if !ours || json.Unmarshal([]byte(text), &pause) != nil {
		return nil
	}
	return &pause
}

const commentSQL = `select coalesce(obj_description(oid, 'pg_publication'), ''), session_user::text, clock_timestamp() from pg_publication where pubname = $1`

func (c *Catalog) comment(ctx context.Context, p Publications) (comment, role string, now time.Time, err error) {
	if comment, role, now, err = scanComment(c.conn.QueryRow(ctx, commentSQL, p.Full)); err != nil {
		return "", "", now, Unreachable("ask whether it is paused", "source", err)
	}
	return comment, role, now, nil
}

// scanComment gives nothing where there are no publications.
func scanComment(row pgx.Row) (comment, role string, now time.Time, err error) {
	if err = row.Scan(&comment, &role, &now); errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return comment, role, now, err
}

// SetPause asks for a pause that lasts so long, 0 for no end.
func (c *Catalog) SetPause(ctx context.Context, p Publications, lasts time.Duration, reason string) error {
	comment, role, now, err := c.comment(ctx, p)
	if err != nil {
		return err
	}
	notPaused := &trouble.Error{Code: trouble.Publication, Op: "pause", Subject: fmt.Sprintf("publication %q", p.Full), Means: "nothing was changed"}
	switch {
	case role == "":
		notPaused.Cause, notPaused.Hint = errors.New("there is none: no capture has run yet"), "capture run"
		return notPaused
	case comment != "" && !strings.HasPrefix(comment, pausePrefix):
		notPaused.Cause = errors.New("somebody else has left a comment on it, where a pause is written")
		notPaused.Hint = fmt.Sprintf("COMMENT ON PUBLICATION %s IS NULL;", postgres.Ident(p.Full))
		return notPaused
	}
	pause := Pause{Since: now, By: role, Reason: reason}
	if lasts > 0 {
		pause.Until = now.Add(lasts)
	}
	text, err := json.Marshal(pause)
	if err != nil {
		return fmt.Errorf("write the pause: %w", err)
	}
	return c.setComment(ctx, p, postgres.Literal(pausePrefix+string(text)), "")
}

// EndPause ends the pause that there is.
func (c *Catalog) EndPause(ctx context.Context, p Publications) error {
	return c.setComment(ctx, p, "NULL", "")
}

// EndThisPause ends a pause if it is still the one that there is: whoever has looked long ago, as it was stopped, must not end one that
// somebody has asked for since. It does not wait long for one who has the publication locked, as a person does who ends it.
func (c *Catalog) EndThisPause(ctx context.Context, p Publications, pause *Pause) error {
	now, _, err := c.Pause(ctx, p)
	if err != nil || now == nil || !now.Since.Equal(pause.Since) {
		return err
	}
	return c.setComment(ctx, p, "NULL", "set local lock_timeout = '3s'; ")
}

// setComment does so after what first sets for its transaction.
func (c *Catalog) setComment(ctx context.Context, p Publications, literal, first string) error {
	sql := fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", postgres.Ident(p.Full), literal)
	_, err := c.conn.Exec(ctx, first+sql)
	if postgres.SQLState(err) == "42501" {
		return &trouble.Error{
			Code: trouble.SourceRights, Op: "write a pause to", Subject: fmt.Sprintf("publication %q", p.Full), Cause: postgres.Describe(err),
			Means: "nothing was changed", Hint: sql + ";   as the publication's owner",
		}
	}
	if err != nil {
		return Unreachable("write a pause to", "source", err)
	}
	return nil
}
