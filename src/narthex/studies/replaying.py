"""A study against a recording: the same steps, answered from what was measured before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from narthex.studies.baselines import baselines_of
from narthex.studies.notebook import Notebook
from narthex.studies.records import Question, StudyResult
from narthex.studies.screen import Screen
from narthex.studies.session import Identity
from narthex.studies.space import Space, space_of_recording
from narthex.studies.study import run_study
from narthex.trials.replay import Recording, ReplayRunner, read_recording
from narthex.trials.trial import ModelRef

REPLAY_LOADS = 6  # what a search may cost where nothing else is asked for


def replay_file(
    path: Path,
    question: Question,
    *,
    screen: Screen | None = None,
) -> StudyResult:
    """Run a study against one recording file. Nothing is stored. Raises UsageError."""
    return replay(read_recording(path), question, screen=screen)


def replay(
    recording: Recording,
    question: Question,
    *,
    screen: Screen | None = None,
) -> StudyResult:
    """Run a study against a recording in memory."""
    space = space_of_recording(recording, question).pinned(question.pins)
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


def identity_of(recording: Recording, space: Space) -> Identity:
    """Who the recording is about. Its identity is a hash of what it holds."""
    digest = hashlib.sha256(msgspec.json.encode((recording.points, recording.failures))).hexdigest()[:24]
    model = ModelRef(
        path=recording.path, identity=digest, name=recording.model, layers=max(space.all_layers - 1, 0)
    )
    return Identity(model=model, engine=recording.engine, host=recording.gpu or "recorded host")
