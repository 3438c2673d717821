"""The parts of the fake ComfyUI: see :mod:`narthex.testing.fake_comfyui`."""
