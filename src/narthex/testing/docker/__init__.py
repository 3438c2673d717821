"""The parts of the fake Docker daemon: see :mod:`narthex.testing.fake_docker`."""
