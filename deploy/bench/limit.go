package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// drain reads everything that a slot has up to the present, as pg_recvlogical to /dev/null does, and gives how long it
// took.
func drain(ctx context.Context, dsn, slot, publication string) (time.Duration, error) {
	conn, err := postgres.Connect(ctx, dsn, "limit")
	if err != nil {
		return 0, err
	}
	var end int64
	err = conn.QueryRow(ctx, `select (pg_current_wal_flush_lsn() - '0/0')::int8`).Scan(&end)
	_ = conn.Close(ctx)
	if err != nil {
		return 0, err
	}
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
			if msg.Data[0] == 'k' && binary.BigEndian.Uint64(msg.Data[1:]) >= uint64(end) {
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
