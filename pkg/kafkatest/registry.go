package kafkatest

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// Registry serves an empty schema registry for one test and gives its URL.
func Registry(t testing.TB) (url string) {
	t.Helper()
	server := httptest.NewServer(openRegistry(t))
	t.Cleanup(server.Close)
	return server.URL
}

// SecureRegistry is Registry over TLS, for whom allow lets in by basic authentication. Its address is by the name localhost.
func SecureRegistry(t testing.TB, config *tls.Config, allow func(user, password string) bool) (url string) {
	t.Helper()
	registry := openRegistry(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || !allow(user, password) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error_code": 40101, "message": "Unauthorized"}`)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	server.TLS = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that tests want to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
}

func openRegistry(t testing.TB) *schemaregistry.Registry {
	t.Helper()
	r, err := schemaregistry.Open(filepath.Join(t.TempDir(), "schemas.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
