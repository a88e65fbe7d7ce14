package capture

import (
	"slices"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestAccept: a warning that may be meant so becomes a note where the configuration says that it is, of the tables that are named; what
// nobody can mean is no warning that the configuration takes.
func TestAccept(t *testing.T) {
	for _, one := range []struct {
		code           trouble.Code
		table, moment  string
		taken          bool
		left, accepted []string // subjects
	}{
		{trouble.SnapshotRereads, "*", "rereads", true, nil, []string{"public.orders", "public.payment", "public.stock"}},
		{trouble.SnapshotRereads, "public.orders", "rereads", true, []string{"public.payment", "public.stock"}, []string{"public.orders"}},
		{trouble.KafkaNotEnoughReplicas, "*", "waiting_replicas", false, []string{`topic "shop.public.orders" partition 2`}, nil},
		{trouble.KafkaUnreachable, "*", "waiting_kafka", false, []string{"shop"}, nil},
	} {
		cfg := Config{}
		err := config.Decode("capture.yaml", []byte(`
source: {name: shop, dsn: "x", tables: ["public.*"]}
kafka: {brokers: [a:1]}
registry: {url: "http://a"}
accept: [{code: `+string(one.code)+`, table: "`+one.table+`"}]
`), &cfg)
		if (err == nil) != one.taken {
			t.Errorf("%s of %s: %v", one.code, one.table, err)
		}
		s := moments[one.moment](time.Now())
		if one.taken {
			s.st.accept = cfg.accepted()
		}
		s.st.judge(s.at, s.unmoved)
		of := func(needs []service.Need) (subjects []string) {
			for i := range needs {
				if needs[i].Code == one.code {
					subjects = append(subjects, needs[i].Subject)
				}
			}
			slices.Sort(subjects)
			return subjects
		}
		if left, accepted := of(s.st.Needs), of(s.st.Accepted); !slices.Equal(left, one.left) || !slices.Equal(accepted, one.accepted) {
			t.Errorf("%s of %s: needs somebody %v, accepted %v", one.code, one.table, left, accepted)
		}
	}
}

// TestKafkaOwesAnAnswer: while no try has failed that would name a broker it is told which are configured.
func TestKafkaOwesAnAnswer(t *testing.T) {
	s := moments["waiting_kafka"](time.Now())
	s.st.judge(s.at, s.unmoved)
	if want := "no broker answers, or none is ready; kafka.brokers: 10.0.0.3:9092, 10.0.0.4:9092"; s.st.Needs[0].Code != trouble.KafkaUnreachable || s.st.Needs[0].Why != want {
		t.Errorf("%+v", s.st.Needs)
	}
}
