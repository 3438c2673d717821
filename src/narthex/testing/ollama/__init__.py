"""The parts of the fake Ollama: see :mod:`narthex.testing.fake_ollama`."""
