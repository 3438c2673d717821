"""What a runner holds, from its «buffer size» lines, counted as era F counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

MIB = 2**20
_BUFFER = re.compile(
    r"(\w+):\s+(\S+)\s+(?:(model|KV|RS|compute|output|LoRA)\s+)?buffer size\s*=\s*([\d.]+) MiB"
)
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_OVERFLOWING = re.compile(r"(\d+) overflowing")


@dataclass
class Buffers:
    """Bytes by (function, device, kind). A later line replaces an earlier one with the same key, so that of
    two caches (sliding window and full) only the second counts: Ollama's own under-count."""

    sizes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    offloaded: tuple[int, int] = (0, 0)
    overflowing: bool = False

    @property
    def on_gpu(self) -> int:
        """``size_vram``: every buffer whose device is no name for main memory."""
        return sum(size for (_, device, _), size in self.sizes.items() if not _in_main_memory(device))

    @property
    def whole(self) -> bool:
        """Whether every layer is said to be on the device."""
        done, total = self.offloaded
        return 0 < total <= done and not self.overflowing

    def by_device(self, kind: str) -> dict[str, int]:
        """Bytes of one kind (``model``, ``KV``, ``compute``) on each device."""
        found: dict[str, int] = {}
        for (_, device, of), size in self.sizes.items():
            if of == kind:
                found[device] = found.get(device, 0) + size
        return found

    def size(self, file_bytes: int | None) -> int:
        """All of it; equal to ``on_gpu`` where every layer is on the device.

        A mapped file is counted whole although parts of it went to the device; since 0.30.11 weights are
        trimmed to the size of the file. ``file_bytes`` None leaves that out.
        """
        if self.whole:
            return self.on_gpu
        weights = {d: n for (_, d, kind), n in self.sizes.items() if kind == "model" and d != "CPU_REPACK"}
        mapped = any(device.endswith("_Mapped") for device in weights)
        excess = sum(weights.values()) - file_bytes if mapped and file_bytes is not None else 0
        return sum(self.sizes.values()) - max(excess, 0)


def read_buffers(lines: Iterable[str]) -> Buffers:
    """From the runner's lines."""
    found = Buffers()
    for line in lines:
        if match := _BUFFER.search(line):
            found.sizes[match[1], match[2], match[3] or ""] = int(float(match[4]) * MIB)
        elif match := _OFFLOADED.search(line):
            found.offloaded = (int(match[1]), int(match[2]))
        elif match := _OVERFLOWING.search(line):
            found.overflowing = found.overflowing or int(match[1]) > 0
    return found


def _in_main_memory(device: str) -> bool:
    return device in ("CPU", "BLAS") or device.startswith("CPU_") or device.endswith("_Host")
