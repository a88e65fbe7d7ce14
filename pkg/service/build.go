package service

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
)

// version and revision are set by the linker (-X …/pkg/service.version=1.2.3); a plain go build knows the revision by
// itself.
var version, revision string

// Build says what is running.
type Build struct {
	Version   string `json:"version"`  // "1.2.3", or "devel"
	Revision  string `json:"revision"` // of the source; "+" behind it: with changes; "" if unknown
	GoVersion string `json:"go_version"`
}

// ThisBuild gives the running binary's.
func ThisBuild() Build { return thisBuild() }

var thisBuild = sync.OnceValue(func() Build {
	b := Build{Version: version, Revision: revision}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.GoVersion = info.GoVersion
		for _, setting := range info.Settings {
			switch {
			case revision != "":
			case setting.Key == "vcs.revision":
				b.Revision = setting.Value[:min(12, len(setting.Value))] + b.Revision
			case setting.Key == "vcs.modified" && setting.Value == "true":
				b.Revision += "+"
			}
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
})

// Instance gives a new name for a running service: host, process and a random part, as two services may live in one
// process, and a process number comes back ("db1-4711-9f3a").
func Instance() string {
	random := make([]byte, 2)
	_, _ = rand.Read(random) // never fails
	return fmt.Sprintf("%s-%d-%s", Host(), os.Getpid(), hex.EncodeToString(random))
}

// Host gives the name of this host, "unknown" where it has none.
func Host() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}
