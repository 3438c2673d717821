"""Ways to choose the next trial: each a module with one `propose`."""
