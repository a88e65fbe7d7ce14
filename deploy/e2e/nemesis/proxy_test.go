package nemesis

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo is a server that answers what it is told.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	p, err := newProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	// say gives the answer to text within limit.
	say := func(conn net.Conn, text string, limit time.Duration) (string, error) {
		if _, err := conn.Write([]byte(text)); err != nil {
			return "", err
		}
		return answer(conn, len(text), limit)
	}
	const enough, short = 10 * time.Second, 100 * time.Millisecond
	conn := dial()
	if got, err := say(conn, "hello", enough); got != "hello" {
		t.Fatalf("pass: %q, %v", got, err)
	}
	p.set(hold)
	if got, err := say(conn, "held", short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("hold: %q, %v", got, err)
	}
	p.set(pass)
	if got, err := answer(conn, 4, enough); got != "held" {
		t.Errorf("after hold: %q, %v", got, err)
	}
	p.set(slow)
	began := time.Now()
	if got, err := say(conn, "slow", enough); got != "slow" || time.Since(began) < 2*slowBy {
		t.Errorf("slow: %q, %v after %s", got, err, time.Since(began))
	}
	for _, m := range []mode{loseCommit, loseAnswer} {
		p.set(m)
		conn := dial()
		if got, err := say(conn, "BEGIN", enough); got != "BEGIN" {
			t.Errorf("mode %d: %q, %v", m, got, err)
		}
		if got, err := say(conn, "COMMIT", enough); err == nil {
			t.Errorf("mode %d: COMMIT was answered by %q", m, got)
		}
	}
	p.set(pass)
	p.cut()
	if got, err := say(conn, "x", enough); err == nil {
		t.Errorf("cut: %q", got)
	}
	p.set(refuse)
	if got, err := say(dial(), "x", enough); err == nil {
		t.Errorf("refuse: %q", got)
	}
}

func answer(conn net.Conn, length int, limit time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	buf := make([]byte, length)
	n, err := io.ReadFull(conn, buf)
	return string(buf[:n]), err
}
