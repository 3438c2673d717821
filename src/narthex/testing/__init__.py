"""Products for tests: engines, GPUs and clocks that are real servers or real records, and contracts."""
