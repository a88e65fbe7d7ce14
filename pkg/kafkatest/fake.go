package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// FakeCluster is franz-go's kfake in this process. Its methods are safe for concurrent use.
//
// One thing it does not do as Kafka does: when its process is killed while a transaction over several partitions is
// being committed, some of them may have it and others not.
type FakeCluster struct {
	dir  string // "": in memory
	opts []kfake.Opt
	net  fakeNet

	mu    sync.Mutex
	kfake *kfake.Cluster // nil: stopped
}

// Fake starts a fake for one test, with its data in a temporary directory, so that it survives Kill and Restart.
// Default: one broker, one partition a topic, no topics made unasked, group sessions of 1 s and more. opts come after the defaults; for the
// addresses, listeners and the data directory there must be none.
func Fake(t testing.TB, opts ...kfake.Opt) *FakeCluster {
	t.Helper()
	c, err := StartFake(t.TempDir(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// StartFake starts a fake with its data in dir; what an earlier one left there is its data now. With dir "" it is in
// memory, and Restart starts an empty one.
func StartFake(dir string, opts ...kfake.Opt) (*FakeCluster, error) {
	return StartFakeAt(dir, nil, opts...)
}

// StartFakeAt is StartFake with brokers at the addresses given (host:port), in their order; further ones take free
// ports.
func StartFakeAt(dir string, addresses []string, opts ...kfake.Opt) (*FakeCluster, error) {
	c := &FakeCluster{dir: dir}
	c.net.addresses = slices.Clone(addresses)
	c.opts = append(c.opts, kfake.NumBrokers(1), kfake.DefaultNumPartitions(1),
		kfake.GroupMinSessionTimeout(time.Second), kfake.ListenFn(c.net.listen))
	if dir != "" {
		c.opts = append(c.opts, kfake.DataDir(c.dataDir()))
	}
	c.opts = append(c.opts, opts...)
	if err := c.start(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *FakeCluster) dataDir() string { return filepath.Join(c.dir, "data") }

// cleanMark is the file that says that the data was left by Stop.
func (c *FakeCluster) cleanMark() string { return filepath.Join(c.dir, "clean") }

func (c *FakeCluster) start() error {
	if c.dir != "" {
		if err := c.recover(); err != nil {
			return fmt.Errorf("start kfake: %w", err)
		}
	}
	c.net.begin()
	k, err := kfake.NewCluster(c.opts...)
	if err != nil {
		return fmt.Errorf("start kfake: %w", err)
	}
	c.kfake = k
	return nil
}

// Kfake gives the running fake for fault injection (Fault, ControlKey). Restart makes a new one.
func (c *FakeCluster) Kfake() *kfake.Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kfake
}

// Addrs gives host:port of each broker; they stay over Restart.
func (c *FakeCluster) Addrs() []string { return c.net.addrs() }

// Stop closes the fake, saving all it knows, open transactions included.
func (c *FakeCluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kfake == nil {
		return nil
	}
	c.net.resume()
	c.kfake.Close()
	c.net.cut()
	c.kfake = nil
	if c.dir == "" {
		return nil
	}
	if err := os.WriteFile(c.cleanMark(), nil, 0o644); err != nil {
		return fmt.Errorf("stop kfake: %w", err)
	}
	return nil
}

// Kill cuts all connections and ends the fake without letting it save anything: on its disk stays what it had written
// at that moment.
func (c *FakeCluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kfake == nil {
		return nil
	}
	c.net.cut()
	if c.dir == "" {
		c.kfake.Close()
		c.kfake = nil
		return nil
	}
	// Its only way to end is an orderly one. So its directory is taken away first: what it saves from here on
	// goes where nobody reads it again.
	kept := filepath.Join(c.dir, "killed")
	if err := os.Rename(c.dataDir(), kept); err != nil {
		return fmt.Errorf("kill kfake: %w", err)
	}
	c.kfake.Close()
	c.kfake = nil
	if err := errors.Join(os.RemoveAll(c.dataDir()), os.Rename(kept, c.dataDir())); err != nil {
		return fmt.Errorf("kill kfake: %w", err)
	}
	return nil
}

// Restart starts the fake again on its data and addresses, stopping it first if it runs.
func (c *FakeCluster) Restart(context.Context) error {
	if err := c.Stop(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start()
}

// Cut closes every connection, as a network that drops them would; clients can connect again at once.
func (c *FakeCluster) Cut() {
	c.net.closeConns()
}

// Pause stops the fake as SIGSTOP does: connections stay open, new ones are taken, and nothing is answered.
func (c *FakeCluster) Pause() error {
	c.net.pause()
	return nil
}

// Resume undoes Pause.
func (c *FakeCluster) Resume() error {
	c.net.resume()
	return nil
}

// fakeNet gives the brokers the same ports in each life, can cut their connections, and can hold them up.
type fakeNet struct {
	mu        sync.Mutex
	paused    chan struct{} // closed when they go on; nil: they do
	cutOff    bool          // take no more connections in this life
	addresses []string      // of each broker, in the order in which they listen
	listening int           // how many have listened in this life
	conns     map[net.Conn]struct{}
}

func (n *fakeNet) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutOff, n.listening = false, 0
}

func (n *fakeNet) addrs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.addresses...)
}

func (n *fakeNet) cut() {
	n.mu.Lock()
	n.cutOff = true
	n.mu.Unlock()
	n.resume()
	n.closeConns()
}

func (n *fakeNet) closeConns() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.conns {
		_ = conn.Close()
	}
	n.conns = nil
}

func (n *fakeNet) pause() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.paused == nil {
		n.paused = make(chan struct{})
	}
}

func (n *fakeNet) resume() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.paused != nil {
		close(n.paused)
		n.paused = nil
	}
}

// await returns when the brokers are not paused.
func (n *fakeNet) await() {
	n.mu.Lock()
	paused := n.paused
	n.mu.Unlock()
	if paused != nil {
		<-paused
	}
}

func (n *fakeNet) listen(network, _ string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listening == len(n.addresses) {
		address, err := process.FreeAddress()
		if err != nil {
			return nil, err
		}
		n.addresses = append(n.addresses, address)
	}
	l, err := net.Listen(network, n.addresses[n.listening])
	if err != nil {
		return nil, err
	}
	n.listening++
	return fakeListener{l, n}, nil
}

type fakeListener struct {
	net.Listener
	net *fakeNet
}

func (l fakeListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.cutOff { // accepted by the system before the cut
		_ = conn.Close()
		return fakeConn{conn, l.net}, nil
	}
	if l.net.conns == nil {
		l.net.conns = map[net.Conn]struct{}{}
	}
	l.net.conns[conn] = struct{}{}
	return fakeConn{conn, l.net}, nil
}

type fakeConn struct {
	net.Conn
	net *fakeNet
}

func (c fakeConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c.Conn)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// Read gives what has come, once the broker is not paused: a request that it was waiting for waits, too.
func (c fakeConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.net.await()
	return n, err
}

func (c fakeConn) Write(b []byte) (int, error) {
	c.net.await()
	return c.Conn.Write(b)
}
