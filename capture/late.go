package capture

import (
	"time"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// passed tells up to when all that had been committed is published: since a position passes where the source was seen to be at that
// time. What is newer, and not read yet, cannot be older than that, while the newest published change may be hours old. The zero
// value is ready.
type passed struct {
	ahead []sighting // the oldest first
	until time.Time  // zero: not known
}

// sighting is where the source's WAL ended at one moment.
type sighting struct {
	at  time.Time
	end change.LSN
}

// maxSightings bounds what a long backlog leaves; then the newest one stands for several.
const maxSightings = 64

// see notes where the source's WAL ended at a time.
func (p *passed) see(at time.Time, end change.LSN) {
	if n := len(p.ahead); n == maxSightings {
		p.ahead = p.ahead[:n-1]
	}
	p.ahead = append(p.ahead, sighting{at, end})
}

// reach takes up to where everything is published.
func (p *passed) reach(lsn change.LSN) {
	n := 0
	for n < len(p.ahead) && p.ahead[n].end <= lsn {
		p.until = p.ahead[n].at
		n++
	}
	p.ahead = append(p.ahead[:0], p.ahead[n:]...)
}

// lateness gives how old the oldest change is that is known of and not published: oldest is its commit time, zero where it is not read
// yet. Then it is younger than newest, the commit time of the newest that is published, and than until. Any may be zero.
func lateness(now, oldest, newest, until time.Time) time.Duration {
	since := oldest
	if since.IsZero() {
		since = newest
		if until.After(since) {
			since = until
		}
	}
	if since.IsZero() {
		return 0
	}
	return max(now.Sub(since), 0)
}

// publishedUntil gives up to when all that the source had committed was published, as far as a progress record says: nobody has looked
// since it was written. Zero: it does not say.
func publishedUntil(pr *record.Progress) time.Time {
	if pr == nil || pr.WrittenAt == 0 {
		return time.Time{}
	}
	return micros(pr.WrittenAt).Add(-seconds(pr.Health.BehindSeconds))
}

// micros is a time in microseconds since 1970; 0 is none.
func micros(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.UnixMicro(at)
}
