package sink

import (
	"slices"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestAccept: a warning that may be meant so becomes a note where the configuration says that it is, of the tables that are named; what is
// urgent stays, and what nobody can mean is no warning that the configuration takes.
func TestAccept(t *testing.T) {
	for _, one := range []struct {
		code           trouble.Code
		table, moment  string
		taken          bool
		left, accepted []string // subjects
	}{
		{trouble.RetentionHeadroom, "*", "headroom", true, []string{"shop_eu/public.orders"}, []string{"shop_eu/public.payment"}}, // the first is paused
		{trouble.RetentionHeadroom, "shop_us/*", "headroom", true, []string{"shop_eu/public.orders", "shop_eu/public.payment"}, nil},
		{trouble.BarrierWaiting, "*", "barrier", false, []string{"shop_eu/public.orders"}, nil},
		{trouble.FallingBehind, "shop_eu/*", "falling_behind", true, nil, []string{"shop_eu/public.payment"}},
		{trouble.Parked, "shop_us/*", "parked", true, nil, []string{"shop_us/public.orders", "shop_us/public.orders"}},
		{trouble.CaptureSilent, "shop_us", "silent", true, nil, []string{"shop_us"}},
		{trouble.LockWait, "*", "lock", false, []string{"sales.payment", "sales.stock"}, nil},
	} {
		cfg := Config{}
		err := config.Decode("sink.yaml", []byte(`
warehouse: {dsn: "x"}
kafka: {brokers: [a:1]}
registry: {url: "http://a"}
tables: [{from: "public.*"}]
accept: [{code: `+string(one.code)+`, table: "`+one.table+`"}]
`), &cfg)
		if (err == nil) != one.taken {
			t.Errorf("%s of %s: %v", one.code, one.table, err)
		}
		st := moments[one.moment](time.Now()).st
		if one.taken {
			st.accept = cfg.accepted()
		}
		st.summarise()
		of := func(needs []service.Need) (subjects []string) {
			for i := range needs {
				if needs[i].Code == one.code {
					subjects = append(subjects, needs[i].Subject)
				}
			}
			slices.Sort(subjects)
			return subjects
		}
		if left, accepted := of(st.Needs), of(st.Accepted); !slices.Equal(left, one.left) || !slices.Equal(accepted, one.accepted) {
			t.Errorf("%s of %s: needs somebody %v, accepted %v", one.code, one.table, left, accepted)
		}
	}
}

// TestKafkaOwesAnAnswer: before any try has failed it is told at which addresses nobody has answered.
func TestKafkaOwesAnAnswer(t *testing.T) {
	st := &Status{}
	st.owed(time.Now(), []string{"a:9092"})
	if len(st.Waiting) != 0 {
		t.Errorf("at once: %+v", st.Waiting)
	}
	st.owed(time.Now().Add(-service.WaitingAfter), []string{"a:9092", "b:9092"})
	st.summarise()
	if want := "no broker has answered yet; kafka.brokers: a:9092, b:9092"; len(st.Needs) != 1 || st.Needs[0].Code != trouble.KafkaUnreachable || st.Needs[0].Why != want {
		t.Errorf("%+v", st.Needs)
	}
}
