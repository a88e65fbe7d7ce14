package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// apicurioVersion is the newest that runs on Java 17.
const apicurioVersion = "2.6.13.Final"

const apicurioPom = `<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>registry</artifactId><version>1</version><packaging>pom</packaging>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
    <configuration><artifactItems><artifactItem>
      <groupId>io.apicurio</groupId><artifactId>apicurio-registry-app</artifactId><version>` + apicurioVersion + `</version><type>tar.gz</type><classifier>all</classifier>
    </artifactItem></artifactItems></configuration>
  </plugin></plugins></build>
</project>
`

// Apicurio runs an empty Apicurio Registry for one test, in a process of its own, and gives the URL at which it speaks
// Confluent's protocol. The first one fetches it from Maven Central (140 MB). The test is skipped where Real is, and unless
// TRIBUTARY_KAFKA=all.
func Apicurio(t testing.TB) (url string) {
	t.Helper()
	skipUnlessAll(t, "Apicurio Registry")
	skipUnwanted(t)
	url, remove, err := startApicurio(t.Context())
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	failOrSkip(t, err)
	return url
}

func startApicurio(ctx context.Context) (url string, remove func() error, err error) {
	remove = func() error { return nil }
	if _, err := exec.LookPath("java"); err != nil {
		return "", remove, fmt.Errorf("start Apicurio: %w: %w", ErrNoJava, err)
	}
	app, err := process.Cached(ctx, "apicurio/"+apicurioVersion, func(ctx context.Context, dir string) error {
		return maven(ctx, dir, []byte(apicurioPom), "dependency:unpack", "-DoutputDirectory="+dir)
	})
	if err != nil {
		return "", remove, fmt.Errorf("start Apicurio: %w", err)
	}
	dir, err := os.MkdirTemp("", "tributary-apicurio-")
	if err != nil {
		return "", remove, fmt.Errorf("start Apicurio: %w", err)
	}
	remove = func() error { return os.RemoveAll(dir) }
	port, err := process.FreePort()
	if err != nil {
		return "", remove, err
	}
	release, err := process.Guard(`kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, dir)
	if err != nil {
		return "", remove, err
	}
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		return "", remove, err
	}
	defer log.Close()
	cmd := exec.Command("java", append(jvmQuick, "-jar", filepath.Join(app, "apicurio-registry-app-"+apicurioVersion+"-runner.jar"))...)
	// It keeps its schemas in memory.
	cmd.Env = append(os.Environ(), "QUARKUS_HTTP_HOST=127.0.0.1", "QUARKUS_HTTP_PORT="+strconv.Itoa(port), "ENABLE_CCOMPAT_LEGACY_ID_MODE=false")
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log
	server, err := process.Start(cmd)
	if err != nil {
		return "", remove, err
	}
	remove = func() error {
		err := errors.Join(server.Kill(), os.RemoveAll(dir))
		release()
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(server.PID())), 0o644); err != nil {
		return "", remove, err
	}
	ctx, cancel := context.WithTimeout(ctx, realStartTimeout)
	defer cancel()
	url = fmt.Sprintf("http://127.0.0.1:%d/apis/ccompat/v7", port)
	err = process.Poll(ctx, func() (bool, error) {
		if !server.Alive() {
			return false, fmt.Errorf("it ended; its log ends with:\n%s", process.LastLines(log.Name()))
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/subjects", nil)
		if err != nil {
			return false, err
		}
		request.Close = true
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil
		}
		return answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
	if err != nil {
		return "", remove, fmt.Errorf("wait for Apicurio on port %d: %w", port, err)
	}
	return url, remove, nil
}
