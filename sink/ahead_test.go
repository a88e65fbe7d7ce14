package sink

// The tests of this directory look ahead wherever there are two records to look at.
func init() { leastAhead = 2 }
