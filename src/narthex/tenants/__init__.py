"""Other programs on the same card: what they need at most, and one of their jobs running beside a soak."""
