"""Short ways to build what a study needs, on a modelled machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.outcomes import Outcome
from narthex.studies.baselines import BaselineSetting
from narthex.studies.notebook import Notebook, StudyJournal
from narthex.studies.proof import Soak
from narthex.studies.records import Goal, Question, StudyResult
from narthex.studies.session import Identity
from narthex.studies.space import Candidate, Space, layer_share
from narthex.studies.study import run_study
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.modelled_runner import ModelledMachine, ModelledRunner
from narthex.testing.shapes.pieces import attention, dense, ends, metadata
from narthex.trials.observation import Observation
from narthex.trials.replay import RecordedFailure, Recording, turn_timing
from narthex.trials.trial import ModelRef, Trial, TrialRecord, Turn
from narthex.units import GIB, MIB

MODEL = ModelRef(path="toy.gguf", identity="toy", name="toy", layers=32)
IDENTITY = Identity(model=MODEL, engine="modelled", host="here")
OOM = "cudaMalloc failed: out of memory"


def knobs(layers: int | None = 33, **values: object) -> KnobValues:
    """A setting of the modelled machine."""
    return KnobValues(gpu_layers=layers, flash_attn="on", threads=16).with_(**values)


def record(
    setting: KnobValues,
    turn_s: float | None = None,
    outcome: Outcome = Outcome.OUT_OF_MEMORY,
    reason: str = OOM,
    turn: Turn | None = None,
) -> TrialRecord:
    """A finished trial: with ``turn_s`` a good one of which 5 % is the prompt, without it a failed one."""
    turn = turn or Turn()
    trial = Trial(model=MODEL, engine_key="modelled", host_key="here", knobs=setting, turn=turn)
    if turn_s is None:
        observation = Observation(outcome=outcome, reason=reason)
    else:
        timing = turn_timing(turn, turn.prompt_tokens / (0.05 * turn_s), turn.generate / (0.95 * turn_s))
        observation = Observation(outcome=Outcome.DONE, turns=(timing,))
    return TrialRecord(trial=trial, observation=observation, started_at=0.0, seconds=1.0)


def machine(**values: object) -> ModelledMachine:
    """A 33-layer model that does not quite fit an 8 GiB card at long contexts."""
    usual = ModelledMachine(all_layers=33, layer_bytes=220 * MIB, gpu_free_bytes=8 * GIB)
    return msgspec.structs.replace(usual, **values)


def space(
    modelled: ModelledMachine | None = None,
    *,
    contexts: Sequence[int] = (4096, 8192, 16384),
    ubatches: Sequence[int] = (128, 512),
    kv_types: Sequence[str] = ("f16", "q8_0"),
    layers: Sequence[int] | None = None,
    planned: bool = True,
    one_batch: bool = False,
) -> Space:
    """Every combination on a modelled machine; with its own byte counts as the plan.

    ``one_batch``: batch and micro-batch are one value, as in Ollama.
    """
    modelled = modelled or machine()
    counts = layers if layers is not None else range(modelled.all_layers + 1)
    settings = [
        knobs(count, num_ctx=ctx, batch=ubatch if one_batch else 2048, ubatch=ubatch, kv_type=kv_type)
        for count in counts
        for ctx in contexts
        for ubatch in ubatches
        for kv_type in kv_types
    ]
    return Space(
        candidates=tuple(
            Candidate(
                knobs=setting,
                cpu_share=layer_share(setting.gpu_layers or 0, modelled.all_layers),
                need_bytes=modelled.need_bytes(setting) if planned else None,
                limit_bytes=modelled.gpu_free_bytes if planned else None,
            )
            for setting in settings
            if not planned or modelled.need_bytes(setting) <= modelled.gpu_free_bytes
        ),
        all_layers=modelled.all_layers,
        min_ctx=min(contexts),
        noise_gpu=0.01,
        noise_split=0.015,
    )


def question(**values: object) -> Question:
    """Fastest with a context of 4096, no soak."""
    usual = Question(goal=Goal.FASTEST, min_ctx=4096, soak_s=0.0, max_loads=24)
    return msgspec.structs.replace(usual, **values)


def baselines(floor: int = 4096) -> tuple[BaselineSetting, ...]:
    """The engine's own placement and the house defaults."""
    house = knobs(19, num_ctx=floor, batch=256, ubatch=256)
    return (
        BaselineSetting(name="engine", knobs=KnobValues(num_ctx=floor)),
        BaselineSetting(name="house", knobs=house, repeats=1),
    )


def study(
    asked: Question,
    modelled: ModelledMachine | None = None,
    *,
    runner: ModelledRunner | None = None,
    within: Space | None = None,
    journal: StudyJournal | None = None,
    soak: Soak | None = None,
    settings: Sequence[BaselineSetting] | None = None,
) -> StudyResult:
    """A whole study on a modelled machine, against ``settings`` or else the usual baselines."""
    modelled = modelled or machine()
    return run_study(
        asked,
        within or space(modelled),
        runner or ModelledRunner(modelled),
        journal or Notebook(),
        identity=IDENTITY,
        baselines=baselines(asked.min_ctx or 4096) if settings is None else settings,
        soak=soak,
    )


def smaller_card(recording: Recording, count: int, depth: int, text: str = OOM) -> Recording:
    """A recording with its top layer counts turned into out-of-memory failures."""
    tops = sorted({p.gpu_layers for p in recording.points if p.depth == depth}, reverse=True)[:count]
    failures = tuple(
        RecordedFailure(
            gpu_layers=layers,
            kv_type=("f16", "q8_0", "q4_0"),
            flash_attn=(True, False),
            ubatches=tuple(sorted({p.ubatch for p in recording.points})),
            depths=tuple(recording.depths),
            exit_code=1,
            stderr_tail=text,
        )
        for layers in tops
    )
    return msgspec.structs.replace(
        recording,
        points=tuple(p for p in recording.points if p.gpu_layers not in tops),
        failures=(*(recording.failures or ()), *failures),
    )


def best_turn_s(recording: Recording, turn: Turn) -> float:
    """The best recorded turn time at a depth, whatever the setting."""
    return min(
        timing.turn_s
        for point in recording.points
        if point.depth == turn.depth
        and (timing := turn_timing(turn, point.prompt_tps, point.decode_tps)).turn_s is not None
    )


def dense_model(path: Path, layers: int = 16) -> Inspection:
    """A made-up Llama trained for 32768 tokens: a layer has about 416 MiB, and 4 KiB of cache a token."""
    tensors = ends(4096)
    for layer in range(layers):
        tensors += dense(f"blk.{layer}.", 4096, 14336) + attention(f"blk.{layer}.", 4096, 32, 8, 128)
    values = metadata(
        "llama",
        layers,
        4096,
        context_length=32768,
        feed_forward_length=14336,
        attention__head_count=32,
        attention__head_count_kv=8,
        rope__dimension_count=128,
    )
    return inspect_file(write_gguf(path, values, tensors))
