"""The runner's command line, as era F writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from narthex.testing.ollama.devices import Device, Engine
from narthex.testing.ollama.gguf_info import ModelFile
from narthex.testing.ollama.options import Wanted
from narthex.testing.ollama.settings import Settings

_PREFIX = re.compile(r"^\d+\.\d+\.\d+\.\d+ [IWED] ")


@dataclass(frozen=True)
class Start:
    """How a runner is started: what was asked, after Ollama's own adjustments."""

    wanted: Wanted
    num_ctx: int
    parallel: int
    num_batch: int
    mmap_off: bool  # switched off by the scheduler, not by the request
    flash_attn: str  # "auto", "on", "off"
    kv_type: str  # "" is f16
    template: bool  # the model has a Go template, so llama-server's own is switched off


def flash_attention(settings: Settings, devices: tuple[Device, ...]) -> str:
    """``auto`` where every device can do it, unless the user says otherwise."""
    if settings.flash_attn is not None:
        return "on" if settings.flash_attn else "off"
    return "auto" if all(device.flash_attn for device in devices) else "off"


def command_line(engine: Engine, model: ModelFile, start: Start, port: int) -> list[str]:
    """Without the flags that this build does not know."""
    wanted = start.wanted
    words = ["--model", str(model.blob), "--port", str(port), "--host", "127.0.0.1"]
    words += [flag for flag in ("--no-webui", "--offline") if flag in engine.flags]
    words += ["-c", str(start.num_ctx * start.parallel), "-np", str(start.parallel), "--log-verbosity", "4"]
    words += [flag for flag in ("--no-log-prefix", "--no-log-timestamps") if flag in engine.flags]
    if start.template:
        words += ["--no-jinja", "--chat-template", "chatml"]
    if start.mmap_off or wanted.use_mmap is False:
        words += ["--load-mode", "none"] if "--load-mode" in engine.flags else ["--no-mmap"]
    if start.kv_type:
        words += ["--cache-type-k", start.kv_type, "--cache-type-v", start.kv_type]
    words += ["--flash-attn", start.flash_attn]
    if start.num_batch > 0:
        words += ["-b", str(start.num_batch), "-ub", str(start.num_batch)]
    if wanted.num_gpu >= 0:
        words += ["-ngl", str(wanted.num_gpu)]
    if wanted.main_gpu is not None:
        words += ["--split-mode", "none", "--main-gpu", str(wanted.main_gpu)]
    if wanted.num_thread > 0:
        words += ["-t", str(wanted.num_thread)]
    if model.embedding:
        words += ["--embedding"]
    if wanted.shift:
        words += ["--context-shift", "--keep", str(wanted.sampling["num_keep"])]
    return [str(engine.path), *words]


def without_prefix(line: str) -> str:
    """A build that knows no ``--no-log-prefix`` puts a time and a letter before each line."""
    return _PREFIX.sub("", line)
