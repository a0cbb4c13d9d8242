"""The engines behind the seam, both of them real."""
