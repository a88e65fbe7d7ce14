package nemesis

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"time"
)

// mode is what a proxy does to its connections.
type mode int

const (
	pass       mode = iota
	refuse          // nothing gets in; what was there is cut
	hold            // nothing moves, nothing is closed: a network that loses every packet
	slow            // every piece takes a while
	loseCommit      // a COMMIT is cut off before the server has it
	loseAnswer      // a COMMIT is carried out, and its answer cut off
)

// slowBy is the delay of every piece in mode slow.
const slowBy = 30 * time.Millisecond

// proxy is a TCP proxy to one address that can misbehave. Its methods are safe for concurrent use.
type proxy struct {
	listener net.Listener
	target   string
	closed   chan struct{}
	work     sync.WaitGroup

	mu      sync.Mutex
	mode    mode
	changed chan struct{} // closed with the next change of mode
	links   map[*link]struct{}
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	once           sync.Once
	gone           chan struct{}
	mu             sync.Mutex
	doomed         bool // the next bytes from the server are not delivered
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		for _, c := range []net.Conn{l.client, l.server} {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // reset, as a cut is
			}
			_ = c.Close()
		}
	})
}

// newProxy listens on a free port of 127.0.0.1 and connects to target (host:port). The caller closes it.
func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, closed: make(chan struct{}), changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) close() {
	close(p.closed)
	_ = p.listener.Close()
	p.set(refuse)
	p.work.Wait()
}

// set changes the mode, of present and future connections.
func (p *proxy) set(to mode) {
	p.mu.Lock()
	p.mode = to
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	if to == refuse {
		p.cut()
	}
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

func (p *proxy) now() (mode, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.changed
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		p.work.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	if m, _ := p.now(); m == refuse {
		_ = client.Close()
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server, gone: make(chan struct{})}
	p.mu.Lock()
	if p.mode == refuse {
		l.close()
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, server, client, true) })
	both.Go(func() { p.pump(l, client, server, false) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

func (p *proxy) pump(l *link, to, from net.Conn, up bool) {
	defer l.close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.let(l, buf[:n], up) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// let waits until piece may go on; false says that it must not, and the connection ends.
func (p *proxy) let(l *link, piece []byte, up bool) bool {
	delayed := false
	for {
		m, changed := p.now()
		var over <-chan time.Time
		switch m {
		case refuse:
			return false
		case hold:
		case slow:
			if delayed {
				return true
			}
			over, delayed = time.After(slowBy), true
		case loseCommit, loseAnswer:
			l.mu.Lock()
			defer l.mu.Unlock()
			if !up {
				return !l.doomed
			}
			if bytes.Contains(piece, []byte("COMMIT")) {
				l.doomed = true
				return m == loseAnswer
			}
			return true
		default:
			return true
		}
		select {
		case <-changed:
		case <-over:
		case <-l.gone:
			return false
		}
	}
}
