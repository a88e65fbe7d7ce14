package service

import (
	"slices"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Accept is a warning that is meant so: it is a note to everybody, and no longer something that wants a person. What does
// not go on by itself cannot be accepted.
type Accept struct {
	Code    trouble.Code
	Subject string // with * and ? as wildcards
}

// Accepts says whether a warning about something, which may have more than one name, is among those that are accepted.
func Accepts(list []Accept, code trouble.Code, names ...string) bool {
	return slices.ContainsFunc(list, func(a Accept) bool {
		return a.Code == code && slices.ContainsFunc(names, func(name string) bool { return config.Fits(a.Subject, name) })
	})
}

// Accepted takes from needs those that are accepted.
func Accepted(needs []Need, list []Accept) (left, accepted []Need) {
	left, accepted = make([]Need, 0, len(needs)), []Need{}
	for _, n := range needs {
		if !n.Urgent && Accepts(list, n.Code, n.Subject) {
			accepted = append(accepted, n)
		} else {
			left = append(left, n)
		}
	}
	return left, accepted
}
