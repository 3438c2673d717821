"""Signs that several rules look at, by the program that prints them."""

from __future__ import annotations

from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel, llama, ollama

MODULES = (ollama, llama, kernel, cuda)
SHARED: tuple[Sign, ...] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Sign)
)
