package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Server is what the source's server says of itself.
type Server struct {
	VersionNum  int    // 170005
	Version     string // "17.5"
	Database    string
	Role        string
	InRecovery  bool
	WALLevel    string
	Encoding    string
	Superuser   bool
	Replication bool
	CanCreate   bool // CREATE on the database: needed to make a publication

	SlotsUsed, SlotsMax     int
	SendersUsed, SendersMax int
	// SlotKeepBytes is max_slot_wal_keep_size in bytes, -1 for no limit.
	SlotKeepBytes int64
}

// Major gives the major version: 14 to 18.
func (s *Server) Major() int { return s.VersionNum / 10000 }

// Unconvertible says why the server may be unable to send a text in UTF-8, which it is always asked for; "" where it can send any.
func (s *Server) Unconvertible() string {
	if s.Encoding != "SQL_ASCII" {
		return ""
	}
	return "server_encoding is SQL_ASCII: the server converts no text, and refuses to send one that is not UTF-8 as it is"
}

// Server asks for the server's facts.
func (c *Catalog) Server(ctx context.Context) (*Server, error) {
	var s Server
	err := c.conn.QueryRow(ctx, `
		select current_setting('server_version_num')::int, current_setting('server_version'),
		       current_database(), current_user::text, pg_is_in_recovery(), current_setting('wal_level'),
		       current_setting('server_encoding'),
		       r.rolsuper, r.rolreplication or r.rolsuper,
		       has_database_privilege(current_database(), 'create'),
		       (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::int,
		       (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::int,
		       (select case when setting::bigint < 0 then -1 else setting::bigint * 1048576 end
		          from pg_settings where name = 'max_slot_wal_keep_size')
		  from pg_roles r where r.rolname = current_user`).Scan(
		&s.VersionNum, &s.Version, &s.Database, &s.Role, &s.InRecovery, &s.WALLevel, &s.Encoding,
		&s.Superuser, &s.Replication, &s.CanCreate,
		&s.SlotsUsed, &s.SlotsMax, &s.SendersUsed, &s.SendersMax, &s.SlotKeepBytes)
	if err != nil {
		return nil, Unreachable("ask the server's settings", "", err)
	}
	return &s, nil
}

// Blocker is a transaction that creating a slot has to wait for: of a session, or one that was prepared, and is neither committed nor rolled
// back: no session holds that open, and no server that starts again ends it.
type Blocker struct {
	PID         int // 0 of a prepared one
	Application string
	User        string // "" where it is the server's own
	GID         string // of a prepared one
	Database    string
	Age         time.Duration
}

// End gives the statement that ends it, and rolls back what it did.
func (b *Blocker) End() string {
	if b.PID == 0 {
		return "ROLLBACK PREPARED " + postgres.Literal(b.GID) + ";"
	}
	return fmt.Sprintf("SELECT pg_terminate_backend(%d);", b.PID)
}

// Whose names the session that has it open, or under which name it was prepared.
func (b *Blocker) Whose() string {
	switch {
	case b.PID == 0:
		return fmt.Sprintf("prepared as %q (user %s, database %s)", b.GID, b.User, b.Database)
	case b.Application != "" && b.User != "":
		return fmt.Sprintf("pid %d (%s, user %s)", b.PID, b.Application, b.User)
	case b.Application != "" || b.User != "":
		return fmt.Sprintf("pid %d (%s)", b.PID, cmp.Or(b.Application, "user "+b.User))
	}
	return fmt.Sprintf("pid %d", b.PID)
}

// Hidden says how many of the open transactions that Blockers has looked at last do not show when they began.
func (c *Catalog) Hidden() int { return len(c.open) }

// Blockers lists the transactions that have written and are open for longer than olderThan, the one first whose first write was first:
// from there on the server keeps WAL.
//
// When a transaction of another role began is shown to roles with pg_read_all_stats alone; to others, such a one is as old as this
// connection has seen it open.
func (c *Catalog) Blockers(ctx context.Context, olderThan time.Duration) ([]Blocker, error) {
	open := map[int64]time.Time{}
	blockers, err := query(ctx, c.conn, "list open transactions", func(row pgx.CollectableRow) (Blocker, error) {
		var b Blocker
		var xid int64
		var seconds *float64
		if err := row.Scan(&b.PID, &b.Application, &b.User, &b.GID, &b.Database, &seconds, &xid, nil); err != nil {
			return b, err
		}
		if seconds != nil {
			b.Age = time.Duration(*seconds * float64(time.Second))
			return b, nil
		}
		now := time.Now()
		since, seen := c.open[xid]
		if !seen {
			since = now
		}
		open[xid], b.Age = since, now.Sub(since)
		return b, nil
	}, `select pid, coalesce(application_name, ''), coalesce(usename::text, ''), '', coalesce(datname::text, ''),
	           extract(epoch from clock_timestamp() - xact_start)::float8, backend_xid::text::bigint, age(backend_xid) as xids
	      from pg_stat_activity
	     where backend_xid is not null and pid <> pg_backend_pid() and backend_type is distinct from 'walsender'
	    union all
	    select 0, '', owner::text, gid, database::text, extract(epoch from clock_timestamp() - prepared)::float8, transaction::text::bigint, age(transaction)
	      from pg_prepared_xacts
	     order by xids desc limit 50`)
	if err != nil {
		return nil, err
	}
	c.open = open
	blockers = slices.DeleteFunc(blockers, func(b Blocker) bool { return b.Age < olderThan })
	return blockers[:min(len(blockers), 5)], nil
}

// Slot is a replication slot as the server describes it.
type Slot struct {
	Name              string
	Plugin            string
	Database          string
	Active            bool // somebody streams from it, or reads it by SQL (see replication.ReaderLock)
	ActivePID         int
	Holder            string     // application and address of who does, "" if nobody
	Making            bool       // nobody has it yet, and it may never be: the server waits for transactions, or whoever makes it by SQL is at it
	ConfirmedFlushLSN change.LSN // 0 of one that is being made: it stands nowhere
	WALStatus         string     // reserved, extended, unreserved, lost
	TwoPhase          bool
	Failover          bool   // standbys that synchronise slots keep a copy; never before PostgreSQL 17
	KeptBytes         int64  // current WAL position − restart_lsn
	SafeBytes         *int64 // what may still be written before the slot is lost; nil: no limit
	ToPublishBytes    int64  // current flush position − confirmed_flush_lsn
	Neighbours        int    // slots of the server that somebody streams from, this one among them
	Standbys          string // those of synchronized_standby_slots that are away: the server sends nothing without them
}

// Slot describes the slot called name, nil if there is none.
func (c *Catalog) Slot(ctx context.Context, name string) (*Slot, error) {
	rows, _ := c.conn.Query(ctx, slotSQL, name)
	s, err := scanSlot(name, rows)
	if err != nil {
		return nil, Unreachable("describe slot "+quoted(name), "", err)
	}
	return s, nil
}

func scanSlot(name string, rows pgx.Rows) (*Slot, error) {
	s := &Slot{Name: name}
	there := false
	_, err := pgx.ForEachRow(rows, []any{
		&s.Plugin, &s.Database, &s.Active, &s.ActivePID, &s.Holder, &s.Making, (*uint64)(&s.ConfirmedFlushLSN),
		&s.WALStatus, &s.TwoPhase, &s.Failover, &s.KeptBytes, &s.SafeBytes, &s.ToPublishBytes, &s.Neighbours, &s.Standbys,
	}, func() error { there = true; return nil })
	if err != nil || !there {
		return nil, err
	}
	return s, nil
}

// slotSQL is asked all the time by many captures of one server: all sessions are looked at, and all locks, only where nobody
// streams from the slot.
var slotSQL = fmt.Sprintf(`with now as (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
	                             else pg_current_wal_lsn() end as lsn)
	select coalesce(s.plugin::text, ''), coalesce(s.database::text, ''), holder.pid is not null, coalesce(holder.pid, 0),
	       coalesce(case when holder.pid is not null then (
	           select application_name || coalesce(' at ' || host(client_addr), '') from pg_stat_get_activity(holder.pid)) end, ''),
	       s.slot_type = 'logical' and s.confirmed_flush_lsn is null, coalesce(s.confirmed_flush_lsn - '0/0', 0)::int8,
	       coalesce(s.wal_status, ''), coalesce(s.two_phase, false),
	       coalesce((to_jsonb(s)->>'failover')::bool, false),
	       coalesce(now.lsn - s.restart_lsn, 0)::int8, s.safe_wal_size,
	       greatest(coalesce(now.lsn - s.confirmed_flush_lsn, 0), 0)::int8,
	       (select count(*) from pg_replication_slots where active),
	       coalesce(case when (to_jsonb(s)->>'failover')::bool then (
	           select string_agg(name, ', ')
	             from %s name
	            where not exists (select from pg_replication_slots p where p.slot_name = name and p.active)) end, '')
	  from now, pg_replication_slots s
	 cross join lateral (
	       select case when s.active then s.active_pid else (
	              select l.pid from pg_locks l join pg_database d on d.oid = l.database and d.datname = s.database
	               where l.locktype = 'advisory' and l.classid = %d and l.objid = hashtext(s.slot_name::text) and l.objsubid = 2 and l.granted
	               limit 1) end as pid) holder
	 where s.slot_name = $1`, replication.StandbysSQL, replication.ReaderLock)

// WALPosition gives the end of the WAL that the server has flushed.
func (c *Catalog) WALPosition(ctx context.Context) (at change.LSN, err error) {
	if err := c.conn.QueryRow(ctx, walSQL).Scan((*uint64)(&at)); err != nil {
		return 0, Unreachable("ask the WAL position of", "source", err)
	}
	return at, nil
}

const walSQL = `select ((case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end) - '0/0')::int8`

// Ended says whether transaction xid, which is not younger than the WAL that there is, has ended, so that whoever looks from here on sees what it did. One
// that is committed runs for others as long as it waits for a standby.
func (c *Catalog) Ended(ctx context.Context, xid uint32) (bool, error) {
	// The WAL has the low half of the id; the high half is that which brings it next to the newest.
	const sql = `select coalesce(pg_xact_status((near - ((near - $1) & 4294967295))::text::xid8), '')
	  from (select pg_snapshot_xmax(pg_current_snapshot())::text::int8 + 2147483647) s(near)`
	var status string
	if err := c.conn.QueryRow(ctx, sql, int64(xid)).Scan(&status); err != nil {
		return false, Unreachable("ask the running transactions of", "source", err)
	}
	return status != "in progress", nil
}

// NewestTransaction gives an id that is not below that of any transaction which has begun.
func (c *Catalog) NewestTransaction(ctx context.Context) (uint32, error) {
	// One of its own: the end of a snapshot is behind the last that has ended, not behind all that run. It writes nothing that is waited for.
	var newest int64
	if err := c.conn.QueryRow(ctx, `select case when pg_is_in_recovery() then pg_snapshot_xmax(pg_current_snapshot()) else pg_current_xact_id() end::text::int8`).Scan(&newest); err != nil {
		return 0, Unreachable("ask the running transactions of", "source", err)
	}
	return uint32(newest), nil //nolint:gosec // the low half is what the WAL has
}
