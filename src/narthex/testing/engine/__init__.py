"""The parts of the quick fake engine: see :mod:`narthex.testing.fake_engine`.

Nothing here imports more than the standard library: a fake engine starts within some 100 ms.
"""
