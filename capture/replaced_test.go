package capture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestFilesBeingReplaced: a capture that was let in waits while what it connects with is being replaced: a certificate is there whose key
// is not yet, the file of the connection string is not, or holds half of it. Who starts so ends: nobody would mend it.
func TestFilesBeingReplaced(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	authority := certtest.New(t)
	pair, next := authority.Issue(t, "capture"), authority.Issue(t, "capture")
	dsn := strings.Replace(r.dsn, "sslmode=disable", "sslmode=prefer&sslcert="+pair.Cert+"&sslkey="+pair.Key, 1)
	file := filepath.Join(t.TempDir(), "dsn")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(dsn)
	r.config.Source.DSN = config.Secret("file:" + file)
	c, stop := r.start()
	for what, step := range map[string]struct{ begin, end func() }{
		"another certificate": {func() { certtest.Copy(t, next.Cert, pair.Cert) }, func() { certtest.Copy(t, next.Key, pair.Key) }},
		"no file":             {func() { must(t, os.Rename(file, file+".old")) }, func() { must(t, os.Rename(file+".old", file)) }},
		"half of it":          {func() { write("postgres://u:%2") }, func() { write(dsn) }},
	} {
		step.begin()
		r.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like 'tributary%'`)
		eventually(t, what+": it waits", func() bool {
			st := c.Status()
			return st.State == "waiting" && st.Trouble != nil && st.Trouble.Code == trouble.SourceRights && strings.Contains(st.Trouble.Hint, "source.dsn")
		})
		step.end()
		eventually(t, what+": it goes on", func() bool { return c.Status().Trouble == nil })
		r.fence()
	}
	must(t, stop())
	certtest.Copy(t, authority.Issue(t, "capture").Cert, pair.Cert)
	r.fails(trouble.Config)
}
