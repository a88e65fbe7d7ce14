package capture

import "time"

// pace is how many changes are published, and from which commit on the open Kafka transaction holds them.
type pace struct {
	changes uint64
	oldest  int64 // commit time of the first change since the last Kafka commit, microseconds; 0 for none
	samples []paceSample
}

type paceSample struct {
	at      time.Time
	changes uint64
}

// paceWindow is how far back the rate looks.
const paceWindow = time.Minute

func (p *pace) count(commitTime int64) {
	p.changes++
	if p.oldest == 0 {
		p.oldest = commitTime
	}
}

// rate takes a sample and gives changes a second over the window, or since the first sample if that is shorter.
func (p *pace) rate(now time.Time) float64 {
	p.samples = append(p.samples, paceSample{now, p.changes})
	for len(p.samples) > 2 && now.Sub(p.samples[1].at) >= paceWindow {
		p.samples = p.samples[1:]
	}
	first := p.samples[0]
	took := now.Sub(first.at).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(p.changes-first.changes) / took
}
