package service

import (
	"sync"
	"time"
)

// Pace follows a counter or a measure that is sampled about once a second: how it moved over the last minute, and a point
// for each minute of the last hour. The zero value is ready. Safe for use by many goroutines.
type Pace struct {
	mu      sync.Mutex
	samples [paceSamples]paceSample
	taken   int
	moved   time.Time
	shrinks float64       // what the measure lost a second, over longer than the window; 0 while it does not shrink
	since   time.Duration // for how long it has
	minutes minutes
	began   time.Time // of the current minute
	first   float64   // its first sample
}

type paceSample struct {
	at    time.Time
	value float64
}

const (
	paceSamples = 61
	// etaAfter is how much must have been seen before a guess means anything.
	etaAfter = 30 * time.Second
	// etaOver is over how much of the past a guess is smoothed.
	etaOver = 5 * time.Minute
)

// Sample takes the value of now.
func (p *Pace) Sample(now time.Time, value float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken > 0 && p.samples[(p.taken-1)%paceSamples].value != value {
		p.moved = now
	}
	p.samples[p.taken%paceSamples] = paceSample{now, value}
	p.taken++
	p.smooth()
	if p.began.IsZero() {
		p.began, p.first = now, value
	}
	if took := now.Sub(p.began); took >= time.Minute {
		p.minutes.push(float32((value - p.first) / took.Seconds()))
		p.began, p.first = now, value
	}
}

// Restart forgets how it moved over the last minute, and when: from now on something else is measured.
func (p *Pace) Restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.moved, p.shrinks, p.since, p.began = 0, time.Time{}, 0, 0, time.Time{}
}

// smooth follows how fast the measure shrinks: the mean of what the window says, since it began to, and of no more than etaOver.
func (p *Pace) smooth() {
	oldest, newest, ok := p.window()
	took := newest.at.Sub(oldest.at)
	if !ok || took < etaAfter {
		return
	}
	speed := (oldest.value - newest.value) / took.Seconds()
	if speed <= 0 {
		p.shrinks, p.since = 0, 0
		return
	}
	step := newest.at.Sub(p.samples[(p.taken-2)%paceSamples].at)
	p.since = min(p.since+step, etaOver)
	p.shrinks += (speed - p.shrinks) * min(step.Seconds()/max(p.since.Seconds(), 1e-9), 1)
}

// window gives the oldest and the newest sample of the last minute.
func (p *Pace) window() (oldest, newest paceSample, ok bool) {
	n := min(p.taken, paceSamples)
	if n < 2 {
		return oldest, newest, false
	}
	return p.samples[(p.taken-n)%paceSamples], p.samples[(p.taken-1)%paceSamples], true
}

// PerSecond gives the movement over the last minute, or since the first sample if that is shorter; negative for a measure
// that shrinks.
func (p *Pace) PerSecond() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest, newest, ok := p.window()
	took := newest.at.Sub(oldest.at).Seconds()
	if !ok || took <= 0 {
		return 0
	}
	return (newest.value - oldest.value) / took
}

// Moved gives when the value was another one last; zero if it never was.
func (p *Pace) Moved() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}

// Hour gives the movement a second in each of the last minutes, at most sixty, the newest last. The slice is the caller's.
func (p *Pace) Hour() []float32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.minutes.all()
}

// HourMean gives the mean of Hour, nil in the first minute.
func (p *Pace) HourMean() *float64 {
	minutes := p.Hour()
	if len(minutes) == 0 {
		return nil
	}
	sum := 0.0
	for _, perSecond := range minutes {
		sum += float64(perSecond)
	}
	mean := sum / float64(len(minutes))
	return &mean
}

// UntilZero gives when a measure that shrinks will be at zero, at the speed of the last minutes. ok is false while it did
// not shrink over the last one, or was not looked at for long enough.
func (p *Pace) UntilZero() (left time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, newest, ok := p.window()
	if !ok || p.shrinks <= 0 || newest.value <= 0 {
		return 0, false
	}
	seconds := newest.value / p.shrinks
	const most = float64(1<<63-1) / float64(time.Second) / 2
	return time.Duration(min(seconds, most) * float64(time.Second)), true
}
