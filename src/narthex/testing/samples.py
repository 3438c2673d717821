"""Finished records with sensible figures, for tests of what stores, shows or judges them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from narthex.engines._base import Engine, EngineDevice
from narthex.host.facts import GpuFacts, HostFacts
from narthex.journal.rows import FindingDraft, GatewayEventDraft
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.profiles.profile import Profile
from narthex.studies.records import Baseline, Goal, Question, StudyResult
from narthex.trials.observation import Observation, Peaks, TurnTiming
from narthex.trials.soak import SoakReport, SoakSample
from narthex.trials.trial import ModelRef, Trial, TrialRecord, Turn
from narthex.units import GIB, MIB

MODEL = ModelRef(
    path="/models/demo-7b.gguf", identity="c0ffee00" * 4, name="Demo 7B", layers=32, file_bytes=4 * GIB
)
KNOBS = KnobValues(num_ctx=8192, gpu_layers=33, batch=512, ubatch=128, kv_type="q8_0", flash_attn="on")
CARD = "NVIDIA RTX 4000 Ada"


def engine(build: str = "b11434", device: str | None = CARD) -> Engine:
    """A llama-server with one CUDA device, or with none."""
    devices = (EngineDevice("CUDA0", device, 20 * GIB, 19 * GIB),) if device else ()
    return Engine(
        kind="llama-server",
        path="/usr/bin/llama-server",
        source="PATH",
        build=build,
        flags=frozenset({"--fit", "--flash-attn"}),
        devices=devices,
    )


def host(card: str | None = CARD, driver: str | None = "580.65", key: str = "host-1") -> HostFacts:
    """A machine with eight cores and one card, or with none."""
    gpus = (
        (
            GpuFacts(
                index=0, uuid="GPU-0", name=card, total_bytes=20 * GIB, free_bytes=19 * GIB, used_bytes=GIB
            ),
        )
        if card
        else ()
    )
    return HostFacts(
        hostname="box",
        os="Linux",
        cpu_model="a CPU",
        physical_cores=8,
        logical_cores=16,
        load_1m=0.1,
        ram_total_bytes=64 * GIB,
        ram_available_bytes=60 * GIB,
        driver=driver,
        gpus=gpus,
        gaps=(),
        key=key,
    )


def observation(
    turn_s: float | None = 4.5, *, outcome: Outcome = Outcome.DONE, reason: str = ""
) -> Observation:
    """A good answer with two repeats, or a failure with its line."""
    if outcome is not Outcome.DONE:
        return Observation(outcome=outcome, reason=reason or "cudaMalloc failed: out of memory", load_s=1.0)
    turns = tuple(
        TurnTiming(
            depth=3072,
            prompt_tokens=512,
            generated=256,
            ttft_s=0.2,
            prompt_tps=1600.0,
            decode_tps=60.0,
            turn_s=turn_s,
        )
        for _ in range(2)
    )
    return Observation(
        outcome=outcome,
        reason=reason,
        load_s=3.0,
        turns=turns,
        peaks=Peaks(vram_bytes=18 * GIB, ram_bytes=GIB),
    )


def trial_record(
    sequence: int = 1,
    *,
    knobs: KnobValues = KNOBS,
    turn_s: float | None = 4.5,
    outcome: Outcome = Outcome.DONE,
    purpose: str = "search",
    model: ModelRef = MODEL,
) -> TrialRecord:
    """One finished trial of a study."""
    trial = Trial(
        model=model, engine_key=engine().key, host_key="host-1", knobs=knobs, turn=Turn(), purpose=purpose
    )
    return TrialRecord(
        trial=trial,
        observation=observation(turn_s, outcome=outcome),
        started_at=1_700_000_000.0 + sequence,
        seconds=0.5,
        sequence=sequence,
    )


def soak_report(
    seconds: float = 150.0, *, outcome: Outcome = Outcome.DONE, reason: str = "every limit held"
) -> SoakReport:
    """A soak of a setting that held, or did not."""
    return SoakReport(
        outcome=outcome,
        reason=reason,
        seconds=seconds,
        turns=40,
        errors=0,
        longest_stall_s=0.4,
        fill_max=0.96,
        vram_growth_bytes=90 * MIB,
        ram_growth_bytes=10 * MIB,
        vram_slope_bytes_s=0.0,
        ram_slope_bytes_s=0.0,
        speed_drift=-0.01,
        samples=(SoakSample(at_s=1.0, vram_bytes=19 * GIB, ram_bytes=GIB, decode_tps=60.0, fill=0.5),),
    )


def study_result(
    *,
    trials: Sequence[TrialRecord] | None = None,
    soaks: Sequence[SoakReport] = (soak_report(),),
    chosen: KnobValues | None = KNOBS,
    model: ModelRef | None = MODEL,
    demo: bool = False,
) -> StudyResult:
    """A finished study with one baseline, one search trial and one soak of the winner."""
    slow = trial_record(0, knobs=KnobValues(num_ctx=8192), turn_s=28.0, purpose="baseline:engine")
    return StudyResult(
        study="20260101-abc123",
        question=Question(goal=Goal.FASTEST, min_ctx=8192, demo=demo),
        model=model,
        engine=engine().key,
        host="host-1",
        engine_loads=3,
        seconds=90.0,
        started_at=1_700_000_000.0,
        baselines=(Baseline(name="engine", knobs=slow.trial.knobs, record=slow),),
        trials=tuple(trials) if trials is not None else (trial_record(1),),
        decisions=(),
        chosen=chosen,
        profile=None,
        verdict="All layers fit with a q8_0 cache; memory bandwidth limits it.",
        soaks=tuple(soaks),
        soaked_knobs=tuple(KNOBS for _ in soaks),
    )


def profile(
    name: str = "demo-7b-fastest-8k",
    *,
    model: ModelRef = MODEL,
    knobs: KnobValues = KNOBS,
    soak_s: float = 150.0,
) -> Profile:
    """A proven profile; with ``soak_s=0`` an unproven one."""
    return Profile(
        name=name,
        model=model,
        engine_kind="llama-server",
        engine_key=engine().key,
        engine_build="b11434",
        host_key="host-1",
        gpu=CARD,
        driver="580.65",
        goal="fastest",
        knobs=knobs,
        turn=Turn(),
        turn_s=4.5,
        decode_tps=60.0,
        prompt_tps=1600.0,
        soak_s=soak_s,
        proven=soak_s > 0,
        verdict="All layers fit with a q8_0 cache; memory bandwidth limits it.",
        study="20260101-abc123",
        created_at=1_700_000_000.0,
    )


def finding_draft(cause: str = "queue_full", title: str = "Ollama refuses requests") -> FindingDraft:
    """A finding of the doctor, as the journal takes it."""
    body = {"cause": cause, "title": title, "severity": "error", "confidence": 0.95}
    return FindingDraft(
        cause=cause, severity="error", confidence=0.95, title=title, body=msgspec.json.encode(body)
    )


def gateway_event(kind: str = "loaded", model: str = "a") -> GatewayEventDraft:
    """Something that the gateway did, as the journal takes it."""
    return GatewayEventDraft(
        at=1764000000.0,
        kind=kind,
        model=model,
        client="ide",
        cause="vram_oom_on_load" if kind == "failed" else "",
        text="in 20 s",
        body=b'{"seconds":20.0}',
    )
