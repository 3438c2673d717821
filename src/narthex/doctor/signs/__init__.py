"""Signs that several rules look at, by the program that prints them."""

from __future__ import annotations

from narthex.doctor.sign import Sign
from narthex.doctor.signs import comfyui, cuda, harmless, kernel, llama, ollama, openwebui

MODULES = (ollama, llama, kernel, cuda, openwebui, comfyui, harmless)
SHARED: tuple[Sign, ...] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Sign)
)
