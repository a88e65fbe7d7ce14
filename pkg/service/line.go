package service

import (
	"encoding/json"
	"math"
	"sync"
	"time"
)

// lineMinutes is how far back a line goes.
const lineMinutes = 60

// Line keeps the greatest value of each of the last sixty minutes. The zero value is ready. Safe for use by many goroutines.
type Line struct {
	mu     sync.Mutex
	points minutes
	began  time.Time // of the current minute
	most   float32
}

// Points are those of a line. In JSON one that is not a number is null.
type Points []float32

// MarshalJSON writes them.
func (p Points) MarshalJSON() ([]byte, error) {
	out := make([]*float32, len(p))
	for i := range p {
		if p[i] == p[i] {
			out[i] = &p[i]
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads them.
func (p *Points) UnmarshalJSON(b []byte) error {
	var in []*float32
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*p = make(Points, len(in))
	for i, v := range in {
		if (*p)[i] = notANumber; v != nil {
			(*p)[i] = *v
		}
	}
	return nil
}

var notANumber = float32(math.NaN())

// minutes are the newest points of a line.
type minutes struct {
	points [lineMinutes]float32
	filled int
}

func (m *minutes) push(value float32) {
	copy(m.points[:], m.points[1:])
	m.points[lineMinutes-1] = value
	m.filled = min(m.filled+1, lineMinutes)
}

// all gives the points, the newest last. The slice is the caller's.
func (m *minutes) all() []float32 {
	return append([]float32{}, m.points[lineMinutes-m.filled:]...)
}

// Sample takes the value of now, which is not a number where it is not known. So is a minute in which it never was.
func (l *Line) Sample(now time.Time, value float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		l.began, l.most = now, notANumber
	}
	if v := float32(value); !math.IsNaN(value) && !(v <= l.most) {
		l.most = v
	}
	if now.Sub(l.began) >= time.Minute {
		l.points.push(l.most)
		l.began, l.most = now, float32(value)
	}
}

// Hour gives the points, at most sixty, the newest last. The slice is the caller's.
func (l *Line) Hour() Points {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.points.all()
}
