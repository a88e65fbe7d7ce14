package service

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// token is what http.token stands for at present. A file is read again while running, so that a changed one is taken up.
type token struct {
	secret config.Secret

	mu     *sync.Mutex
	value  string
	readAt time.Time
}

// tokenAge is how long what was read counts.
const tokenAge = time.Second

func newToken(secret config.Secret) (token, error) {
	t := token{secret: secret, mu: &sync.Mutex{}}
	value, err := secret.Reveal()
	if err == nil && secret != "" && value == "" {
		err = errors.New("http.token is configured and empty")
	}
	t.value, t.readAt = value, time.Now()
	return t, err
}

// now gives the token, "" where none is configured. A file that cannot be read, or is empty, is being replaced, or was
// damaged: until it is whole again the last one counts, so that nothing is opened.
func (t *token) now() string {
	if t.secret == "" {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.readAt) >= tokenAge {
		t.readAt = time.Now()
		if value, err := t.secret.Reveal(); err == nil && value != "" {
			t.value = value
		}
	}
	return t.value
}

// admitted says whether the request may be answered, and answers it otherwise.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request) bool {
	want := s.token.now()
	if want == "" {
		return true
	}
	from := clientAddr(r)
	if wait := s.guesses.wait(from, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
		http.Error(w, "Too many wrong tokens from your address.", http.StatusTooManyRequests)
		return false
	}
	given, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	isBasic := false
	if !isBearer {
		_, given, isBasic = r.BasicAuth()
	}
	if subtle.ConstantTimeCompare([]byte(given), []byte(want)) == 1 {
		return true
	}
	if (isBearer || isBasic) && s.guesses.wrong(from, time.Now()) { // a browser asks without one first
		s.log.Warn("too many wrong tokens: requests of this address are refused for a while", "from", from.String())
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="tributary", charset="UTF-8"`)
	http.Error(w, "This page wants a token. Any user name, the token as password. It is configured as http.token.", http.StatusUnauthorized)
	return false
}

// clientAddr gives who asks: the other end of the connection, since what headers say of it anybody can write.
func clientAddr(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from.Addr().Unmap().WithZone("")
}

// guesses bounds how fast tokens can be tried: after guessBurst wrong ones an address has one try each guessEvery. The
// right token is not looked at either meanwhile, or a guess would still tell. The zero value has seen none.
type guesses struct {
	mu sync.Mutex
	// until says when an address has all its tries back.
	until map[netip.Addr]time.Time
}

const (
	guessBurst = 10
	guessEvery = 5 * time.Second
	maxGuessed = 10_000 // addresses; of more, those that would be free first are forgotten
)

// wait gives how long the address has no try, 0 if it has one.
func (g *guesses) wait(from netip.Addr, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.until[from].Add(-(guessBurst-1)*guessEvery).Sub(now), 0)
}

// wrong takes one try, and says whether it was the last.
func (g *guesses) wrong(from netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.until == nil {
		g.until = map[netip.Addr]time.Time{}
	}
	if len(g.until) >= maxGuessed {
		var first netip.Addr
		for addr, until := range g.until {
			if !until.After(now) {
				delete(g.until, addr)
			} else if !first.IsValid() || until.Before(g.until[first]) {
				first = addr
			}
		}
		if len(g.until) >= maxGuessed {
			delete(g.until, first)
		}
	}
	begin := g.until[from]
	if begin.Before(now) {
		begin = now
	}
	g.until[from] = begin.Add(guessEvery)
	return g.until[from].Sub(now) > (guessBurst-1)*guessEvery
}
