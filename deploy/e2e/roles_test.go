package e2e

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/deploy/docs"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// roleSQL gives the block of docs/security.md, word by word but for the names.
func roleSQL(t *testing.T, block string, names ...string) string {
	t.Helper()
	page, err := docs.Read(filepath.Join("..", "..", "docs", "security.md"))
	must(t, err)
	for _, b := range page.Blocks {
		if b.Info == block {
			return strings.NewReplacer(names...).Replace(b.Text)
		}
	}
	t.Fatalf("the page has no block %q", block)
	return ""
}

// leastSource gives a database, which dsn names, to an owner that is no superuser, and makes the role by which the page
// says that it is captured. Both are named after the database: tests share servers. It gives how they connect.
func leastSource(t *testing.T, dsn, owner string) (asOwner, asCapture string) {
	t.Helper()
	admin := connect(t, dsn)
	database := admin.Config().Database
	role := roleName(database, "capture")
	exec(t, admin, `create role `+postgres.Ident(owner)+` login`)
	exec(t, admin, `alter database `+postgres.Ident(database)+` owner to `+postgres.Ident(owner))
	exec(t, admin, roleSQL(t, "sql source", `"shop"`, postgres.Ident(database), `"shop_owner"`, postgres.Ident(owner), "tributary_capture", role))
	return as(t, dsn, owner), as(t, dsn, role)
}

// leastWarehouse makes the role by which the page says that the database is written. open says that it may make tables in
// the schema public, too.
func leastWarehouse(t *testing.T, dsn string, open bool) (asSink string) {
	t.Helper()
	admin := connect(t, dsn)
	database := admin.Config().Database
	role := roleName(database, "sink")
	exec(t, admin, roleSQL(t, "sql warehouse", `"dwh"`, postgres.Ident(database), "tributary_sink", role))
	if open {
		exec(t, admin, roleSQL(t, "sql warehouse schema", "sales", "public", "tributary_sink", role))
	}
	return as(t, dsn, role)
}

func roleName(database, of string) string {
	letters := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, database)
	return "tributary_" + of + "_of_" + letters
}

// as gives dsn for a role of the page, which all have one password.
func as(t *testing.T, dsn, role string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	u.User = url.UserPassword(role, "change me")
	return u.String()
}
