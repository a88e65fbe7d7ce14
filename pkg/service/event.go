package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Event is something that happened.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Events keeps the newest of what happened. The zero value is ready. Safe for use by many goroutines.
type Events struct {
	mu   sync.Mutex
	list []Event
}

// maxEvents bounds what is kept.
const maxEvents = 200

// Add notes one.
func (e *Events) Add(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) >= maxEvents {
		e.list = append(e.list[:0], e.list[1:]...)
	}
	e.list = append(e.list, Event{time.Now().UTC(), text})
}

// Newest gives them, the newest first. The slice is the caller's.
func (e *Events) Newest() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]Event, 0, len(e.list))
	for i := len(e.list) - 1; i >= 0; i-- {
		out = append(out, e.list[i])
	}
	return out
}

// About gives those of events that name something, at most so many. A longer name is another one.
func About(events []Event, limit int, names ...string) []Event {
	out := []Event{}
	for _, e := range events {
		if len(out) < limit && slices.ContainsFunc(names, func(name string) bool { return mentions(e.Text, name) }) {
			out = append(out, e)
		}
	}
	return out
}

func mentions(text, name string) bool {
	within := func(r rune) bool { return r == '_' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r) }
	for at := strings.Index(text, name); at >= 0; {
		before, _ := utf8.DecodeLastRuneInString(text[:at])
		after, _ := utf8.DecodeRuneInString(text[at+len(name):])
		if !within(before) && !within(after) {
			return true
		}
		next := strings.Index(text[at+1:], name)
		if next < 0 {
			return false
		}
		at += 1 + next
	}
	return false
}

// KafkaClient begins what the Kafka client says itself. It is no event: while no broker answers it comes some times a second, and
// would push out what happened before.
const KafkaClient = "kafka client: "

// Log gives a logger whose lines, from level info on, are events too: what is worth a line is worth an event.
func (e *Events) Log(log *slog.Logger) *slog.Logger {
	return slog.New(&eventHandler{Handler: log.Handler(), events: e})
}

type eventHandler struct {
	slog.Handler
	events *Events
}

func (h *eventHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.Handler.Enabled(ctx, level)
}

func (h *eventHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && !strings.HasPrefix(r.Message, KafkaClient) {
		var b strings.Builder
		b.WriteString(r.Message)
		r.Attrs(func(a slog.Attr) bool {
			appendAttr(&b, a)
			return true
		})
		h.events.Add(b.String())
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func appendAttr(b *strings.Builder, a slog.Attr) {
	if a.Value.Kind() == slog.KindGroup {
		for _, inner := range a.Value.Group() {
			appendAttr(b, inner)
		}
	} else if !a.Equal(slog.Attr{}) {
		fmt.Fprintf(b, ", %s %s", strings.ReplaceAll(a.Key, "_", " "), a.Value)
	}
}

func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &eventHandler{Handler: h.Handler.WithAttrs(attrs), events: h.events}
}

func (h *eventHandler) WithGroup(name string) slog.Handler {
	return &eventHandler{Handler: h.Handler.WithGroup(name), events: h.events}
}
