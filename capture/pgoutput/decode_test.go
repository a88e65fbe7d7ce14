package pgoutput

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/tributary-cdc/tributary/schema/change"
)

var update = flag.Bool("update", false, "write the golden files anew")

// stream gives the messages of testdata/stream.hex, which a real server sent.
func stream(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/stream.hex")
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for line := range strings.Lines(string(text)) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
	if len(messages) < 60 {
		t.Fatalf("%d messages", len(messages))
	}
	return messages
}

// describe gives everything that was decoded as text.
func (d *Decoder) describe(kind Kind) string {
	switch kind {
	case KindBegin:
		return fmt.Sprintf("%s %s time %d xid %d", kind, d.Begin.FinalLSN, d.Begin.CommitTime, d.Begin.XID)
	case KindCommit:
		return fmt.Sprintf("%s %s end %s time %d", kind, d.Commit.CommitLSN, d.Commit.EndLSN, d.Commit.CommitTime)
	case KindOrigin:
		return fmt.Sprintf("%s %s %q", kind, d.Origin.CommitLSN, d.Origin.Name)
	case KindRelation:
		r := &d.Relation
		s := fmt.Sprintf("%s %d %q.%q identity %s", kind, r.OID, r.Namespace, r.Name, r.Identity)
		for _, c := range r.Columns {
			s += fmt.Sprintf(" (%q type %d typmod %d key %v)", c.Name, c.TypeOID, c.Typmod, c.Key)
		}
		return s
	case KindType:
		return fmt.Sprintf("%s %d %q.%q", kind, d.Type.OID, d.Type.Namespace, d.Type.Name)
	case KindInsert, KindUpdate, KindDelete:
		s := fmt.Sprintf("%s %d", kind, d.Row.OID)
		if d.Row.Old != nil {
			what := "old"
			if d.Row.OldIsKey {
				what = "key"
			}
			s += " " + what + describeTuple(d.Row.Old)
		}
		if d.Row.New != nil {
			s += " new" + describeTuple(d.Row.New)
		}
		return s
	case KindTruncate:
		return fmt.Sprintf("%s %d cascade %v restart identity %v", kind, d.Truncate.OIDs, d.Truncate.Cascade, d.Truncate.RestartIdentity)
	case KindLogical:
		return fmt.Sprintf("%s %s transactional %v %q %q", kind, d.Logical.LSN, d.Logical.Transactional, d.Logical.Prefix, d.Logical.Content)
	}
	return "unknown"
}

func describeTuple(t change.Tuple) string {
	s := "("
	for i, v := range t {
		if i > 0 {
			s += ", "
		}
		switch {
		case v.State == change.Null:
			s += "null"
		case v.State == change.Unchanged:
			s += "unchanged"
		case len(v.Text) > 100:
			s += fmt.Sprintf("%q and %d bytes more", v.Text[:10], len(v.Text)-10)
		default:
			s += fmt.Sprintf("%q", v.Text)
		}
	}
	return s + ")"
}

func TestGolden(t *testing.T) {
	const path = "testdata/stream.txt"
	var d Decoder
	var got strings.Builder
	for _, m := range stream(t) {
		kind, err := d.Decode(m)
		if err != nil {
			t.Fatalf("%x: %v", m, err)
		}
		got.WriteString(d.describe(kind) + "\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Errorf("message %d is\n%s\nwant\n%s", i+1, gotLines[i], wantLines[i])
		}
	}
	if len(gotLines) != len(wantLines) {
		t.Errorf("%d messages, want %d", len(gotLines)-1, len(wantLines)-1)
	}
}

// pglogrepl, for one, panics here.
func TestCutShort(t *testing.T) {
	var d Decoder
	for _, m := range stream(t) {
		for n := range m {
			if _, err := d.Decode(m[:n:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%x cut to %d of %d bytes: %v", m, n, len(m), err)
			}
		}
		long := append(bytes.Clone(m), 0)
		if _, err := d.Decode(long); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x with a byte behind its end: %v", m, err)
		}
		// An error leaves nothing behind that would disturb the next message.
		var fresh Decoder
		kind, err := d.Decode(m)
		freshKind, freshErr := fresh.Decode(m)
		if err != nil || freshErr != nil || d.describe(kind) != fresh.describe(freshKind) {
			t.Fatalf("%x after an error: %v, %s; want %v, %s", m, err, d.describe(kind), freshErr, fresh.describe(freshKind))
		}
	}
}

func TestRefuses(t *testing.T) {
	f := func(message string, want error, says string) {
		t.Helper()
		var d Decoder
		_, err := d.Decode([]byte(message))
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Fatalf("%q: %v; want %v that says %q", message, err, want, says)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Fatalf("%q: the error tells a value: %v", message, err)
		}
	}
	const row = "\x00\x00\x40\x01"
	f("", ErrMalformed, "empty")
	f("S\x00\x00\x00\x01\x01", ErrUnsupported, `'S' is not part of protocol version 1`)
	f("b", ErrUnsupported, `'b'`)
	f("I"+row+"N\x00\x01b\x00\x00\x00\x06secret", ErrUnsupported, "binary 'false'")
	f("I"+row+"N\x00\x01x", ErrMalformed, "marked")
	f("I"+row+"K\x00\x01n", ErrMalformed, "tuple")
	f("I"+row+"O\x00\x01n", ErrMalformed, "tuple")
	f("I"+row+"N\xff\xffn", ErrMalformed, "fewer columns")
	f("I"+row+"N\x00\x01t\xff\xff\xff\xffsecret", ErrMalformed, "too early")
	f("I"+row+"N\x00\x01t\x7f\xff\xff\xffsecret", ErrMalformed, "too early")
	f("U"+row+"K\x00\x01n"+"K\x00\x01n", ErrMalformed, "tuple")
	f("D"+row+"N\x00\x01n", ErrMalformed, "tuple")
	f("D"+row+"K\x00\x01n"+"N\x00\x01n", ErrMalformed, "behind")
	f("R"+row+"public\x00t\x00z\x00\x00", ErrMalformed, "identity")
	f("R"+row+"public\x00t\x00d\xff\xff", ErrMalformed, "fewer columns")
	f("R"+row+"public", ErrMalformed, "no end")
	f("T\xff\xff\xff\xff\x00"+row, ErrMalformed, "fewer relations")
	f("M\x01\x00\x00\x00\x00\x00\x00\x00\x01p\x00\xff\xff\xff\xff", ErrMalformed, "too early")
}

// What is decoded must not outlive the message by accident, nor be written through.
func TestTextsEndWhereTheyEnd(t *testing.T) {
	message := []byte("I\x00\x00\x40\x01N\x00\x02t\x00\x00\x00\x01at\x00\x00\x00\x01b")
	var d Decoder
	if _, err := d.Decode(message); err != nil {
		t.Fatal(err)
	}
	_ = append(d.Row.New[0].Text, "zzzzzzzz"...)
	if got := describeTuple(d.Row.New); got != `("a", "b")` {
		t.Fatalf("appending to one text has changed another: %s", got)
	}
}

func TestNoAllocations(t *testing.T) {
	messages := stream(t)
	var d Decoder
	all := func() {
		for _, m := range messages {
			if _, err := d.Decode(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(100, all); n != 0 {
		t.Errorf("%v allocations for %d messages", n, len(messages))
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range stream(f) {
		f.Add(m)
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, err := d.Decode(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		if Kind(data[0]) != kind {
			t.Fatalf("%x is said to be a %s", data, kind)
		}
		if cap(d.Row.New) > 1<<16 || cap(d.Relation.Columns) > 1<<17 {
			t.Fatalf("%d bytes made room for %d and %d columns", len(data), cap(d.Row.New), cap(d.Relation.Columns))
		}
		if _, err := pglogrepl.Parse(data); err == nil { // it refuses rows of a table without columns
			compare(t, &d, kind, data)
		}
	})
}

func BenchmarkDecodeInsert(b *testing.B) {
	// 20 columns of 12 bytes.
	message := []byte("I\x00\x00\x40\x01N\x00\x14")
	for range 20 {
		message = append(message, "t\x00\x00\x00\x0ctwelve bytes"...)
	}
	var d Decoder
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(message); err != nil {
			b.Fatal(err)
		}
	}
}
