package service

import (
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

// Sample takes the value of now.
func (l *Line) Sample(now time.Time, value float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		l.began = now
	}
	l.most = max(l.most, float32(value))
	if now.Sub(l.began) >= time.Minute {
		l.points.push(l.most)
		l.began, l.most = now, float32(value)
	}
}

// Hour gives the points, at most sixty, the newest last. The slice is the caller's.
func (l *Line) Hour() []float32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.points.all()
}
