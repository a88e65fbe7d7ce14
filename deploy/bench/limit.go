package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// receiver finds pg_recvlogical: in the path, or where Debian's packages put it.
func receiver() (path string, found bool) {
	if path, err := exec.LookPath("pg_recvlogical"); err == nil {
		return path, true
	}
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_recvlogical") // the pattern is a good one
	if len(paths) == 0 {
		return "", false
	}
	return paths[len(paths)-1], true
}

// drain reads everything that a slot has up to the present to nowhere, and gives how long it took and who did it:
// pg_recvlogical, or where that is not installed a loop of our own that does no more.
func drain(ctx context.Context, dsn, slot, publication string) (took time.Duration, who string, err error) {
	conn, err := postgres.Connect(ctx, dsn, "limit")
	if err != nil {
		return 0, "", err
	}
	var end int64
	var lsn string
	err = conn.QueryRow(ctx, `select (l - '0/0')::int8, l::text from pg_current_wal_flush_lsn() l`).Scan(&end, &lsn)
	_ = conn.Close(ctx)
	if err != nil {
		return 0, "", err
	}
	if path, found := receiver(); found {
		cmd := exec.CommandContext(ctx, path, "--dbname", dsn, "--slot", slot, "--start", "--endpos", lsn, "--file", os.DevNull, "--no-loop",
			"--option", "proto_version=1", "--option", "publication_names="+publication)
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, "", fmt.Errorf("%s: %w\n%s", path, err, out)
		}
		return time.Since(began), "pg_recvlogical", nil
	}
	took, err = receive(ctx, dsn, slot, publication, uint64(end))
	return took, "a bare receiver", err
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

// serveRegistry starts an embedded schema registry.
func serveRegistry(dir string) (url string, stop func(), err error) {
	registry, err := schemaregistry.Open(filepath.Join(dir, "schemas.log"))
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close(); _ = registry.Close() }, nil
}
