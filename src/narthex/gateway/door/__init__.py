"""Who may come in: Host, Origin, keys, and what a request must look like."""
