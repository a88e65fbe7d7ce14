package page

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Mark is a vertical line in the charts: what happened then, and shortly after.
type Mark struct {
	Events []service.Event `json:"events"` // the first few, oldest first, each shortened; at least one
	More   int             `json:"more"`   // how many there were besides
}

const (
	// maxMarks is how many lines a chart has: more would hide what they are to explain.
	maxMarks = 24
	// markEvents and markText bound what a line tells. All is under the page's events.
	markEvents, markText = 3, 120 // characters
)

// marks are the newest, oldest first.
type marks []Mark

// add puts an event, which is newer than all before, into a picture of that span. What would stand too near to the line before
// it belongs to that one; so there are never more than maxMarks, however much happens.
func (m *marks) add(e service.Event, span time.Duration) {
	e.Text = brief(e.Text)
	if n := len(*m); n > 0 && e.At.Sub((*m)[n-1].At()) < span/maxMarks {
		last := &(*m)[n-1]
		if len(last.Events) < markEvents {
			last.Events = append(last.Events, e)
		} else {
			last.More++
		}
		return
	}
	if len(*m) >= maxMarks {
		*m = append((*m)[:0], (*m)[1:]...)
	}
	*m = append(*m, Mark{Events: []service.Event{e}})
}

// since gives those of the time that has points. The slice is the caller's.
func (m marks) since(times []int64, step time.Duration) []Mark {
	if len(times) == 0 {
		return nil
	}
	first := time.Unix(times[0], 0).Add(-step) // a start is told just before the first point
	return slices.DeleteFunc(slices.Clone(m), func(one Mark) bool { return one.At().Before(first) })
}

// At is where the line is.
func (m Mark) At() time.Time { return m.Events[0].At }

// brief is the beginning of a text, on one line.
func brief(text string) string {
	text = strings.ReplaceAll(text, "\n", " ")
	if utf8.RuneCountInString(text) > markText {
		text = string([]rune(text)[:markText-1]) + "…"
	}
	return invisible.Replace(text)
}

// marksOf gives what happened since first, of events with the newest first.
func marksOf(events []service.Event, first time.Time, span time.Duration) []Mark {
	var m marks
	for _, e := range slices.Backward(events) {
		if !e.At.Before(first) {
			m.add(e, span)
		}
	}
	return m
}
