"""Trials: one run of one setting, measured; always ends in data."""
