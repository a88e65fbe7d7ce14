package service

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// maxStreams bounds the event streams of a server together.
	maxStreams = 20
	// eventPatience is how long a reader may take for an event before it is given up.
	eventPatience = 10 * time.Second
	// streamEvery is how often a status may be sent, breathEvery how often anything is, for whoever stands in between.
	streamEvery = time.Second
	breathEvery = 15 * time.Second
)

// Stream makes a handler whose answer is a stream of server-sent events: events sends them until it returns, which it does at
// the latest when the request's context ends, or when sending fails. An event without a name is a comment.
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
		out := io.Writer(w)
		flush := func() error { return nil }
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			out, flush = z, z.Flush
			defer func() { _ = z.Close() }() // the reader may have gone
		}
		control := http.NewResponseController(w)
		events(r, func(event string, data []byte) error {
			if err := control.SetWriteDeadline(time.Now().Add(eventPatience)); err != nil {
				return err
			}
			var b bytes.Buffer
			if event == "" {
				b.WriteString(":\n\n")
			} else {
				fmt.Fprintf(&b, "event: %s\n", event)
				for line := range bytes.SplitSeq(data, []byte("\n")) {
					fmt.Fprintf(&b, "data: %s\n", line)
				}
				b.WriteByte('\n')
			}
			if _, err := out.Write(b.Bytes()); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			return control.Flush()
		})
	}
}

// streamStatus sends the status whenever it has changed.
func (s *Server) streamStatus(r *http.Request, send func(event string, data []byte) error) {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	var last []byte
	var sent time.Time
	for {
		now, err := json.Marshal(s.status(askedBy(r)))
		switch {
		case err != nil:
			s.log.Error("marshal status", Err(err))
			return
		case !bytes.Equal(now, last):
			last, sent, err = now, time.Now(), send("status", now)
		case time.Since(sent) >= breathEvery:
			sent, err = time.Now(), send("", nil)
		}
		if err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
