package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Change is one of a table, as its page tells it.
type Change struct {
	At       time.Time
	Position string
	Op       string
	Columns  []string // with their values only where the configuration shows those
	Result   string   // what became of it, where that is known
}

const (
	// changesFor is how long changes are shown before somebody has to ask again, changesEach how many of a second are.
	changesFor  = 5 * time.Minute
	changesEach = 5
	// maxTails bounds who looks at changes: each reads from Kafka by itself.
	maxTails = 4
)

// oneLine gives a text with what is not seen written out, line ends too.
func oneLine(text string) []byte {
	return []byte(invisible.Replace(strings.ReplaceAll(text, "\n", `\n`)))
}

var errEnough = errors.New("shown for 5 minutes")

// changes sends those of one table while they come: few enough to be read, and not for ever.
func (p *pages) changes(r *http.Request, send func(event string, data []byte) error) {
	defer p.tails.Add(-1)
	if p.tails.Add(1) > maxTails {
		_ = send("say", []byte("too many look at changes already"))
		return
	}
	name := r.URL.Query().Get("table")
	if _, ok := p.cfg.Table(name); !ok || p.cfg.Tail == nil { // a pattern is no table
		_ = send("say", []byte("there is no such table"))
		return
	}
	if send("say", []byte("asking Kafka")) != nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), changesFor, errEnough)
	defer cancel()
	var second int64
	shown, passed := 0, 0
	begin := func() { _ = send("say", []byte("as they come, the newest first; times are of the commit")) } // who is not there any more ends ctx
	err := p.cfg.Tail(ctx, name, begin, func(c Change) error {
		if now := time.Now().Unix(); now != second {
			second, shown = now, 0
		}
		if shown == changesEach {
			passed++
			return nil
		}
		line := strings.TrimSpace(fmt.Sprintf("%s  %s  %s  %s  %s", c.At.UTC().Format("15:04:05.000 UTC"), c.Position, c.Op, strings.Join(c.Columns, ", "), c.Result))
		if passed > 0 {
			line = "(" + service.Plural(passed, "more change") + " before it) " + line
		}
		shown, passed = shown+1, 0
		return send("change", oneLine(line))
	})
	if cause := context.Cause(ctx); errors.Is(cause, errEnough) {
		err = cause
	}
	if err != nil && r.Context().Err() == nil {
		_ = send("say", oneLine("ended: "+err.Error()+". Closed and opened again, it goes on."))
	}
}
