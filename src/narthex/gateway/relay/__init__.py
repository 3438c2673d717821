"""Forwards one request to an engine, and its answer as bytes to the client."""
