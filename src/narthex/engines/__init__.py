"""Programs that serve models. Each engine is a module with the same names."""
