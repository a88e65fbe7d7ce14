package service

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// maxStreams bounds the event streams of a server together.
	maxStreams = 20
	// eventPatience is how long a reader may take for an event before it is given up.
	eventPatience = 10 * time.Second
	// streamEvery is how often a status may be sent, breathEvery how often anything is: who stands in between sees that the
	// stream is in use, and one that nobody reads any more is noticed.
	streamEvery = time.Second
	breathEvery = 15 * time.Second
)

// Stream makes a handler whose answer is a stream of server-sent events: events sends them until it returns, which it does at
// the latest when the request's context ends, or when sending fails. While it sends nothing, comments are sent.
func (s *Server) Stream(events func(r *http.Request, send func(event string, data []byte) error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.streams.Add(1) > maxStreams {
			s.streams.Add(-1)
			w.Header().Set("Retry-After", "30")
			http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
			return
		}
		defer s.streams.Add(-1)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		st := &stream{out: w, flush: func() error { return nil }, control: http.NewResponseController(w)}
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			st.out, st.flush = z, z.Flush
			defer func() { _ = z.Close() }() // the reader may have gone
		}
		var breath sync.WaitGroup
		breath.Go(func() {
			st.breathe(ctx)
			cancel() // nobody reads any more
		})
		events(r.WithContext(ctx), st.event)
		cancel()
		breath.Wait()
	}
}

// stream is one that is open.
type stream struct {
	mu      sync.Mutex
	out     io.Writer
	flush   func() error
	control *http.ResponseController
	sent    time.Time // when something was sent last
}

func (st *stream) event(name string, data []byte) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\n", name)
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		fmt.Fprintf(&b, "data: %s\n", line)
	}
	b.WriteByte('\n')
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.write(b.Bytes())
}

// breathe sends a comment whenever nothing else was sent for a while, until ctx ends or it cannot be sent.
func (st *stream) breathe(ctx context.Context) {
	quiet := time.NewTimer(breathEvery)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
		}
		st.mu.Lock()
		var err error
		if time.Since(st.sent) >= breathEvery {
			err = st.write([]byte(":\n\n"))
		}
		quiet.Reset(time.Until(st.sent.Add(breathEvery)))
		st.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// write sends text at once. st.mu is held.
func (st *stream) write(text []byte) error {
	st.sent = time.Now()
	if err := st.control.SetWriteDeadline(st.sent.Add(eventPatience)); err != nil {
		return err
	}
	if _, err := st.out.Write(text); err != nil {
		return err
	}
	if err := st.flush(); err != nil {
		return err
	}
	return st.control.Flush()
}

// streamStatus sends the status whenever it has changed.
func (s *Server) streamStatus(r *http.Request, send func(event string, data []byte) error) {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	var last []byte
	asked := askedBy(r)
	asked.Steady = true
	for {
		now, err := json.Marshal(s.status(asked))
		if err != nil {
			s.log.Error("marshal status", Err(err))
			return
		}
		if !bytes.Equal(now, last) {
			if last = now; send("status", now) != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
