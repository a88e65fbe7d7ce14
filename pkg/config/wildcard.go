package config

import "unicode/utf8"

// Fits says whether a name fits a pattern, wherever one is written: in a configuration, after a flag, in an address. *
// stands for any characters and ? for one; behind \ a character is only itself. A name fits itself.
func Fits(pattern, name string) bool {
	if pattern == name {
		return true
	}
	p, n := 0, 0
	star, taken := -1, 0 // behind the last *, and what it has taken of name up to where
	for {
		if p == len(pattern) && n == len(name) {
			return true
		}
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, taken = p, n
			continue
		}
		if wide, long, ok := fitsOne(pattern[p:], name[n:]); ok {
			p, n = p+wide, n+long
			continue
		}
		if star < 0 || taken == len(name) {
			return false
		}
		_, long := utf8.DecodeRuneInString(name[taken:])
		taken += long
		p, n = star, taken
	}
}

// fitsOne says whether the first character of name fits that of pattern, which is no *, and how long the two are.
func fitsOne(pattern, name string) (wide, long int, ok bool) {
	if pattern == "" || name == "" {
		return 0, 0, false
	}
	if pattern[0] == '?' {
		_, long = utf8.DecodeRuneInString(name)
		return 1, long, true
	}
	if pattern[0] == '\\' && len(pattern) > 1 {
		return 2, 1, pattern[1] == name[0]
	}
	return 1, 1, pattern[0] == name[0]
}
