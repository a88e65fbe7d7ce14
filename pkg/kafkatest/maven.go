package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// ErrNoJava says that what runs on Java cannot run here: it needs java (17 or later) and, to fetch it, mvn.
var ErrNoJava = errors.New("no java, or no mvn, on the PATH")

// skipUnwanted skips the test with TRIBUTARY_KAFKA=off.
func skipUnwanted(t testing.TB) {
	t.Helper()
	switch wish := os.Getenv("TRIBUTARY_KAFKA"); wish {
	case "", "on", "all":
	case "off":
		t.Skip("TRIBUTARY_KAFKA=off: not tested on Apache Kafka")
	default:
		t.Fatalf("TRIBUTARY_KAFKA: %q is not on, off or all", wish)
	}
}

func wantsAll() bool { return os.Getenv("TRIBUTARY_KAFKA") == "all" }

// skipUnlessAll skips the test unless TRIBUTARY_KAFKA=all.
func skipUnlessAll(t testing.TB, what string) {
	t.Helper()
	if !wantsAll() {
		t.Skipf("not tested on %s: TRIBUTARY_KAFKA=all asks for it", what)
	}
}

// failOrSkip ends the test if there is an error: lack of Java skips it, unless TRIBUTARY_KAFKA=on.
func failOrSkip(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, ErrNoJava) && os.Getenv("TRIBUTARY_KAFKA") != "on" {
		t.Skipf("not tested on Apache Kafka: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mavenLibraries puts what the pom depends on, and what that depends on, into dir/libs.
func mavenLibraries(ctx context.Context, dir string, pom []byte) error {
	return maven(ctx, dir, pom, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+filepath.Join(dir, "libs"))
}

// maven runs a goal of the pom, which it writes into dir.
func maven(ctx context.Context, dir string, pom []byte, goal string, args ...string) error {
	if _, err := exec.LookPath("mvn"); err != nil {
		return fmt.Errorf("%w: %w", ErrNoJava, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
		return fmt.Errorf("write pom.xml: %w", err)
	}
	args = append([]string{"-B", "-q", goal}, args...)
	// Java takes the home of the user's entry, which for users like nobody does not exist, whatever HOME says.
	if home, err := os.UserHomeDir(); err == nil {
		if u, err := user.Current(); err != nil || u.HomeDir != home {
			args = append(args, "-Dmaven.repo.local="+filepath.Join(home, ".m2", "repository"))
		}
	}
	return process.Fetch(ctx, func() error {
		cmd := exec.CommandContext(ctx, "mvn", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("fetch with Maven (%s): %w:\n%s", goal, err, out)
		}
		return nil
	})
}
