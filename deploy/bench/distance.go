package main

import (
	"net"
	"sync"
	"time"
)

// distance is a TCP proxy that makes an address seem far away: every byte arrives half a round trip later, and none waits
// for another, as on a long line with room on it.
type distance struct {
	listener net.Listener
	target   string
	half     time.Duration
	work     sync.WaitGroup
}

func newDistance(target string, roundTrip time.Duration) (*distance, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &distance{listener: listener, target: target, half: roundTrip / 2}
	d.work.Go(d.accept)
	return d, nil
}

func (d *distance) addr() string { return d.listener.Addr().String() }

// close ends the proxy; connections through it have ended before, with the programs that made them.
func (d *distance) close() {
	_ = d.listener.Close()
	d.work.Wait()
}

func (d *distance) accept() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", d.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		d.work.Go(func() { d.carry(server, client) })
		d.work.Go(func() { d.carry(client, server) })
	}
}

// piece is what was read at once, and when it is due at the other end.
type piece struct {
	bytes []byte
	due   time.Time
}

// carry takes bytes one way until that way ends, then ends both.
func (d *distance) carry(to, from net.Conn) {
	line := make(chan piece, 1024)
	go func() {
		defer close(line)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				line <- piece{b[:n], time.Now().Add(d.half)}
			}
			if err != nil {
				return
			}
		}
	}()
	var failed bool
	for p := range line {
		if failed {
			continue // the reader must not wait for ever
		}
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			failed = true
			_ = from.Close()
		}
	}
	_ = to.Close()
}
