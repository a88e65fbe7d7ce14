package record

import (
	"bytes"
	"errors"
	"testing"
)

func TestFrame(t *testing.T) {
	b := AppendFrame([]byte("x"), 0x01020304)
	b = append(b, "body"...)
	if want := []byte("x\x00\x01\x02\x03\x04body"); !bytes.Equal(b, want) {
		t.Fatalf("frame is %q, want %q", b, want)
	}
	id, body, err := ParseFrame(b[1:])
	if id != 0x01020304 || string(body) != "body" || err != nil {
		t.Fatalf("ParseFrame gives %#x, %q, %v", id, body, err)
	}
	for _, bad := range []string{"", "\x00\x00\x00\x00", "\x01\x00\x00\x00\x01body", "{\"a\":1}"} {
		if _, _, err := ParseFrame([]byte(bad)); !errors.Is(err, ErrFrame) {
			t.Errorf("ParseFrame(%q): %v, want ErrFrame", bad, err)
		}
	}
}

// The numbers are those of Kafka's own test, UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	f := func(s string, want int32) {
		t.Helper()
		if got := int32(murmur2([]byte(s))); got != want {
			t.Fatalf("murmur2(%q) = %d, want %d", s, got, want)
		}
	}
	f("21", -973932308)
	f("foobar", -790332482)
	f("a-little-bit-long-string", -985981536)
	f("a-little-bit-longer-string", -1486304829)
	f("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)
	f("abc", 479470107)
}

func TestPartition(t *testing.T) {
	f := func(key []byte, partitions, want int32) {
		t.Helper()
		if got := Partition(key, partitions); got != want {
			t.Fatalf("Partition(%q, %d) = %d, want %d", key, partitions, got, want)
		}
	}
	f(nil, 16, 0)
	f([]byte("\x00\x00\x00\x00\x01foobar"), 1, 0)
	f([]byte("\x00\x00\x00\x00\x01foobar"), 1000, (-790332482&0x7fffffff)%1000)
	// A new schema of the key must not move the row.
	f([]byte("\x00\x00\x00\x00\x02foobar"), 1000, (-790332482&0x7fffffff)%1000)
}
