"""The machine: what it is, what it does, what it says."""
