package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The range of FreePort lies below the one from which systems take the ports of outgoing connections, and of listeners that do not
// mind which (32768 on Linux).
const lowestPort, highestPort = 20000, 32000

// blockSize is how many ports a process has for itself, but for the one that says so.
const blockSize = 200

// ports are those of this process.
var ports struct {
	mu    sync.Mutex
	held  net.Listener // at first, until this process ends
	first int
	last  int // given last
}

// FreePort gives a TCP port of 127.0.0.1 at which nobody listens, for a server that will do so in a moment, or is down for a restart.
//
// Nothing keeps such a port: of two processes that draw from one range the second finds free what the first has been given, and whose
// server has yet to start. So a process has a block of ports to itself, and goes round in it. Who has a block listens at its first port,
// which the system lets one do, and ends with the process, however it ends.
func FreePort() (int, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.held == nil {
		if err := takeBlock(); err != nil {
			return 0, err
		}
	}
	for range blockSize - 1 {
		if ports.last++; ports.last == ports.first+blockSize {
			ports.last = ports.first + 1
		}
		l, err := listen(ports.last)
		if err != nil {
			continue // a server of ours, or one that a process before us has left
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return ports.last, nil
	}
	return 0, fmt.Errorf("find a free port: all between %d and %d are taken, which are this process's", ports.first, ports.first+blockSize)
}

// takeBlock takes a block that nobody has, the caller holding ports.mu.
func takeBlock() error {
	var errs error
	for _, block := range rand.Perm((highestPort - lowestPort) / blockSize) {
		first := lowestPort + block*blockSize
		l, err := listen(first)
		if err == nil {
			ports.held, ports.first, ports.last = l, first, first
			return nil
		}
		errs = errors.Join(errs, err)
	}
	return fmt.Errorf("find a free port: each block of %d ports between %d and %d is another process's: %w", blockSize, lowestPort, highestPort, errs)
}

func listen(port int) (net.Listener, error) { return net.Listen("tcp", address(port)) }

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreeAddress is FreePort with its host.
func FreeAddress() (string, error) {
	port, err := FreePort()
	if err != nil {
		return "", err
	}
	return address(port), nil
}
