package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestSecretIsNeverShown(t *testing.T) {
	const secret = Secret("hunter2")
	type holder struct{ Password Secret }
	h := holder{secret}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", secret, h, &h)
	}
	fmt.Fprintln(&out, secret.String(), fmt.Sprint(secret), []Secret{secret})
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	out.Write(y)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "secret", secret, "holder", h)
	}
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2")} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("leak of %q in\n%s", leak, out.String())
		}
	}
	if !strings.Contains(string(j), `"Password":"***"`) {
		t.Errorf("JSON is %s", j)
	}
}

func TestSecretReveal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reveal := func(s Secret, want string) {
		t.Helper()
		if got, err := s.Reveal(); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	refuse := func(s Secret, want string) {
		t.Helper()
		if got, err := s.Reveal(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, %v; want error with %q", got, err, want)
		}
	}
	write("first \n")
	reveal(Secret("file:"+file), "first ")
	write("rotated\r\n")
	reveal(Secret("file:"+file), "rotated")
	refuse("file:/absent/password", "/absent/password")
	t.Setenv("SECRET_OF_TEST", "from env")
	reveal("env:SECRET_OF_TEST", "from env")
	refuse("env:SECRET_NOT_THERE", "SECRET_NOT_THERE")
	reveal("plain", "plain")
	reveal("", "")
}

func TestBytes(t *testing.T) {
	is := func(text string, want Bytes, back string) {
		t.Helper()
		var got Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, int64(got), err, int64(want))
		}
		if got.String() != back {
			t.Errorf("%q: printed as %q, want %q", text, got, back)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q: read back as %d, %v", got, int64(again), err)
		}
	}
	is("0", 0, "0B")
	is("1023", 1023, "1023B")
	is("512kB", 512_000, "500KiB") // 512,000 is a whole number of both; the binary unit comes first
	is("513kB", 513_000, "513kB")
	is("16MiB", 16<<20, "16MiB")
	is("16 mib", 16<<20, "16MiB")
	is("1.5GiB", 3<<29, "1536MiB")
	is("1GiB", 1<<30, "1GiB")
	is("50GB", 50_000_000_000, "50GB")
	is("8388607TiB", 8388607<<40, "8388607TiB")
	for _, text := range []string{"", "MiB", "1XB", "-1", "1e3", "8388608TiB", "1.5.5MiB", "9223372036854775808", "9000000.5TiB"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, int64(b))
		}
	}
}

func TestDuration(t *testing.T) {
	is := func(text string, want time.Duration, back string) {
		t.Helper()
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
		if formatDuration(got) != back {
			t.Errorf("%q: printed as %q, want %q", text, formatDuration(got), back)
		}
		if again, err := parseDuration(formatDuration(got)); err != nil || again != got {
			t.Errorf("%q: read back as %v, %v", text, again, err)
		}
	}
	is("100ms", 100*time.Millisecond, "100ms")
	is("90d", 90*24*time.Hour, "90d")
	is("90 days", 90*24*time.Hour, "90d")
	is("24h", 24*time.Hour, "1d")
	is("25h", 25*time.Hour, "25h")
	is("1h30m", 90*time.Minute, "1h30m")
	is("0", 0, "0s")
	is("10m", 10*time.Minute, "10m")
	is("100h", 100*time.Hour, "100h")
	for text, want := range map[string]string{
		"1sec": "write 1s", "5 min": "write 5m", "3hours": "write 3h", "200millis": "write 200ms", "x": "write 100ms, 30s",
		"106752d": "at most 106751d",
	} {
		if _, err := parseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"brokers", "mode", "to", "sid"}
	for name, want := range map[string]string{
		"brokres": "brokers", "Brokers": "brokers", "mod": "mode", "models": "mode", "x": "", "tot": "to", "zz": "", "sdi": "sid",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
