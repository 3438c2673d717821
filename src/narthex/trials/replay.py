"""``ReplayRunner``: answers trials from a recording, so that a study can be run without an engine.

A recording holds speeds for a grid of settings, the settings that failed with their error text, and what
the engine's own placement did (``engine_default``). Only what was recorded can be asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from narthex.engines._base import Failure, LoadReport
from narthex.errors import UsageError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.trials.observation import Observation, TurnTiming
from narthex.trials.trial import Trial, Turn, Watch
from narthex.units import MIB

Flash = bool | str  # recorded as true and false; other recorders may write «on», «off»

_OFFLOADED = re.compile(r"(\d+)\s*/\s*(\d+)")
_MEMORY = re.compile(r"out ?of ?(device ?)?memory|failed to allocate|cannot allocate memory", re.IGNORECASE)
_BUFFER = re.compile(r"compute (pp |tg )?buffers?|kv cache|model buffer|load model|tensor", re.IGNORECASE)
_ASKED_MIB = re.compile(r"allocating (\d+(?:\.\d+)?) MiB")
_ASKED_BYTES = re.compile(r"(?:of size|allocate) (\d{6,})")
_LAYERS_ARGUMENT = re.compile(r"(?:-ngl|--n-gpu-layers|--gpu-layers)[ =](-?\d+)")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measured setting at one context depth (tokens); speeds in tokens/s."""

    gpu_layers: int
    ubatch: int
    kv_type: str = "f16"
    flash_attn: Flash = True
    depth: int = 0
    prompt_tps: float
    decode_tps: float


class RecordedFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An error text and the settings that it covers: every combination of what is listed."""

    gpu_layers: int | tuple[int, ...]
    kv_type: str | tuple[str, ...] = "f16"
    flash_attn: Flash | tuple[Flash, ...] = True
    ubatches: int | tuple[int, ...] = ()
    depths: int | tuple[int, ...] = ()
    completed: int = 0
    exit_code: int | None = None
    stderr_tail: str = ""

    def covers(self, knobs: KnobValues, depth: int) -> bool:
        """Whether this failure stands for a setting at a depth."""
        return (
            knobs.gpu_layers in _many(self.gpu_layers)
            and knobs.ubatch in _many(self.ubatches)
            and knobs.kv_type in _many(self.kv_type)
            and knobs.flash_attn in {flash_word(value) for value in _many(self.flash_attn)}
            and depth in _many(self.depths)
        )

    def settings(self) -> list[tuple[int, int, str, str]]:
        """All that it covers at any depth: (gpu_layers, ubatch, kv_type, flash_attn)."""
        return [
            (layers, ubatch, kv_type, flash_word(flash))
            for layers in _many(self.gpu_layers)
            for ubatch in _many(self.ubatches)
            for kv_type in _many(self.kv_type)
            for flash in _many(self.flash_attn)
        ]

    def has_depth(self, depth: int) -> bool:
        """Whether it says anything about a depth."""
        return depth in _many(self.depths)

    def explain(self) -> Failure:
        """The failure with the line that proves it: the first one that speaks of memory, as the later
        ones only repeat it in the words of the program around."""
        lines = [line.strip() for line in self.stderr_tail.splitlines() if line.strip()]
        sizes = [_bytes_asked(line) for line in lines if _MEMORY.search(line)]
        for line in lines:
            if _MEMORY.search(line):
                requested = next((size for size in sizes if size), None)
                whole = " | ".join(dict.fromkeys((line, _most_telling(lines) or line)))
                return Failure(outcome=Outcome.OUT_OF_MEMORY, line=whole, requested_bytes=requested)
        from narthex.engines.llama_server import explain_exit

        return explain_exit(lines, self.exit_code, loaded=False)


class EngineDefault(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's own placement chose at one context length, and how fast it was."""

    ctx: int
    args: str = ""
    offloaded: str | None = None
    prompt_tps: float | None = None
    decode_tps: float | None = None

    def layers(self, all_layers: int) -> int | None:
        """Layers on the GPU, output layer counted; None where the recording does not tell."""
        if self.offloaded and (found := _OFFLOADED.search(self.offloaded)):
            return int(found[1])
        if found := _LAYERS_ARGUMENT.search(self.args):
            count = int(found[1])
            return all_layers if count < 0 else min(count, all_layers)
        return None


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A recording file. Only ``model`` and ``points`` must be there; what is unknown may be null."""

    model: str
    points: tuple[Point, ...]
    engine: str = "recorded engine"
    gpu: str | None = None
    gpu_free_mib: float | None = None
    cpu_threads: int | None = None
    prompt_tokens: int = 512
    engine_default: tuple[EngineDefault, ...] | None = ()
    failures: tuple[RecordedFailure, ...] | None = ()
    path: str = ""

    @property
    def all_layers(self) -> int:
        """The largest layer count seen: everything on the GPU, output layer counted."""
        counts = [point.gpu_layers for point in self.points]
        counts += [setting[0] for failure in self.failures or () for setting in failure.settings()]
        for entry in self.engine_default or ():
            if entry.offloaded and (found := _OFFLOADED.search(entry.offloaded)):
                counts.append(int(found[2]))
        return max(counts, default=0)

    @property
    def depths(self) -> list[int]:
        """Context depths that hold points."""
        return sorted({point.depth for point in self.points})

    def knobs(self, setting: tuple[int, int, str, str], num_ctx: int) -> KnobValues:
        """A recorded setting as knob values. The recorder's logical batch was 2048, or the micro-batch."""
        layers, ubatch, kv_type, flash = setting
        return KnobValues(
            num_ctx=num_ctx,
            gpu_layers=layers,
            batch=max(2048, ubatch),
            ubatch=ubatch,
            kv_type=kv_type,
            flash_attn=flash,
            threads=self.cpu_threads,
        )

    def placement(self, num_ctx: int) -> EngineDefault | None:
        """The engine's own placement with the smallest context that is large enough and has a speed."""
        timed = [
            entry
            for entry in self.engine_default or ()
            if entry.ctx >= num_ctx and entry.prompt_tps and entry.decode_tps
        ]
        return min(timed, key=lambda entry: entry.ctx, default=None)

    def settings(self, depth: int) -> list[tuple[int, int, str, str]]:
        """Every setting that can be asked for at a depth, measured or failed, without a repeat."""
        found = {setting_of(point): None for point in self.points if point.depth == depth}
        for failure in self.failures or ():
            if failure.has_depth(depth):
                found.update(dict.fromkeys(failure.settings()))
        return list(found)


def read_recording(path: Path) -> Recording:
    """Read a recording file. Raises UsageError with one clear sentence where it is none."""
    hint = "A recording is JSON with «model», «points» (settings, depth, speeds) and «failures»."
    try:
        body = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The recording {path} can't be read: {error.strerror}.", hint="Check the path."
        ) from error
    try:
        recording = msgspec.json.decode(body, type=Recording)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a recording: {error}.", hint=hint) from error
    if any(
        point.prompt_tps <= 0 or point.decode_tps <= 0 or point.gpu_layers < 0 for point in recording.points
    ):
        raise UsageError(f"{path} is not a recording: a point has a speed that is not above 0.", hint=hint)
    return msgspec.structs.replace(recording, path=str(path))


class ReplayRunner:
    """A :class:`~narthex.trials.trial.Runner` over one recording.

    A load is counted the first time that a setting is asked for; repeats of a point, and the engine's own
    placement, cost none.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._asked: set[KnobValues] = set()
        self._points = {(setting_of(point), point.depth): point for point in recording.points}

    def run(self, trial: Trial, watch: Watch) -> Observation:
        """The recorded answer. A setting that was never measured is UNSUPPORTED_SETTING, and no load."""
        watch("replaying", None)
        knobs = trial.knobs
        if knobs.gpu_layers is None:
            return self._engine_default(trial)
        setting = (knobs.gpu_layers, knobs.ubatch, knobs.kv_type, knobs.flash_attn)
        first = knobs not in self._asked
        if point := self._points.get((setting, trial.turn.depth)):
            self._asked.add(knobs)
            timing = turn_timing(trial.turn, point.prompt_tps, point.decode_tps)
            return Observation(outcome=Outcome.DONE, reason="recorded", turns=(timing,), counts_as_load=first)
        for recorded in self.recording.failures or ():
            if recorded.covers(knobs, trial.turn.depth):
                self._asked.add(knobs)
                failure = recorded.explain()
                return Observation(
                    outcome=failure.outcome,
                    reason=failure.line,
                    requested_bytes=failure.requested_bytes,
                    counts_as_load=first,
                )
        return Observation(
            outcome=Outcome.UNSUPPORTED_SETTING,
            reason=f"the recording has no point for {knobs.describe()} at depth {trial.turn.depth}",
            counts_as_load=False,
        )

    def _engine_default(self, trial: Trial) -> Observation:
        entry = self.recording.placement(trial.knobs.num_ctx)
        if entry is None:
            return Observation(
                outcome=Outcome.UNSUPPORTED_SETTING,
                reason="the recording has no speed of the engine's own placement for this context",
                counts_as_load=False,
            )
        assert entry.prompt_tps
        assert entry.decode_tps
        total = self.recording.all_layers
        report = LoadReport(
            offloaded_layers=entry.layers(total), total_layers=total, num_ctx=entry.ctx, fit=entry.args
        )
        return Observation(
            outcome=Outcome.DONE,
            reason=f"recorded: {entry.offloaded or entry.args}",
            turns=(turn_timing(trial.turn, entry.prompt_tps, entry.decode_tps),),
            report=report,
            counts_as_load=False,
            doubts=("one short request in the server; the other points are from the benchmark program",),
        )


def turn_timing(turn: Turn, prompt_tps: float, decode_tps: float) -> TurnTiming:
    """A turn from two speeds: ``prompt_tokens / prompt_tps + generate / decode_tps`` seconds."""
    prompt_s = turn.prompt_tokens / prompt_tps
    return TurnTiming(
        depth=turn.depth,
        prompt_tokens=turn.prompt_tokens,
        generated=turn.generate,
        ttft_s=prompt_s,
        prompt_tps=prompt_tps,
        decode_tps=decode_tps,
        turn_s=prompt_s + turn.generate / decode_tps,
    )


def setting_of(point: Point) -> tuple[int, int, str, str]:
    """(gpu_layers, ubatch, kv_type, flash_attn) of a point."""
    return point.gpu_layers, point.ubatch, point.kv_type, flash_word(point.flash_attn)


def flash_word(flash: Flash) -> str:
    """The knob's word for what a recorder wrote."""
    if isinstance(flash, str):
        return {"1": "on", "0": "off"}.get(flash.lower(), flash.lower())
    return "on" if flash else "off"


def _most_telling(lines: list[str]) -> str | None:
    """The line that names which buffer it was."""
    return next((line for line in lines if _BUFFER.search(line)), None)


def _bytes_asked(line: str) -> int | None:
    if found := _ASKED_MIB.search(line):
        return int(float(found[1]) * MIB)
    return int(found[1]) if (found := _ASKED_BYTES.search(line)) else None


def _many(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
