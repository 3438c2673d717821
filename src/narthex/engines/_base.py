"""What an engine is to the rest of narthex: records, and the shape of a running one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from narthex.host.facts import CardsBefore
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome

_OVERFLOWING = re.compile(r"\(\s*(\d+) overflowing\)")


class EngineDevice(msgspec.Struct, frozen=True):
    """A device as the engine itself lists it (``CUDA0``, ``Vulkan0``, ``RPC0``)."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int


LOGITS_FOR_SLOTS = "logits-for-slots"
"""A trait of an engine: its server works out logits for its slots only, not for each prompt token."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can't be asked for with one load.

    ``fixed`` holds knobs that are the same for every load, with the value they have. For each of them ``why``
    tells in a clause how it got that («OLLAMA_KV_CACHE_TYPE is q8_0 on the server»), and ``variables`` what
    would change it: a variable of the server's environment.
    """

    fixed: dict[str, Any] = {}
    why: dict[str, str] = {}
    variables: dict[str, str] = {}
    one_batch: bool = False  # batch and micro-batch are one value


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was found and probed.

    ``key`` names build, server-wide settings and devices: a profile or a calibration belongs to it.
    """

    kind: str  # "llama-server", "ollama"
    path: str  # the program; for a server that narthex does not start, its URL
    source: str  # "flag", "environment", "PATH", "ollama", "wheel", "container", …
    build: str  # "b11434", or what --version says where it has no build number
    variant: str = ""  # settings of the whole server that change speed or memory: "kv=q8_0 slots=4"
    limits: Limits = Limits()
    flags: frozenset[str] = frozenset()
    traits: frozenset[str] = frozenset()  # what flags mean in this build; see engines.llama_probe
    devices: tuple[EngineDevice, ...]
    fit_params: str | None = None  # llama-fit-params beside it
    extra_args: tuple[str, ...] = ()  # given to every start, e.g. --rpc 127.0.0.1:50052
    env: dict[str, str] = {}
    gaps: tuple[str, ...] = ()

    @property
    def outputs(self) -> Literal["every", "slots"]:
        """Whether it works out logits for every token of a micro-batch or for its slots only, as far as that
        is known before a load."""
        return "slots" if LOGITS_FOR_SLOTS in self.traits else "every"

    @property
    def key(self) -> str:
        """``llama-server b11434 CUDA0=NVIDIA H100``: build and devices, no sizes."""
        devices = ",".join(f"{device.name}={device.description}" for device in self.devices) or "CPU"
        return " ".join(word for word in (self.kind, self.build, self.variant, devices) if word)


class DeviceBuffers(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine said that it allocated on one device, from its own log lines."""

    device: str  # "CUDA0"; "Host" sums every buffer in main memory
    model_bytes: int = 0
    context_bytes: int = 0  # KV cache and recurrent state
    compute_bytes: int = 0


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's log said while it loaded. ``None`` where the build prints no such line."""

    buffers: tuple[DeviceBuffers, ...] = ()
    coarse: bool = False  # the buffers' sizes were told with one decimal of their unit: "7.6 GiB"
    offloaded_layers: int | None = None  # output layer counted
    total_layers: int | None = None
    num_ctx: int | None = None  # of one slot
    ubatch: int | None = None
    flash_attn: bool | None = None
    fit: str | None = None  # what the engine's own placement decided, in its words
    processor: str | None = None  # as a server's own list says it: "100% GPU", "23%/77% CPU/GPU"
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


Watch = Callable[[str, float | None], None]
"""Called with a stage («loading», «waiting for Ollama») and, where known, its share done in 0…1."""


class RunningEngine(Protocol):
    """A loaded model that answers. Always used as a context manager; leaving it ends what was begun: the
    process where narthex started one, else the model in the server."""

    url: str
    wire: str  # how it is asked: a name in narthex.trials.wires.WIRES
    served_as: str  # the model's name in requests; "" where the server has only one
    options: dict[str, Any]  # what each request must carry, so that the server keeps the setting
    load_s: float
    report: LoadReport
    log_path: Path | None
    ram_cache_bytes: int  # main memory that it may fill with old prompts: growing into it is no leak

    @property
    def pid(self) -> int | None:
        """Of the process that computes; None where it can't be seen from here."""
        ...

    @property
    def cards_before(self) -> CardsBefore | None:
        """The GPUs before the start, for the sampler; None where the engine uses none of this machine."""
        ...

    def alive(self) -> bool:
        """Whether the process still runs."""
        ...

    def failure(self) -> Failure | None:
        """Why it ended, once it is no longer alive."""
        ...

    def explain(self, outcome: Outcome, words: str, *, lost: bool) -> Failure:
        """Why a request failed. ``outcome`` and ``words`` are what the client saw; ``lost``: the connection
        ended early. The engine's log may know better."""
        ...

    def tail(self, lines: int = 40) -> list[str]:
        """The newest lines of its output."""
        ...

    def disturbed(self) -> str | None:
        """What others did to it meanwhile, as loading it anew; None where nothing was seen, or nobody can."""
        ...

    def stop(self) -> StopReport:
        """Gently, then firmly; returns once its memory is free. Safe to call twice."""
        ...

    def __enter__(self) -> RunningEngine: ...

    def __exit__(self, *exc: object) -> None: ...


class Loader(Protocol):
    """Loads one model with one setting after the other: what a trial needs of an engine."""

    engine: Engine

    def load(self, knobs: KnobValues, watch: Watch) -> RunningEngine:
        """The model, loaded and answering. Says «loading» to ``watch`` when that really begins. Raises
        LaunchFailed."""
        ...

    def came_back(self, watch: Watch) -> bool:
        """After ``Outcome.SERVER_DOWN``: wait for the server. False where it does not come back, or where
        narthex starts the engine itself, so that there is nothing to wait for."""
        ...
