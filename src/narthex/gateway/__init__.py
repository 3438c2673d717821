"""The door before the engine: roles to settings, VRAM to those who fit, failures as answers."""
