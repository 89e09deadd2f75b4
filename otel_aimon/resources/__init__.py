"""What the process, its container, its host and its accelerators use of what they have."""
