package config

import (
	"errors"
	"reflect"
	"testing"
)

// FuzzDecode: whatever the bytes, there are faults or a configuration that survives Show; Decode's panics are for
// mistakes of ours only.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "group: g", "group: g\nsource: {tables: [a, b], wal_budget: 1GiB}", "group: g\ntables:\n  - &a {from: x}\n  - *a",
		"group: g\ntables: [{<<: {from: a}}]", "- a", "a: &a [*a]", "group: !!binary aGk=", "group: g\nage: ~\nlevel: high",
		"? {a: b}\n: c", "group: g\n---\n...", "group: |\n  a\n  b\nratio: .inf", "group: g\nratio: -0\nworkers: 0x1f", "%YAML 1.1\n---\ngroup: g",
		"<<: [{group: g}, {group: h}]", "<<: g\ngroup: g", "group: g\nsource: &s {dsn: *s}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		var first, second testConfig
		if err := Decode("a.yaml", content, &first); err != nil {
			faults, ok := errors.AsType[*Faults](err)
			if !ok || len(faults.List) == 0 || err.Error() == "" {
				t.Errorf("got %T %v", err, err)
			}
			return
		}
		text := Show(first)
		if err := Decode("b.yaml", []byte(text), &second); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		first.Source.DSN = Secret(first.Source.DSN.String())
		first.HTTP.Token = Secret(first.HTTP.Token.String())
		if !reflect.DeepEqual(first, second) && Show(first) != Show(second) {
			t.Errorf("got  %#v\nwant %#v\n%s", second, first, text)
		}
	})
}

// FuzzBytes: what is read is printed so that it is read back.
func FuzzBytes(f *testing.F) {
	for _, seed := range []string{"0", "16MiB", "1.5GiB", "50GB", "8388607TiB", "9223372036854775807", "0.0001kB", "99999999999999999999TiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b, again Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil {
			return
		}
		if b < 0 {
			t.Fatalf("%q is read as %d", text, int64(b))
		}
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q: %d, printed %s, read back %d, %v", text, int64(b), b, int64(again), err)
		}
	})
}
