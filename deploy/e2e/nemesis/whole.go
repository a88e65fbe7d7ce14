package nemesis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// target is one group of sinks, and the schema that it writes everything to.
type target struct{ group, schema string }

// targets are a group that writes each table by itself, one with consistency: source, and one that keeps histories and logs.
var targets = []target{{group: "nemesis", schema: "dwh"}, {group: "nemesis-whole", schema: "whole"}, {group: "nemesis-kept", schema: keptSchema}}

const keptSchema = "kept"

// The accounts are rows of two tables, and money goes to and fro between them: whatever state of the source somebody sees,
// it is the same money.
const (
	accounts     = 40 // in each of the tables account and purse
	fortune      = 100
	allTheRiches = 2 * accounts * fortune
)

// transferSQL makes the functions of transfers. The sign of an account's key is of no account: it changes with the key.
// Who does not find an account, since somebody closes it at this moment, gives up.
var transferSQL = `
CREATE FUNCTION nemesis.pay(tbl text, account int, amount bigint, sign int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    paid int;
BEGIN
    EXECUTE format('UPDATE %I SET id = id * $1, n = n + $2 WHERE abs(id) = $3', tbl) USING sign, amount, account;
    GET DIAGNOSTICS paid = ROW_COUNT;
    IF paid <> 1 THEN
        RAISE EXCEPTION 'account % of table % is not there', account, tbl USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
-- An account is closed and opened anew; what was in it goes to account 1 of the other table.
CREATE FUNCTION nemesis.close(tbl text, other text, account int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    had bigint;
BEGIN
    EXECUTE format('DELETE FROM %I WHERE abs(id) = $1 RETURNING n', tbl) INTO had USING account;
    IF had IS NULL THEN
        RAISE EXCEPTION 'account % of table % is not there', account, tbl USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM nemesis.pay(other, 1, had, 1);
    EXECUTE format('INSERT INTO %I (id, n) VALUES ($1, 0)', tbl) USING account;
END $$;
CREATE FUNCTION nemesis.close_all(tbl text, other text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    had bigint;
BEGIN
    EXECUTE format('LOCK TABLE %I', tbl);
    EXECUTE format('SELECT sum(n) FROM %I', tbl) INTO had;
    EXECUTE format('TRUNCATE %I', tbl);
    PERFORM nemesis.pay(other, 1, had, 1);
    EXECUTE format('INSERT INTO %I (id, n) SELECT i, 0 FROM generate_series(1, $1) i', tbl) USING ` + strconv.Itoa(accounts) + `;
END $$;`

// transfer gives the statements that take money from one account to another, with others between them.
func (w *worker) transfer() []string {
	pay := func(table string, amount int) string {
		sign := 1
		if w.rand.IntN(8) == 0 {
			sign = -1
		}
		return fmt.Sprintf(`SELECT nemesis.pay('%s', %d, %d, %d)`, table, 1+w.rand.IntN(accounts), amount, sign)
	}
	from, to := "account", "purse"
	if w.rand.IntN(2) == 0 {
		from, to = to, from
	}
	switch w.rand.IntN(20) {
	case 0:
		return []string{fmt.Sprintf(`SELECT nemesis.close('%s', '%s', %d)`, from, to, 1+w.rand.IntN(accounts))}
	case 1:
		return []string{fmt.Sprintf(`SELECT nemesis.close_all('%s', '%s')`, from, to)}
	case 2:
		to = from
	}
	amount := w.rand.IntN(fortune)
	steps := append([]string{pay(from, -amount)}, w.some(w.rand.IntN(3))...)
	return append(steps, pay(to, amount))
}

// readTotals sums the money up in the warehouse until ctx ends, one statement each time. The tables are read as a whole
// once they are there as a whole.
func (m *machine) readTotals(ctx context.Context) {
	whole := targets[1].schema
	sum := fmt.Sprintf(`SELECT a.n + p.n, a.rows > 0 AND p.rows > 0 FROM (SELECT sum(n)::bigint AS n, count(*) AS rows FROM %[1]s.account) a,
		(SELECT sum(n)::bigint AS n, count(*) AS rows FROM %[1]s.purse) p`, whole)
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	begun := false
	for ; ctx.Err() == nil; wait(ctx, 20*time.Millisecond) {
		var total *int64
		var there bool
		err := look(ctx, &conn, m.warehouse.DSN("postgres"), func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, sum).Scan(&total, &there)
		})
		begun = begun || err == nil && there && total != nil && *total == allTheRiches
		if err != nil || !begun {
			continue
		}
		m.note(func(r *Report) { r.Totals++ })
		if total == nil || *total != allTheRiches {
			text := "nothing"
			if total != nil {
				text = fmt.Sprint(*total)
			}
			m.find("the accounts in schema %s have %s together at one moment, and always have %d at the source", whole, text, allTheRiches)
			return
		}
	}
}
