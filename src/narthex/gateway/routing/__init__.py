"""Which offer answers a request: what there is, what it needs, and what the policy says of it."""
