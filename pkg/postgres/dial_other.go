//go:build !linux

package postgres

import "syscall"

// limitUnacknowledged has no portable form; keepalive has to do.
func limitUnacknowledged(string, string, syscall.RawConn) error { return nil }
