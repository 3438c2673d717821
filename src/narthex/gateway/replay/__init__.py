"""One's own request log through the scheduler again: what happened, and what another setting would do."""
