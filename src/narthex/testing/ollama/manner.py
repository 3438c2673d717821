"""``Manner``: what differs between the releases of Ollama, as far as the fake can show it."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30


def numbers(version: str) -> tuple[int, int, int]:
    """``0.33.0-rc2`` → (0, 33, 0). A self-built one says 0.0.0 and counts as the newest."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    parts = (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)
    return parts if any(parts) else (999, 0, 0)


@dataclass(frozen=True)
class Manner:
    """One release. Version limits are first tags with the change; see the facts on Ollama's releases."""

    version: str

    def since(self, *version: int) -> bool:
        """Whether this release is that one or newer."""
        return numbers(self.version) >= (*version, 0, 0)[:3]

    @property
    def era(self) -> str:
        """``A`` … ``F``: what computes, and where the memory figures come from."""
        limits = ((0, 30, 0, "F"), (0, 11, 5, "E"), (0, 5, 8, "D"), (0, 4, 0, "C"), (0, 1, 32, "B"))
        return next((letter for *version, letter in limits if self.since(*map(int, version))), "A")

    def default_ctx(self, vram_bytes: int) -> int:
        """``num_ctx`` where nobody gives one."""
        if not self.since(0, 6, 7):
            return 2048
        if not self.since(0, 15, 5):
            return 4096
        return 262144 if vram_bytes >= 47 * GIB else 32768 if vram_bytes >= 23 * GIB else 4096

    @property
    def default_parallel(self) -> int:
        """Slots where OLLAMA_NUM_PARALLEL is not set (before 0.10.0 fewer where memory is short)."""
        if self.since(0, 10, 0) or not self.since(0, 2, 0):
            return 1
        return 2 if self.since(0, 6, 7) else 4

    def automatic_batch(self, total_ctx: int, predicted: int, free: int) -> int:
        """``num_batch`` where nobody gives one; ``free`` 0 on a machine without a GPU."""
        if self.era != "F":
            return 512
        size = 512 if total_ctx <= 4096 else 1024 if total_ctx <= 32768 else 2048
        surcharge, share = {1024: 768 * 2**20, 2048: 2 * GIB}, {1024: 0.75, 2048: 0.6}
        while size > 512 and free:
            if predicted + surcharge[size] <= 0.8 * free and predicted <= share[size] * free:
                break
            size //= 2
        return size
