"""A study's result as data, for views and stores: the 32B model on a 20 GB card, with one failure."""

from __future__ import annotations

import math

from narthex.engines._base import LoadReport
from narthex.knobs import KnobValues
from narthex.memory.plan import Device
from narthex.outcomes import Outcome
from narthex.studies.records import Baseline, Decision, Goal, Question, StudyResult
from narthex.trials.observation import Observation, Peaks, TurnTiming
from narthex.trials.soak import SoakReport, SoakSample
from narthex.trials.trial import ModelRef, Trial, TrialRecord
from narthex.units import GIB, MIB

MODEL = ModelRef(
    path="/models/deepseek.gguf",
    identity="abc",
    name="DeepSeek R1 Distill Qwen 32B",
    layers=64,
    file_bytes=19_900_000_000,
)
ENGINE = "llama-server b11434 CUDA0=NVIDIA RTX 4000 Ada"
BEGAN = 1_795_348_800.0
HOUSE = KnobValues(num_ctx=4096, gpu_layers=19, batch=256, ubatch=256)
AUTO = KnobValues(num_ctx=8192, gpu_layers=None)
CHOSEN = KnobValues(
    num_ctx=8192, gpu_layers=65, batch=512, ubatch=128, kv_type="q8_0", flash_attn="on", threads=8
)
TOO_BIG = CHOSEN.with_(num_ctx=16384)
OOM_LINE = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1088.00 MiB on device 0: cudaMalloc failed"


def observation(turn_s: float, decode: float, prompt: float, *, doubts: tuple[str, ...] = ()) -> Observation:
    turns = tuple(
        TurnTiming(
            depth=3072,
            prompt_tokens=512,
            generated=256,
            ttft_s=512 / prompt,
            prompt_tps=prompt,
            decode_tps=decode,
            turn_s=turn_s * factor,
        )
        for factor in (0.99, 1.0, 1.02)
    )
    return Observation(
        outcome=Outcome.DONE,
        load_s=6.1,
        turns=turns,
        report=LoadReport(offloaded_layers=65, total_layers=65, num_ctx=8192),
        peaks=Peaks(vram_bytes=19_745 * MIB, ram_bytes=2 * GIB, temperature_c=61.0),
        doubts=doubts,
    )


def failure(outcome: Outcome = Outcome.OUT_OF_MEMORY, reason: str = OOM_LINE) -> Observation:
    return Observation(outcome=outcome, reason=reason, gaps=("power: this card does not tell",))


def record(number: int, knobs: KnobValues, seen: Observation, purpose: str = "search") -> TrialRecord:
    trial = Trial(model=MODEL, engine_key=ENGINE, host_key="host", knobs=knobs, purpose=purpose)
    return TrialRecord(
        trial=trial, observation=seen, started_at=BEGAN + 40 * number, seconds=35.0, sequence=number
    )


def soak_report(outcome: Outcome = Outcome.DONE, reason: str = "") -> SoakReport:
    samples = tuple(
        SoakSample(
            at_s=float(second),
            vram_bytes=19_700 * MIB + min(second, 60) * MIB // 2,
            ram_bytes=2 * GIB + second * 10_000,
            decode_tps=None if second % 20 < 4 else 55.0 - 3 * math.sin(second / 9),
            fill=min(0.1 + (second % 50) / 55, 0.97),
        )
        for second in range(0, 151, 2)
    )
    return SoakReport(
        outcome=outcome,
        reason=reason,
        seconds=150.0,
        turns=12,
        errors=0,
        longest_stall_s=0.4,
        fill_max=0.97,
        vram_growth_bytes=30 * MIB,
        ram_growth_bytes=2 * MIB,
        vram_slope_bytes_s=0.0,
        ram_slope_bytes_s=10_000.0,
        speed_drift=-0.012,
        samples=samples,
    )


def study_result() -> StudyResult:
    """Baselines, a search with one failure, a confirmation and a good soak."""
    records = (
        record(1, AUTO, observation(28.0, 9.7, 919.0), "baseline:engine"),
        record(2, HOUSE, observation(112.0, 2.4, 300.0), "baseline:house"),
        record(3, TOO_BIG, failure()),
        record(4, CHOSEN, observation(5.1, 54.6, 1627.0)),
        record(5, CHOSEN.with_(num_ctx=4096, kv_type="f16", ubatch=256), observation(4.5, 60.5, 2160.0)),
        record(6, CHOSEN.with_(gpu_layers=60), observation(18.0, 15.0, 1100.0)),
        record(7, CHOSEN, observation(5.0, 55.2, 1661.0, doubts=("the card was at 83 °C",)), "confirm"),
        record(8, AUTO, observation(27.6, 9.8, 921.0), "confirm"),
    )
    return StudyResult(
        study="20261122-1a2b3c",
        question=Question(goal=Goal.FASTEST, min_ctx=8192),
        model=MODEL,
        engine=ENGINE,
        host="host",
        engine_loads=8,
        seconds=372.0,
        started_at=BEGAN,
        baselines=(
            Baseline(name="engine", knobs=AUTO, record=records[0]),
            Baseline(name="house", knobs=HOUSE, record=records[1]),
            Baseline(name="current", knobs=HOUSE, record=None, why="no server runs with this model"),
        ),
        trials=records,
        decisions=(
            Decision(sequence=1, kind="try", text="All layers fit with a q8_0 cache.", knobs=CHOSEN),
            Decision(sequence=2, kind="backoff", text="ctx 16384 → 8192.", evidence=OOM_LINE, knobs=CHOSEN),
            Decision(sequence=3, kind="confirm", text="5.0 s against 27.6 s, interleaved."),
            Decision(sequence=4, kind="recommend", text="All layers on the GPU at ctx 8192.", knobs=CHOSEN),
        ),
        chosen=CHOSEN,
        profile="deepseek-32b-fastest",
        verdict="All 65 layers fit beside a q8_0 cache for 8192 tokens, so no token waits for the CPU.",
        soaks=(soak_report(),),
        soaked_knobs=(CHOSEN,),
        extra={"limits": "the card's memory bandwidth: decoding reaches 71 % of it."},
    )


CARD = (
    Device(name="CUDA0", kind="gpu", free_bytes=19_950 * MIB, total_bytes=20_475 * MIB),
    Device(name="Host", kind="host", free_bytes=64 * GIB, total_bytes=64 * GIB),
)
