package sink

import (
	"fmt"
	"math"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/consume"
)

// headroomTold is from how little time on, until Kafka deletes what is not applied, somebody is told; the alert has the same.
const headroomTold = 24 * time.Hour

// endangered notes how long it is until Kafka deletes the oldest record of the table that is not applied. A table that is as fast as it
// has to be loses nothing, however short its topic keeps records.
func (t *TableStatus) endangered(retention time.Duration) {
	if left := headroom(retention, value(t.BehindSeconds), t.FreshnessSeconds); !math.IsInf(left, 0) && !math.IsNaN(left) {
		t.HeadroomSeconds = &left
	}
}

// headroom gives the seconds until Kafka deletes the oldest record that is not applied, of a topic that keeps its records for retention:
// infinitely many where none waits for longer than it may or they are kept for ever, not a number where it is not known how long.
func headroom(retention time.Duration, behind, freshness float64) float64 {
	switch {
	case behind <= freshness, retention == consume.KeptForEver:
		return math.Inf(1)
	case retention == 0:
		return math.NaN()
	}
	return retention.Seconds() - behind
}

// headroom tells of a table of which Kafka is about to delete what is not applied; ok is false where it is not.
func (t *TableStatus) headroom() (n service.Need, ok bool) {
	if t.HeadroomSeconds == nil || *t.HeadroomSeconds >= headroomTold.Seconds() {
		return n, false
	}
	left := time.Duration(*t.HeadroomSeconds * float64(time.Second))
	look := service.Look(t.State)
	n = service.Need{
		Code: trouble.RetentionHeadroom, Subject: t.name(), Urgent: look.Colour == "red" || t.State == service.StatePaused,
		What: fmt.Sprintf("the oldest record of %s that is not applied is deleted by Kafka in %s", t.name(), service.FormatLeft(left)),
		Why: fmt.Sprintf("it is %s old, and topic %s keeps records for %s; the table is %s",
			service.FormatSeconds(*t.BehindSeconds), t.Topic, service.FormatSeconds(*t.BehindSeconds+*t.HeadroomSeconds), look.Word),
	}
	if left <= 0 {
		n.What = fmt.Sprintf("Kafka may delete records of %s that are not applied at any time", t.name())
	}
	switch {
	case t.State == service.StatePaused:
		n.Do = append(n.Do, service.Step{Command: "sink resume " + service.Quote(t.name()), Note: "ends the pause"})
	case look.Colour == "red":
		n.Do = append(n.Do, service.Step{Note: "mend what holds the table, which is told beside this"})
	default:
		n.Do = append(n.Do, service.Step{Command: "sink status --table " + service.Quote(t.name()), Note: "says why it does not catch up"})
	}
	n.Do = append(n.Do, service.Step{Command: "capture topics set " + service.Quote(t.Topic) + " --retention forever", Note: "or for longer than now: has Kafka keep the topic's records"})
	return n, true
}
