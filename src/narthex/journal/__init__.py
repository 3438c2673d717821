"""The record of everything: append-only SQLite."""
