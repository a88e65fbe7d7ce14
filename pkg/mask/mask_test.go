package mask

import "testing"

func TestMask(t *testing.T) {
	m := New([]byte("salt"))
	is := func(kind Kind, text, want string, there bool) {
		t.Helper()
		got, ok := m.Append([]byte("x"), kind, []byte(text))
		if string(got) != "x"+want || ok != there {
			t.Errorf("%s of %q: got %q, %v", kind, text, got, ok)
		}
	}
	// echo -n alice@example.com | openssl dgst -sha256 -hmac salt
	is(Hash, "alice@example.com", "771672a85fbac3a09ea3559eb6dcbca6fc0d74353c3cb0918dae59bc617f5f10", true)
	is(Redact, "secret", "***", true)
	is(Null, "secret", "", false)
	is(KeepLast4, "4111111111111234", "****1234", true)
	is(KeepLast4, "straße äöüß", "****äöüß", true)
	is(KeepLast4, "1234567", "****", true) // four of seven would be most of it
	is(None, "as it is", "as it is", true)
	if one, _ := New([]byte("other")).Append(nil, Hash, []byte("a")); string(one) == string(must(m.Append(nil, Hash, []byte("a")))) {
		t.Error("the salt changes nothing")
	}
	if Kind("hush").Check() == nil || Hash.Check() != nil || None.Check() != nil {
		t.Error("Check")
	}
}

func must(b []byte, _ bool) []byte { return b }

func BenchmarkHash(b *testing.B) {
	m, text, dst := New([]byte("salt")), []byte("alice@example.com"), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = m.Append(dst[:0], Hash, text)
	}
}
