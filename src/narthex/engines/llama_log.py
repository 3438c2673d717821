"""Reading what llama-server prints while it loads: buffers, layers, context, flash attention, placement.

Builds of several years are understood; what a build doesn't print stays ``None``. Lines may carry a prefix
(``0.01.274.796 I``) or none, and two threads may write into one line, so patterns are searched, not matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from narthex.engines._base import DeviceBuffers, LoadReport
from narthex.units import MIB

# «load_tensors: CUDA0 model buffer size = 4155.99 MiB», «llm_load_tensors: CUDA0 buffer size = …» (2024),
# «llama_kv_cache: RPC0[127.0.0.1:50052] KV buffer size = …»
_BUFFER = re.compile(
    r"(?P<function>\w+):\s+(?P<buffer>\S+)\s+"
    r"(?:(?P<kind>model|KV|RS|DSV4 .*state|compute|output|LoRA)\s+)?buffer size =\s*(?P<mib>[\d.]+) MiB"
)
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_VALUE = re.compile(r"\b(n_seq_max|n_ctx|n_ctx_seq|n_ctx_per_seq|n_ubatch|flash_attn)\s+= (\w+)")
_SLOT = re.compile(r"n_ctx_slot = (\d+)")
_FLASH = re.compile(r"Flash Attention (?:was auto, set to )?(enabled|disabled|not supported)")
_FIT = re.compile(
    r"(?:common_params_fit_impl|llama_params_fit_impl|common_fit_params|llama_params_fit): (.*)"
)
_FIT_TELLS = re.compile(
    r"no changes needed|cannot meet free memory|context size reduced|failed to fit|successfully fit"
    r"|encountered an error|^\s*- .*layers"
)
_NEW_MODEL = re.compile(r"loaded meta data with|loading model tensors")
_NEW_CONTEXT = re.compile(
    r"constructing llama_context|llama_(?:new_context_with|init_from)_model: n_(?:seq_max|ctx)\s"
)

_TERMS = {"model": "model", "KV": "context", "RS": "context", "compute": "compute", None: "model"}
_TRUE = {"enabled", "1", "on"}
_FALSE = {"disabled", "0", "off", "not supported"}


def parse_load(lines: Iterable[str]) -> LoadReport:
    """The report of the last load in these lines.

    Some builds measure the placement with a dry run that prints the same lines first: each new model or
    context forgets what the one before it printed. ``output`` buffers are not counted: the engine's own
    memory table leaves them out of «compute» too, and the figures must be comparable with it.
    """
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return reader.report()


def device_of(buffer: str) -> str:
    """``CUDA0`` for itself, ``RPC0`` for ``RPC0[127.0.0.1:50052]``, ``Host`` for every kind of main memory
    (``CPU``, ``CPU_Mapped``, ``CPU_REPACK``, ``AMX``, ``CUDA_Host``, ``Vulkan_Host``…)."""
    name = buffer.partition("[")[0]
    if name.startswith(("CPU", "AMX", "BLAS")) or name.endswith("_Host"):
        return "Host"
    return name.removesuffix("_Split").removesuffix("_Private").removesuffix("_Mapped")


class _Reader:
    def __init__(self) -> None:
        self.sizes: dict[tuple[str, str], dict[str, float]] = {}  # (device, term) → buffer → MiB
        self.values: dict[str, str] = {}
        self.offloaded: tuple[int, int] | None = None
        self.slot: int | None = None
        self.flash: bool | None = None
        self.fit: list[str] = []

    def read(self, line: str) -> None:
        if _NEW_MODEL.search(line):
            self._forget("model", "context", "compute")
        elif _NEW_CONTEXT.search(line):
            self._forget("context", "compute")
        if found := _BUFFER.search(line):
            self._buffer(found)
        elif found := _OFFLOADED.search(line):
            self.offloaded = int(found[1]), int(found[2])
        elif found := _FLASH.search(line):
            self.flash = found[1] == "enabled"
        elif found := _FIT.search(line):
            if _FIT_TELLS.search(found[1]):
                self.fit.append(found[1].strip())
        elif found := _SLOT.search(line):
            self.slot = int(found[1])
        elif found := _VALUE.search(line):
            self._value(found[1], found[2])

    def report(self) -> LoadReport:
        offloaded, total = self.offloaded or (None, None)
        return LoadReport(
            buffers=self._buffers(),
            offloaded_layers=offloaded,
            total_layers=total,
            num_ctx=self._num_ctx(),
            ubatch=self._number("n_ubatch"),
            flash_attn=self.flash,
            fit="; ".join(self.fit) or None,
        )

    def _buffer(self, found: re.Match[str]) -> None:
        kind, buffer, mib = found["kind"], found["buffer"], float(found["mib"])
        term = "context" if kind and kind.startswith("DSV4") else _TERMS.get(kind)
        if term is None:
            return
        sizes = self.sizes.setdefault((device_of(buffer), term), {})
        if term == "compute":  # a second reservation replaces the first
            sizes[buffer] = mib
        else:  # sliding-window models print a set for each kind of layer, split files a line for each file
            sizes[buffer] = sizes.get(buffer, 0.0) + mib

    def _value(self, name: str, value: str) -> None:
        if name != "flash_attn":
            self.values[name] = value
        elif value in _TRUE | _FALSE:
            self.flash = value in _TRUE

    def _forget(self, *terms: str) -> None:
        self.sizes = {key: sizes for key, sizes in self.sizes.items() if key[1] not in terms}

    def _buffers(self) -> tuple[DeviceBuffers, ...]:
        devices = sorted({device for device, _ in self.sizes}, key=lambda name: (name == "Host", name))
        return tuple(
            DeviceBuffers(
                device=device,
                model_bytes=self._bytes(device, "model"),
                context_bytes=self._bytes(device, "context"),
                compute_bytes=self._bytes(device, "compute"),
            )
            for device in devices
        )

    def _bytes(self, device: str, term: str) -> int:
        return round(sum(self.sizes.get((device, term), {}).values()) * MIB)

    def _number(self, name: str) -> int | None:
        value = self.values.get(name, "")
        return int(value) if value.isdecimal() else None

    def _num_ctx(self) -> int | None:
        """Of one slot: as told, or the whole context over the number of sequences."""
        told = self.slot or self._number("n_ctx_seq") or self._number("n_ctx_per_seq")
        whole = self._number("n_ctx")
        return told or (whole // (self._number("n_seq_max") or 1) if whole else None)
