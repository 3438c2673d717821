"""What a llama-server can compute on, by its own ``--list-devices``, and which flags it has."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
_DEVICE = re.compile(r"^\s+(\S+): (.*) \((\d+) MiB, (\d+) MiB free\)\s*$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_CAPABILITY = re.compile(r"Device (\d+): .*compute capability (\d+\.\d+)")
_ASK_S = 60.0


@dataclass(frozen=True)
class Device:
    """A GPU, or what passes for one."""

    name: str  # "CUDA0", "RPC0"
    description: str
    total: int
    free: int
    compute: str = "0.0"

    @property
    def library(self) -> str:
        """As the ``inference compute`` line calls it; for RPC, which Ollama does not know, the address."""
        word = self.name.rstrip("0123456789")
        return {"CUDA": "CUDA", "ROCm": "ROCm", "Vulkan": "Vulkan", "Metal": "Metal"}.get(
            word, self.description
        )

    @property
    def flash_attn(self) -> bool:
        """Whether Ollama leaves flash attention to the runner there."""
        return self.library in ("CUDA", "ROCm", "Vulkan", "Metal")


@dataclass(frozen=True)
class Engine:
    """A llama-server binary and the flags it knows."""

    path: Path
    flags: frozenset[str]

    def devices(self, env: Mapping[str, str]) -> tuple[Device, ...]:
        """What it lists with this environment."""
        text = _ask(self.path, ["--list-devices"], env)
        compute = dict(_CAPABILITY.findall(text))
        return tuple(
            Device(
                name, words, int(total) * MIB, int(free) * MIB, compute.get(name.removeprefix("CUDA"), "0.0")
            )
            for name, words, total, free in _DEVICE.findall(text)
        )


def probe(path: Path) -> Engine:
    """Ask the binary for its flags."""
    return Engine(path, frozenset(_FLAG.findall(_ask(path, ["--help"], os.environ))))


def _ask(path: Path, words: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        [str(path), *words], env=dict(env), capture_output=True, text=True, timeout=_ASK_S, check=False
    )
    return done.stdout + done.stderr


def system_memory() -> tuple[int, int, int]:
    """Total, available and free swap of this machine, in bytes."""
    words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free, swap = (
        int(words[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable", "SwapFree")
    )
    return total, free, swap
