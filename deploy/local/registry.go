package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// Registry is a schema registry that keeps its data in a file. Start one with StartRegistry; its methods are safe for concurrent use.
type Registry struct {
	registry *schemaregistry.Registry
	server   *http.Server
	url      string
	served   chan error

	closing sync.Once
	closed  error
}

// Limits of the registry's HTTP server: its clients are on this machine.
const (
	registryHeaderTimeout = 5 * time.Second
	registryStopTimeout   = 5 * time.Second
)

// StartRegistry starts a registry at an address, host:port, or "" for a free port of 127.0.0.1, on what an earlier one left in dir,
// be it closed or killed. Two processes never share a directory. The caller closes it.
func StartRegistry(dir, address string) (_ *Registry, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start registry in %q: %w", dir, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &Registry{served: make(chan error, 1)}
	if r.registry, err = schemaregistry.Open(filepath.Join(dir, "schemas.log")); err != nil {
		return nil, err
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, errors.Join(err, r.registry.Close())
	}
	r.url = "http://" + listener.Addr().String()
	r.server = &http.Server{Handler: r.registry, ReadHeaderTimeout: registryHeaderTimeout}
	go func() { r.served <- r.server.Serve(listener) }()
	return r, nil
}

// URL gives its address.
func (r *Registry) URL() string { return r.url }

// Close stops it; what it holds is kept. Closing again gives the first answer.
func (r *Registry) Close() error {
	r.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), registryStopTimeout)
		defer cancel()
		err := r.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = r.server.Close()
		}
		if served := <-r.served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		if err = errors.Join(err, r.registry.Close()); err != nil {
			r.closed = fmt.Errorf("stop registry: %w", err)
		}
	})
	return r.closed
}
