"""Ollama: find it, ask it, load in it, read it, put back what was there."""
