"""The records of a study: its question, its steps, its answer.

A strategy is a pure function of these (``propose(question, space, history)``), so a study that was cut off
goes on by reading its trials from the journal.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from narthex.knobs import KnobValues
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, TrialRecord, Turn


class Goal(StrEnum):
    """What «best» means."""

    FASTEST = "fastest"  # least turn time with at least the context asked for
    LONGEST = "longest"  # most context with at least the speed asked for
    BALANCED = "balanced"  # the knee of the Pareto front of turn time and context


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is asked. With the model, engine and host keys it makes the study's identity."""

    goal: Goal = Goal.BALANCED
    min_ctx: int | None = None  # tokens a slot that the answer must have
    min_decode_tps: float | None = None  # for LONGEST
    parallel: int = 1
    allow_kv: tuple[str, ...] = ("f16", "q8_0")
    reserve_bytes: int | None = None  # None: the planner's default
    backoff_order: tuple[str, ...] = ("num_ctx", "gpu_layers", "batch")
    turn: Turn = Turn()
    workload: str = "chat"
    repeats: int = 3
    soak_s: float = 150.0
    max_loads: int | None = None
    strategy: str = "guided"
    seed: int = 0
    demo: bool = False
    pins: dict[str, Any] = {}  # knobs that the user has fixed: name → value
    current: KnobValues | None = None  # what the user says that they run now
    budget_s: float | None = None  # no new load of the search is begun after this much time
    grow: str = ""  # "ctx": after the proof the context rises a step at a time, each one soaked
    beside: str = ""  # the tenant that works on the same card while it soaks, by name


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """One of "current", "house", "engine": measured like every other setting."""

    name: str
    knobs: KnobValues
    record: TrialRecord | None  # None where it could not be run at all; `why` tells
    why: str = ""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """The next setting to try, with the reason and what is expected of it."""

    knobs: KnobValues
    why: str
    expected_turn_s: float | None = None


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing left is worth a load."""

    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the study with its reason: what was chosen, backed off, confirmed, or refused."""

    sequence: int
    kind: str  # "try", "backoff", "stop", "confirm", "tie", "soak", "recommend", "refuse", "resume",
    # "skip", "grow", "down"
    text: str
    evidence: str = ""
    knobs: KnobValues | None = None


class ServerProposal(msgspec.Struct, frozen=True, kw_only=True):
    """A server-wide setting that should help, and by how much. All figures are predictions.

    ``gain``: how many times better, of what ``gain_of`` names: a turn so many times as fast, so many times
    the context. None where it is no matter of speed. ``over`` is what it is compared with.
    """

    factor: str  # "kv_type", "flash_attn", "parallel", "fit_target", "num_ctx", "keep_alive", "cache_ram"
    env: dict[str, str]  # variables of the server's environment
    fixed: dict[str, Any] = {}  # knobs that the server fixes under it
    knobs: KnobValues | None = None  # the best setting under it
    turn_s: float | None = None
    over: str
    over_turn_s: float | None = None
    over_ctx: int | None = None
    gain: float | None = None
    gain_of: Literal["turn", "context", "first turn", "memory"] = "turn"
    why: str
    cost: str

    @property
    def words(self) -> str:
        """The variables as one writes them: ``OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1``."""
        return " ".join(f"{name}={value}" for name, value in self.env.items())


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: the source of ``tune --json``, of the table and of the report.

    ``extra`` may hold ``limits`` (what limits the winner, a sentence), ``devices`` (the
    :class:`narthex.memory.plan.Device` records that the study planned for, as plain values),
    ``house_ratio`` (turn time of the house defaults over the winner's) and ``server_level`` (a list of
    :class:`ServerProposal`, as plain values).
    """

    study: str
    question: Question
    model: ModelRef | None
    engine: str
    host: str
    engine_loads: int
    seconds: float
    started_at: float
    baselines: tuple[Baseline, ...]
    trials: tuple[TrialRecord, ...]
    decisions: tuple[Decision, ...]
    chosen: KnobValues | None  # the winner; None: nothing is recommended
    profile: str | None  # its stored name; None in a replay
    verdict: str
    tie: bool = False
    soaks: tuple[SoakReport, ...] = ()
    soaked_knobs: tuple[KnobValues, ...] = ()  # one for each soak
    finished: bool = True
    extra: dict[str, Any] = {}
