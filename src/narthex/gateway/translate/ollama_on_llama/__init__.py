"""Ollama's API on a llama-server, which speaks OpenAI's and its own."""
