"""What the observations say: windows and sketches over them."""
