package record

import (
	"errors"
	"strings"
	"testing"
)

func TestTopic(t *testing.T) {
	f := func(source, schema, table, want string) {
		t.Helper()
		got, err := Topic(source, schema, table)
		if err != nil || got != want {
			t.Fatalf("Topic(%q, %q, %q) = %q, %v; want %q", source, schema, table, got, err, want)
		}
		s, n, tab, ok := ParseTopic(got)
		if !ok || s != source || n != schema || tab != table {
			t.Fatalf("ParseTopic(%q) = %q, %q, %q, %v", got, s, n, tab, ok)
		}
	}
	f("shop", "public", "orders", "shop.public.orders")
	f("shop-eu_1", "public", "Orders", "shop-eu_1.public.Orders")
	f("shop", "a.b", "c", "shop.a_x002E_b.c")
	f("shop", "a", "b.c", "shop.a.b_x002E_c")
	f("shop", "public", "a b", "shop.public.a_x0020_b")
	f("shop", "public", "größe", "shop.public.gr_x00F6__x00DF_e")
	f("shop", "public", "😀", "shop.public._x1F600_")
	f("shop", "public", "tax_xref", "shop.public.tax_xref")
	f("shop", "public", "a_x002E_b", "shop.public.a_x005F_x002E_b")
	f("shop", "public", "a_x0.", "shop.public.a_x005F_x0_x002E_") // the "_" of an escape may end what begins as one
	f("shop", "public", "\xff\xfe", "shop.public._xDCFF__xDCFE_")
	f("shop", "public", "\x00\x07", "shop.public._x0000__x0007_")
	f("shop", "tributary", "progress", "shop._x0074_ributary.progress")
	f("shop", "tributary", "progress2", "shop.tributary.progress2")
}

func TestTopicRefuses(t *testing.T) {
	f := func(source, schema, table string) {
		t.Helper()
		if got, err := Topic(source, schema, table); !errors.Is(err, ErrTopicName) {
			t.Fatalf("Topic(%q, %q, %q) = %q, %v; want ErrTopicName", source, schema, table, got, err)
		}
	}
	f("", "public", "orders")
	f("shop", "", "orders")
	f("shop", "public", "")
	f(strings.Repeat("s", 249-len(".public.orders")+1), "public", "orders")
	f("shop", "public", strings.Repeat("ü", 63))

	if _, err := Topic(strings.Repeat("s", 249-len(".public.orders")), "public", "orders"); err != nil {
		t.Fatalf("a name of exactly %d bytes: %v", maxTopicBytes, err)
	}
}

func TestParseTopicRefuses(t *testing.T) {
	f := func(topic string) {
		t.Helper()
		if s, n, tab, ok := ParseTopic(topic); ok {
			t.Fatalf("ParseTopic(%q) = %q, %q, %q; want not ok", topic, s, n, tab)
		}
	}
	f("")
	f("orders")
	f("shop.orders")
	f("shop.public.orders.x")
	f("shop..orders")
	f("shop.public.a_x002e_b")     // lower-case digits: not how we spell
	f("shop.public.a_x0041_")      // A needs no escape
	f("shop.public.a_x2E_b")       // too short
	f("shop.public.a_x0000002E_b") // too long
	f("shop.public.a_x002E")       // no end
	f("shop.public.a_xD800_")      // no rune
	f("shop.public.a_x110000_")    // beyond Unicode
	f(ProgressTopic("shop"))
}

func TestProgressTopic(t *testing.T) {
	f := func(source, want string) {
		t.Helper()
		topic := ProgressTopic(source)
		if topic != want {
			t.Fatalf("ProgressTopic(%q) = %q, want %q", source, topic, want)
		}
		if got, ok := ParseProgressTopic(topic); !ok || got != source {
			t.Fatalf("ParseProgressTopic(%q) = %q, %v", topic, got, ok)
		}
	}
	f("shop", "shop.tributary.progress")
	f("shop.eu", "shop_x002E_eu.tributary.progress")
	f("größe", "gr_x00F6__x00DF_e.tributary.progress")

	for _, topic := range []string{"", ".tributary.progress", "shop.tributary.progres", "a.b.tributary.progress", "shop.public.orders"} {
		if got, ok := ParseProgressTopic(topic); ok {
			t.Errorf("ParseProgressTopic(%q) = %q, want not ok", topic, got)
		}
	}
}

func TestAvroName(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		if got := avroName(name); got != want {
			t.Fatalf("avroName(%q) = %q, want %q", name, got, want)
		}
	}
	f("id", "id")
	f("_id", "_id")
	f("1st", "_x0031_st")
	f("a-b", "a_x002D_b")
	f("a.b", "a_x002E_b")
	f("a b", "a_x0020_b")
	f("a_x0020_b", "a_x005F_x0020_b")
	f("straße", "stra_x00DF_e")
}

// Two names that become one would put two tables into one topic, two columns into one field.
func FuzzNames(f *testing.F) {
	f.Add("shop", "a.b", "c", "a", "b.c")
	f.Add("shop", "_x", ".", "_x0", "2E_")
	f.Add("shop", "_", "x002E_", "_x002E", "_")
	f.Add("shop", "tributary", "progress", "_x0074_ributary", "progress")
	f.Fuzz(func(t *testing.T, source, s1, t1, s2, t2 string) {
		if (avroName(s1) == avroName(s2)) != (s1 == s2) {
			t.Fatalf("avroName of %q and %q: %q and %q", s1, s2, avroName(s1), avroName(s2))
		}
		if source != "" {
			if got, ok := ParseProgressTopic(ProgressTopic(source)); !ok || got != source {
				t.Fatalf("progress topic of %q read back as %q, %v", source, got, ok)
			}
		}
		one, err1 := Topic(source, s1, t1)
		two, err2 := Topic(source, s2, t2)
		if err1 != nil || err2 != nil {
			return
		}
		if (one == two) != (s1 == s2 && t1 == t2) {
			t.Fatalf("%q.%q and %q.%q have topics %q and %q", s1, t1, s2, t2, one, two)
		}
		if one == ProgressTopic(source) {
			t.Fatalf("%q.%q has the name of the progress topic", s1, t1)
		}
		for i := range len(one) {
			if !topicByte(one[i], false) && one[i] != '.' {
				t.Fatalf("topic %q holds a byte that Kafka forbids", one)
			}
		}
		if a, b, c, ok := ParseTopic(one); !ok || a != source || b != s1 || c != t1 {
			t.Fatalf("ParseTopic(%q) = %q, %q, %q, %v", one, a, b, c, ok)
		}
	})
}
