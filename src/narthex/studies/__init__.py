"""Studies: trials in search of a profile."""
