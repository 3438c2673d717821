"""llama-server: find it, ask it, start it, read it, explain its end.

The engine module that others call. Each step has a file of its own beside it: ``llama_find`` (where binaries
lie), ``llama_probe`` (what one is), ``llama_arguments`` (knobs to flags), ``llama_launch`` (start to ready),
``llama_running`` (ready to end), ``llama_log`` (its load report), ``llama_exit`` (why it ended).
"""

from __future__ import annotations

from narthex.engines.llama_arguments import arguments, knob_arguments
from narthex.engines.llama_exit import explain_exit
from narthex.engines.llama_find import find_engine, find_engines, survey
from narthex.engines.llama_launch import launch
from narthex.engines.llama_log import parse_load
from narthex.engines.llama_probe import probe
from narthex.engines.llama_running import LlamaServer

__all__ = [
    "LlamaServer",
    "arguments",
    "explain_exit",
    "find_engine",
    "find_engines",
    "knob_arguments",
    "launch",
    "parse_load",
    "probe",
    "survey",
]
