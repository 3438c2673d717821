"""Hold all but so many MiB of a GPU, so that an engine meets a smaller card. Needs PyTorch.

    python bench/hold_card.py 20475

It holds the memory until it is ended. What is left before an engine starts is printed.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

MIB = 2**20


def main() -> None:
    """Allocate, tell, and wait."""
    keep = int(sys.argv[1]) * MIB
    torch: Any = importlib.import_module("torch")
    free, _ = torch.cuda.mem_get_info()
    block = torch.empty(free - keep, dtype=torch.uint8, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    print(f"{free // MIB} MiB are left; {block.nbytes // MIB} MiB are held", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
