"""The hands on the world: what loads, unloads and watches, one module a backend."""
