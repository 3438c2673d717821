"""What an engine is to the rest of narthex: records, and the shape of a running one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import msgspec

from narthex.host.facts import CardsBefore
from narthex.outcomes import Outcome

_OVERFLOWING = re.compile(r"\(\s*(\d+) overflowing\)")


class EngineDevice(msgspec.Struct, frozen=True):
    """A device as the engine itself lists it (``CUDA0``, ``Vulkan0``, ``RPC0``)."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was found and probed.

    ``key`` names build and devices: a profile or a calibration belongs to it.
    """

    kind: str  # "llama-server"
    path: str
    source: str  # "flag", "environment", "PATH", "ollama", "wheel"
    build: str  # "b11434", or what --version says where it has no build number
    flags: frozenset[str]
    traits: frozenset[str] = frozenset()  # what flags mean in this build; see engines.llama_probe
    devices: tuple[EngineDevice, ...]
    fit_params: str | None = None  # llama-fit-params beside it
    extra_args: tuple[str, ...] = ()  # given to every start, e.g. --rpc 127.0.0.1:50052
    env: dict[str, str] = {}
    gaps: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``llama-server b11434 CUDA0=NVIDIA H100``: build and devices, no sizes."""
        devices = ",".join(f"{device.name}={device.description}" for device in self.devices) or "CPU"
        return f"{self.kind} {self.build} {devices}"


class DeviceBuffers(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine said that it allocated on one device, from its own log lines."""

    device: str  # "CUDA0"; "Host" sums every buffer in main memory
    model_bytes: int = 0
    context_bytes: int = 0  # KV cache and recurrent state
    compute_bytes: int = 0


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's log said while it loaded. ``None`` where the build prints no such line."""

    buffers: tuple[DeviceBuffers, ...] = ()
    offloaded_layers: int | None = None  # output layer counted
    total_layers: int | None = None
    num_ctx: int | None = None  # of one slot
    ubatch: int | None = None
    flash_attn: bool | None = None
    fit: str | None = None  # what the engine's own placement decided, in its words
    gaps: tuple[str, ...] = ()  # what is unknown, or was done differently from what was asked

    @property
    def splits_layers(self) -> bool:
        """Whether the engine's own placement left parts of «offloaded» layers in main memory, as it does with
        the experts of a mixture: then the layer count says neither where the bytes lie nor how many."""
        return any(int(count) for count in _OVERFLOWING.findall(self.fit or ""))


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an engine did not start, or ended: with the line that proves it."""

    outcome: Outcome
    line: str
    exit_code: int | None = None  # negative: −signal
    requested_bytes: int | None = None  # the allocation that failed, where the line tells


class StopReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine was stopped, and whether the GPU memory came back."""

    exit_code: int | None
    gentle: bool  # ended on SIGTERM, without SIGKILL
    seconds: float
    vram_back: bool | None  # None: no GPU to ask


class LaunchFailed(Exception):
    """The engine did not become ready. Carries the :class:`Failure`; runners turn it into data."""

    def __init__(self, failure: Failure, log_path: Path | None, load_s: float) -> None:
        super().__init__(failure.line)
        self.failure = failure
        self.log_path = log_path
        self.load_s = load_s


class RunningEngine(Protocol):
    """An engine process that answers. Always used as a context manager; leaving it stops the process."""

    url: str
    load_s: float
    report: LoadReport
    log_path: Path

    @property
    def pid(self) -> int:
        """Of the engine itself."""
        ...

    @property
    def cards_before(self) -> CardsBefore | None:
        """The GPUs before the start, for the sampler; None where the engine uses none."""
        ...

    def alive(self) -> bool:
        """Whether the process still runs."""
        ...

    def failure(self) -> Failure | None:
        """Why it ended, once it is no longer alive."""
        ...

    def tail(self, lines: int = 40) -> list[str]:
        """The newest lines of its output."""
        ...

    def stop(self) -> StopReport:
        """Gently, then firmly; returns once the process is gone. Safe to call twice."""
        ...

    def __enter__(self) -> RunningEngine: ...

    def __exit__(self, *exc: object) -> None: ...
