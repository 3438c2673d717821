"""A study against a recording: the same steps, answered from what was measured before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from narthex.errors import UsageError
from narthex.memory.plan import Device, plan_memory
from narthex.models.inspection import Inspection
from narthex.studies.baselines import baselines_of
from narthex.studies.notebook import Notebook
from narthex.studies.records import Question, StudyResult
from narthex.studies.screen import Screen
from narthex.studies.session import Identity
from narthex.studies.space import Candidate, Space, space_of_recording
from narthex.studies.study import run_study
from narthex.trials.replay import Recording, ReplayRunner, read_recording
from narthex.trials.trial import ModelRef
from narthex.units import MIB

REPLAY_LOADS = 6  # what a search may cost where nothing else is asked for


def replay_file(
    path: Path,
    question: Question,
    *,
    inspection: Inspection | None = None,
    screen: Screen | None = None,
) -> StudyResult:
    """Run a study against one recording file. Nothing is stored. Raises UsageError."""
    return replay(read_recording(path), question, inspection=inspection, screen=screen)


def replay(
    recording: Recording,
    question: Question,
    *,
    inspection: Inspection | None = None,
    screen: Screen | None = None,
) -> StudyResult:
    """Run a study against a recording in memory. With the model's inspection there is a memory plan."""
    space = space_of_recording(recording, question).pinned(question.pins)
    if inspection is not None:
        space = planned(space, recording, inspection)
    asked = msgspec.structs.replace(
        question,
        min_ctx=space.min_ctx,
        max_loads=question.max_loads or REPLAY_LOADS,
        repeats=1,
        soak_s=0.0,
    )
    return run_study(
        asked,
        space,
        ReplayRunner(recording),
        Notebook(),
        identity=identity_of(recording, space),
        baselines=baselines_of(asked, space),
        screen=screen,
    )


def planned(space: Space, recording: Recording, inspection: Inspection) -> Space:
    """The space with the planner's figures for the recorded card. Raises UsageError for another model."""
    if inspection.layers + 1 != space.all_layers:
        raise UsageError(
            f"{inspection.name} has {inspection.layers + 1} layers with the output layer, "
            f"but the recording of {recording.model} has {space.all_layers}.",
            hint="Give the model that was recorded, or leave MODEL out.",
        )
    if recording.gpu_free_mib is None:
        return space
    limit = int(recording.gpu_free_mib * MIB)  # what the engine may take: its device context is off already
    gpu = Device(name="recorded GPU", kind="gpu")

    def with_plan(candidate: Candidate) -> Candidate:
        device = plan_memory(inspection, candidate.knobs, (gpu,)).devices[0]
        return msgspec.structs.replace(candidate, need_bytes=device.planned_bytes, limit_bytes=limit)

    return msgspec.structs.replace(space, candidates=tuple(map(with_plan, space.candidates)))


def identity_of(recording: Recording, space: Space) -> Identity:
    """Who the recording is about. Its identity is a hash of what it holds."""
    digest = hashlib.sha256(msgspec.json.encode((recording.points, recording.failures))).hexdigest()[:24]
    model = ModelRef(
        path=recording.path, identity=digest, name=recording.model, layers=max(space.all_layers - 1, 0)
    )
    return Identity(model=model, engine=recording.engine, host=recording.gpu or "recorded host")
