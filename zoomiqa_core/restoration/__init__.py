"""The restoration judge: which restoration of a degraded input is better."""
