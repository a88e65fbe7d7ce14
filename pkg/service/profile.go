package service

import (
	"bytes"
	"fmt"
	"net/http"
	"runtime/pprof"
	"strconv"
	"time"
)

// longestProfile is for how many seconds a profile may be asked for.
const longestProfile = 600

// serveProfile answers with a profile of what the process spends its CPU time on, as go tool pprof reads it: ?seconds=30 is for
// how long, or until the process ends. One at a time.
func serveProfile(w http.ResponseWriter, r *http.Request) {
	seconds := 10
	if text := r.URL.Query().Get("seconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 1 || seconds > longestProfile {
			http.Error(w, fmt.Sprintf("seconds must be a number from 1 to %d", longestProfile), http.StatusBadRequest)
			return
		}
	}
	var profile bytes.Buffer // not w: the profiler's own goroutine may write while Flush, below, does
	if err := pprof.StartCPUProfile(&profile); err != nil {
		http.Error(w, "another profile is being taken", http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = http.NewResponseController(w).Flush() // says that it has begun
	timer := time.NewTimer(time.Duration(seconds) * time.Second)
	defer timer.Stop()
	select {
	case <-r.Context().Done(): // of the client or of the process; it is written all the same
	case <-timer.C:
	}
	pprof.StopCPUProfile() // returns when all is written
	_, _ = profile.WriteTo(w)
}
