"""``Profile``: a settled answer, and what it was true of."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.knobs import KnobValues
from narthex.trials.trial import ModelRef, Turn


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with the verdict that justifies them. ``proven`` means: survived its soak."""

    name: str
    model: ModelRef
    engine_kind: str
    engine_key: str
    engine_build: str
    engine_args: tuple[str, ...] = ()  # given to every start beside the knobs, e.g. --rpc 127.0.0.1:50052
    host_key: str
    gpu: str | None  # the card's name; None on a CPU
    driver: str | None
    goal: str
    knobs: KnobValues
    turn: Turn
    workload: str = "chat"
    repeats: int = 3
    turn_s: float | None
    decode_tps: float | None
    prompt_tps: float | None
    soak_s: float = 0.0
    proven: bool = False
    demo: bool = False
    verdict: str = ""  # one sentence: why this setting, and what limits it
    study: str | None = None
    reserve_bytes: int = 0
    vram_peak_bytes: int | None = None
    created_at: float = 0.0  # seconds since the epoch
    verified_at: float | None = None  # the last `profile verify`; None: never
    verified: bool | None = None  # how that one ended
    server_url: str | None = None  # of the Ollama that was named by --ollama; None: found as any command does
    base_parameters: dict[str, Any] = {}  # the model's own PARAMETERs in Ollama, when this was measured
    applied_as: str | None = None  # the tuned model in Ollama that `narthex apply` made of it
    applied_to: str | None = None  # that server's URL
    applied_digest: str | None = None  # of the tuned model's manifest: what is taken back is what was made
