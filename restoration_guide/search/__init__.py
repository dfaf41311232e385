"""Best of N: make candidates, judge them, keep the best or the input."""
