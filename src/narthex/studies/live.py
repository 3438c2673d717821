"""A study on a real engine: what it needs of the machine, the model and the journal, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from narthex.engines._base import Engine
from narthex.host.facts import HostFacts
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.memory import overhead
from narthex.memory.calibrate import Calibration, Outputs, PredictionRecord, calibrate
from narthex.memory.plan import Device, held_by_others, plan_memory
from narthex.models.inspection import Inspection
from narthex.studies.baselines import House, baselines_of
from narthex.studies.limits import AutomaticBatch, settled_question
from narthex.studies.live_space import Machine, contexts, live_space
from narthex.studies.proof import Soak
from narthex.studies.records import Question, StudyResult
from narthex.studies.screen import Screen
from narthex.studies.server_level import proposals
from narthex.studies.session import Identity
from narthex.studies.space import Space
from narthex.studies.study import run_study
from narthex.trials.ledger import predictions
from narthex.trials.manual import fitted
from narthex.trials.trial import ModelRef, TrialRecord, model_ref
from narthex.units import MIB, format_size

if TYPE_CHECKING:
    from narthex.trials.runner import EngineRunner

LIVE_LOADS = 24  # engine loads where nothing else is asked for
DEMO_LOADS = 10
_SAME_BYTES = 16 * MIB  # corrections closer than this make the same space


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a study has to know of a server that narthex did not start.

    ``env`` None: not known, so nothing that may hold already is proposed. ``default_ctx``: the context that
    it takes where nobody says one.
    """

    version: str | None = None
    env: dict[str, str] | None = None
    automatic_batch: AutomaticBatch = None
    default_ctx: int | None = None


class LiveSpaces:
    """The space as the study goes on: each load's own buffer lines correct the next plan."""

    def __init__(
        self,
        inspection: Inspection,
        machine: Machine,
        question: Question,
        learned: Sequence[PredictionRecord],
        outputs: Outputs = "every",
    ) -> None:
        self._inspection = inspection
        self._machine = machine
        self._question = question
        self._learned = list(learned)
        self._outputs = outputs
        self._made: dict[bytes, Space] = {}
        self._lessons: dict[tuple[str, int], list[PredictionRecord]] = {}

    def __call__(self, history: Sequence[TrialRecord]) -> Space:
        """The space under what a history has taught: the same history gives the same space."""
        found = self._calibration(history)
        key = _coarse(found)
        if key not in self._made:
            self._made[key] = live_space(self._inspection, self._calibrated(found), self._question)
        return self._made[key]

    def machine(self, history: Sequence[TrialRecord]) -> Machine:
        """The machine with what a history has taught about plans on it."""
        return self._calibrated(self._calibration(history))

    def _calibration(self, history: Sequence[TrialRecord]) -> Calibration:
        rows = [*self._learned, *(row for record in history for row in self.lessons(record))]
        return calibrate(rows, self._outputs)

    def _calibrated(self, found: Calibration) -> Machine:
        return msgspec.structs.replace(self._machine, calibration=found if found.tells else None)

    def lessons(self, record: TrialRecord) -> list[PredictionRecord]:
        """What one load taught the planner."""
        key = (record.trial.key, record.sequence)
        if key not in self._lessons:
            self._lessons[key] = predictions(
                self._inspection, self._machine.devices, record.trial, record.observation
            )
        return self._lessons[key]


def live_study(
    inspection: Inspection,
    question: Question,
    runner: EngineRunner,
    journal: Journal,
    *,
    engine: Engine,
    host: HostFacts,
    house: House,
    current: KnobValues | None = None,
    model: ModelRef | None = None,
    soak: Soak | None = None,
    server: ServerFacts | None = None,
    beside_bytes: int = 0,
    keep: Callable[[StudyResult], str | None] | None = None,
    screen: Screen | None = None,
    argv: Sequence[str] = (),
    fresh: bool = False,
) -> StudyResult:
    """Answer a question with a real engine.

    ``current``: what the user runs now, where the question does not say it. ``model``: as the journal keeps
    it, with the name that a server knows it by. ``soak``: one that does more than soak, as while a tenant
    works. ``server``: of a server that narthex did not start. ``beside_bytes``: see :class:`Machine`.

    Raises JournalError, UsageError, and EngineError where it can't go on now.
    """
    server = server or ServerFacts()
    learned = journal.predictions(model_identity=inspection.identity, engine_key=engine.key)
    learned = learned or _witness(inspection, engine, question)
    devices = devices_of(engine, host, calibrate(learned))
    held = held_by_others(devices)
    machine = Machine(
        devices=devices,
        cores=host.physical_cores,
        reserve_bytes=question.reserve_bytes,
        growth_bytes=journal.seen_growth(inspection.identity),
        tenants_bytes=0 if held is None else journal.seen_tenants(inspection.identity, held),
        beside_bytes=beside_bytes,
        limits=engine.limits,
        automatic_batch=server.automatic_batch,
        default_ctx=server.default_ctx,
    )
    asked = question.turn
    question = settled_question(question, engine.limits, server.automatic_batch)
    question = settled(question, inspection, current, house)
    if screen and question.turn != asked:
        screen.note(f"the smallest context compared holds a turn at depth {question.turn.depth} only")
    spaces = LiveSpaces(inspection, machine, question, learned, engine.outputs)

    def propose_server(result: StudyResult) -> dict[str, Any]:
        if screen:
            screen.watch("asking the plan what settings of the whole server should bring", None)
        history = result.trials
        found = proposals(
            inspection,
            spaces.machine(history),
            question,
            history,
            engine.limits,
            server.env,
            version=server.version,
            space=spaces(history),
        )
        return {"server_level": msgspec.to_builtins(found)} if found else {}

    def keep_lessons(record: TrialRecord, study: str) -> None:
        for row in spaces.lessons(record):
            journal.append_prediction(study, row)

    return run_study(
        question,
        spaces,
        runner,
        journal,
        identity=Identity(model=model or model_ref(inspection), engine=engine.key, host=host.key),
        baselines=baselines_of(
            question,
            spaces(()),
            current,
            house,
            host.physical_cores,
            limits=engine.limits,
            batch=server.automatic_batch,
        ),
        soak=soak or plain_soak(runner),
        keep=keep,
        learn=keep_lessons,
        screen=screen,
        argv=argv,
        fresh=fresh,
        extra={"devices": msgspec.to_builtins(machine.devices)},
        after=propose_server if engine.limits.fixed or server.env is not None else None,
    )


def plain_soak(runner: EngineRunner) -> Soak:
    """A soak with nothing beside it."""
    from narthex.trials.soak import soak

    return lambda trial, seconds, watch: soak(runner, trial, seconds=seconds, watch=watch)


def settled(
    question: Question,
    inspection: Inspection,
    current: KnobValues | None = None,
    house: House | None = None,
) -> Question:
    """The question with its context and its loads filled in, the same for every run of it.

    The turn is cut to the smallest context compared: a model may be trained for less than a usual turn, and a
    baseline may have less than the study is asked for.
    """
    least = contexts(inspection, question)[0]
    smallest, turn = least, question.turn
    current = question.current or current
    for num_ctx in (current.num_ctx if current else None, house.num_ctx if house else None):
        if num_ctx and turn.prompt_tokens + turn.generate <= num_ctx:
            smallest = min(smallest, num_ctx)
    return msgspec.structs.replace(
        question,
        min_ctx=least,
        turn=fitted(turn, smallest),
        max_loads=question.max_loads or (DEMO_LOADS if question.demo else LIVE_LOADS),
    )


def devices_of(engine: Engine, host: HostFacts, calibration: Calibration) -> tuple[Device, ...]:
    """What the engine computes on, with what is free before it starts.

    NVML's figure counts where the card is known by name. Else the engine's own, which is what is left once
    its device context stands; the planner takes that off again, so it is put back here.
    """
    rows, left = [], list(host.gpus)
    for device in engine.devices:
        alike = [gpu for gpu in left if gpu.name in device.description]
        # Of several cards of one name it is the one with as much free: an engine may list them in any order.
        card = min(alike, key=lambda gpu: abs(gpu.free_bytes - device.free_bytes), default=None)
        if card is not None:
            left.remove(card)
        free = card.free_bytes if card else device.free_bytes + overhead.device_overhead(calibration)[0]
        total = card.total_bytes if card else device.total_bytes
        rows.append(Device(name=device.name, kind="gpu", free_bytes=free, total_bytes=total))
    known = host.ram_total_bytes > 0  # of a machine elsewhere nothing is known
    memory = Device(
        name="host",
        kind="host",
        free_bytes=host.ram_available_bytes if known else None,
        total_bytes=host.ram_total_bytes if known else None,
    )
    return (*rows, memory)


def tenants_words(host: HostFacts) -> list[str]:
    """Who else is on the cards: what they hold is never counted as free."""
    return [
        f"{process.name or f'process {process.pid}'} holds {format_size(process.vram_bytes)} of {gpu.name}"
        for gpu in host.gpus
        for process in gpu.processes
    ]


def _witness(inspection: Inspection, engine: Engine, question: Question) -> list[PredictionRecord]:
    """The engine's own dry run beside the plan, before anything was loaded: the planner's first lesson."""
    from narthex.engines.fit_params import dry_run
    from narthex.errors import NarthexError

    if engine.fit_params is None or not engine.devices:
        return []
    knobs = KnobValues(
        num_ctx=contexts(inspection, question)[0],
        gpu_layers=inspection.layers + 1,
        parallel=question.parallel,
    )
    gpu = Device(name=engine.devices[0].name, kind="gpu")
    try:
        told = dry_run(engine, Path(inspection.path), knobs)
        plan = plan_memory(inspection, knobs, (gpu, Device(name="host", kind="host")))
    except NarthexError:
        return []
    planned, row = plan.devices[0], next((row for row in told if row.device == gpu.name), None)
    if row is None or len(engine.devices) > 1:
        return []
    pairs = (
        ("model", planned.model_bytes, row.model_bytes),
        ("context", planned.context_bytes, row.context_bytes),
        ("compute", planned.compute_bytes, row.compute_bytes),
    )
    return [
        PredictionRecord(
            model_identity=inspection.identity,
            engine_key=engine.key,
            device=row.device,
            term=term,  # type: ignore[arg-type]
            knobs=knobs,
            predicted_bytes=predicted,
            actual_bytes=actual,
            source="fit-params",
        )
        for term, predicted, actual in pairs
    ]


def _coarse(calibration: Calibration) -> bytes:
    """Corrections rounded, so that a few bytes make no new space."""
    rows = [
        (row.kind, row.term, round(row.ratio, 3), round(row.offset_bytes / _SAME_BYTES))
        for row in calibration.corrections
    ]
    return msgspec.json.encode((rows, calibration.outputs))
