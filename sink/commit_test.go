package sink_test

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// proxy stands between a sink and its warehouse. At times it cuts the connection around a COMMIT: before the server
// gets it, or after the server has answered and before the client hears of it.
type proxy struct {
	listener net.Listener
	server   string
	every    int64 // cut at each such COMMIT
	commits  atomic.Int64
	cuts     atomic.Int64
	wait     sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newProxy(t *testing.T, server string, every int64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: server, every: every}
	p.wait.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.wait.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	defer client.Close()
	defer server.Close()
	var swallow atomic.Bool
	p.wait.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if swallow.Load() && n > 0 {
				_ = client.Close()
				_ = server.Close()
				return
			}
			if n > 0 {
				if _, err := client.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				_ = client.Close()
				return
			}
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 && buf[0] == 'Q' && bytes.HasSuffix(buf[:n], []byte("COMMIT\x00")) {
			if c := p.commits.Add(1); c%p.every == 0 {
				if p.cuts.Add(1)%2 == 0 {
					return // the server never hears of it
				}
				swallow.Store(true)
			}
		}
		if n > 0 {
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// TestUnknownOutcomeOfCommit: connections are cut around COMMITs, and nothing is lost or there twice.
func TestUnknownOutcomeOfCommit(t *testing.T) {
	w := newWorld(t)
	u, err := url.Parse(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, u.Host, 3)
	u.Host = p.listener.Addr().String()
	w.cfg.Warehouse.DSN = config.Secret(u.String())
	shop := w.source("shop")
	s := w.start(w.cfg)
	const n = 60
	log := relation("log", "id integer")
	for i := range n {
		shop.tx(ins(log, i))
		w.eventually(fmt.Sprint(i+1), func() any { return first(w.query(`SELECT count(*) FROM public.log`)) })
	}
	w.rows(`SELECT count(*), count(DISTINCT id) FROM public.log`, fmt.Sprintf("%d|%d", n, n))
	s.stop()
	if p.cuts.Load() < 10 {
		t.Errorf("only %d connections were cut", p.cuts.Load())
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
