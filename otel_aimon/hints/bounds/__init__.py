"""Bounds on concurrency: each is the most that one resource or promise allows."""
