package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// limit is what the machine allows, measured in the same run.
type limit struct {
	rate float64 // a second
	what string
}

// copyOut reads a table to nowhere over n connections, each a part of its blocks.
func copyOut(ctx context.Context, d *database, table string, n int) (time.Duration, error) {
	var blocks int
	if err := d.QueryRow(ctx, `select pg_relation_size($1::regclass) / current_setting('block_size')::int`, table).Scan(&blocks); err != nil {
		return 0, err
	}
	began := time.Now()
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			conn, err := postgres.Connect(ctx, d.dsn, "limit")
			if err != nil {
				errs[i] = err
				return
			}
			defer conn.Close(context.WithoutCancel(ctx))
			_, errs[i] = conn.PgConn().CopyTo(ctx, io.Discard, fmt.Sprintf(`copy (select * from public.%s where ctid >= '(%d,0)' and ctid < '(%d,0)') to stdout`,
				table, i*blocks/n, (i+1)*blocks/n))
		})
	}
	all.Wait()
	return time.Since(began), errors.Join(errs...)
}

// copyIn writes the rows of a table, all of them in memory, into a new table with its primary key; and then pipes them
// from the source into another one.
func copyIn(ctx context.Context, w *world, src *database, table, create string) (in, pipe time.Duration, err error) {
	var copied bytes.Buffer
	if _, err := src.PgConn().CopyTo(ctx, &copied, `copy public.`+table+` to stdout`); err != nil {
		return 0, 0, err
	}
	into := func(from io.Reader) (time.Duration, error) {
		dst, err := w.create(ctx, w.warehouse, create)
		if err != nil {
			return 0, err
		}
		defer dst.Close(context.WithoutCancel(ctx))
		began := time.Now()
		_, err = dst.PgConn().CopyFrom(ctx, from, `copy public.`+table+` from stdin`)
		return time.Since(began), err
	}
	if in, err = into(&copied); err != nil {
		return 0, 0, err
	}
	read, write := io.Pipe()
	go func() {
		_, err := src.PgConn().CopyTo(ctx, write, `copy public.`+table+` to stdout`)
		write.CloseWithError(err)
	}()
	pipe, err = into(read)
	return in, pipe, err
}

// receiver finds pg_recvlogical where Debian's packages put it, that of the server's version or the newest, or in the path, where
// theirs is a script that takes its time to start. who says which one.
func receiver(ctx context.Context, d *database) (path, who string, found bool) {
	const name = "pg_recvlogical"
	major, _, _ := strings.Cut(d.PgConn().ParameterStatus("server_version"), ".")
	newest, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is a good one
	slices.Reverse(newest)
	for _, file := range append(append([]string{"/usr/lib/postgresql/" + major + "/bin/" + name}, newest...), name) {
		version, err := exec.CommandContext(ctx, file, "--version").Output() // pg_recvlogical (PostgreSQL) 17.6
		words := strings.Fields(string(version))
		if err != nil || len(words) < 3 {
			continue
		}
		if its, _, _ := strings.Cut(words[2], "."); its != major {
			return file, name + " of PostgreSQL " + its, true
		}
		return file, name, true
	}
	return "", "", false
}

// drain reads everything that a slot has up to the present to nowhere, and gives how long it took and who did it:
// pg_recvlogical, or where that is not installed a loop of our own that does no more.
func drain(ctx context.Context, d *database, slot, publication string) (took time.Duration, who string, err error) {
	var end int64
	var lsn string
	if err := d.QueryRow(ctx, `select (l - '0/0')::int8, l::text from pg_current_wal_flush_lsn() l`).Scan(&end, &lsn); err != nil {
		return 0, "", err
	}
	if path, who, found := receiver(ctx, d); found {
		cmd := exec.CommandContext(ctx, path, "--dbname", d.dsn, "--slot", slot, "--start", "--endpos", lsn, "--file", os.DevNull, "--no-loop",
			"--option", "proto_version=1", "--option", "publication_names="+publication)
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, "", fmt.Errorf("%s: %w\n%s", path, err, out)
		}
		return time.Since(began), who, nil
	}
	took, err = receive(ctx, d.dsn, slot, publication, uint64(end))
	return took, "a bare receiver (pg_recvlogical is not installed)", err
}

// receive is the loop of drain.
func receive(ctx context.Context, dsn, slot, publication string, end uint64) (time.Duration, error) {
	pg, err := postgres.ConnectReplication(ctx, dsn, "limit", nil)
	if err != nil {
		return 0, err
	}
	defer pg.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it is only read
	sql := fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names '%s')`, slot, publication)
	began := time.Now()
	pg.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if err := pg.Frontend().Flush(); err != nil {
		return 0, err
	}
	for {
		msg, err := pg.ReceiveMessage(ctx)
		if err != nil {
			return 0, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if msg.Data[0] == 'k' && binary.BigEndian.Uint64(msg.Data[1:]) >= end {
				return time.Since(began), nil
			}
		case *pgproto3.ErrorResponse:
			return 0, errors.New(msg.Message)
		}
	}
}

// native lets Postgres' own logical replication apply what a slot has up to the present into dst, which has the tables.
func native(ctx context.Context, src, dst *database, slot, publication string) (time.Duration, error) {
	var end string
	if err := src.QueryRow(ctx, `select pg_current_wal_flush_lsn()::text`).Scan(&end); err != nil {
		return 0, err
	}
	if err := dst.exec(ctx, fmt.Sprintf(`create subscription native connection %s publication %s with (slot_name = %s, create_slot = false, copy_data = false, enabled = false)`,
		postgres.Literal(src.dsn), publication, slot)); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := dst.exec(ctx, `alter subscription native enable`); err != nil {
		return 0, err
	}
	err := poll(ctx, func() (reached bool, err error) {
		err = src.QueryRow(ctx, `select coalesce(max(replay_lsn) >= $1::pg_lsn, false) from pg_stat_replication where application_name = 'native'`, end).Scan(&reached)
		return reached, err
	})
	took := time.Since(began)
	for _, sql := range []string{`alter subscription native disable`, `alter subscription native set (slot_name = none)`, `drop subscription native`} {
		err = firstOf(err, dst.exec(context.WithoutCancel(ctx), sql))
	}
	return took, err
}
