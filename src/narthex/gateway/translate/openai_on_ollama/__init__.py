"""OpenAI's API on Ollama's own, where a setting travels with each request."""
