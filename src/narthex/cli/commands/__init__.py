"""One file a verb; each holds `command`, a click command."""
