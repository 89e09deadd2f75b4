"""Hints: how many requests at once, how large a batch, how many replicas; and a limiter that enforces the first."""
