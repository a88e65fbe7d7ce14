package kafkatest

import (
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// Registry serves an empty schema registry for one test and gives its URL.
func Registry(t testing.TB) (url string) {
	t.Helper()
	r, err := schemaregistry.Open(filepath.Join(t.TempDir(), "schemas.log"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		server.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}
