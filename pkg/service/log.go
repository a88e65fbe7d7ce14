package service

import (
	"io"
	"log/slog"
	"os"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Log gives the service's logger: lines on standard error, as text with local time or as JSON with UTC.
func Log(cfg config.Log) *slog.Logger { return LogTo(os.Stderr, cfg) }

// LogTo is Log with lines that go elsewhere.
func LogTo(w io.Writer, cfg config.Log) *slog.Logger {
	opts := &slog.HandlerOptions{}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err == nil {
		opts.Level = level
	}
	if cfg.Format != "json" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		}
		return a
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// Err gives an error to a log line: its text under "error", and under "code" the code by which page, metric and runbook
// know it.
func Err(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.GroupAttrs("", slog.String("code", string(trouble.CodeOf(err))), slog.String("error", err.Error()))
}
