"""Model files: what a GGUF header says, without reading the weights."""
