"""Where the page's data comes from: a stored result, the rows of a study that was cut off, the model file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from narthex.errors import JournalError, NarthexError, UsageError
from narthex.journal.rows import DecisionRow, SoakRow, StudyRow
from narthex.memory.plan import Device
from narthex.studies.records import Baseline, Decision, Question, StudyResult
from narthex.trials.trial import TrialRecord
from narthex.views.report.memory import MemoryPicture, picture_memory
from narthex.views.report.page import render

_BASELINE = "baseline:"


def stored(body: bytes, study: str) -> StudyResult:
    """The result that a finished study left in the journal. Raises JournalError."""
    try:
        return msgspec.json.decode(body, type=StudyResult)
    except msgspec.MsgspecError as error:
        raise JournalError(
            f"The result of study {study} can't be read: {error}.",
            hint="It may be from a newer narthex. «narthex journal show» prints the rows themselves.",
        ) from error


def unfinished(
    row: StudyRow, trials: Sequence[TrialRecord], decisions: Sequence[DecisionRow], soaks: Sequence[SoakRow]
) -> StudyResult:
    """What is known of a study without an end: its rows, and no recommendation."""
    try:
        question = msgspec.json.decode(row.question, type=Question)
    except msgspec.MsgspecError:
        question = Question()
    last = max((record.started_at + record.seconds for record in trials), default=row.started_at)
    return StudyResult(
        study=row.id,
        question=question,
        model=row.model,
        engine=row.engine_key,
        host=row.host_key,
        engine_loads=row.loads,
        seconds=max(last - row.started_at, 0.0),
        started_at=row.started_at,
        baselines=tuple(
            Baseline(
                name=record.trial.purpose.removeprefix(_BASELINE), knobs=record.trial.knobs, record=record
            )
            for record in trials
            if record.trial.purpose.startswith(_BASELINE)
        ),
        trials=tuple(trials),
        decisions=tuple(
            Decision(sequence=d.sequence, kind=d.kind, text=d.text, evidence=d.evidence, knobs=d.knobs)
            for d in decisions
        ),
        chosen=None,
        profile=None,
        verdict="The study was cut off before its end. Start the same «narthex tune» again: it goes on.",
        soaks=tuple(soak.report for soak in soaks),
        soaked_knobs=tuple(soak.knobs for soak in soaks),
        finished=False,
    )


def must_be_writable(path: Path) -> None:
    """Raises UsageError where :func:`write_page` could not write: asked before minutes of measuring, not
    after them. Nothing stays behind."""
    try:
        if path.exists():
            path.open("ab").close()
        else:  # tried rather than asked: root may write everywhere, but not in a folder that takes no files
            folder = next(place for place in path.absolute().parents if place.exists())
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.", hint="Name another file.") from error


def write_page(result: StudyResult, path: Path, notes: Sequence[str] = ()) -> None:
    """Write the page of a result, with the memory pictures where the model file is at hand.

    Folders on the way are made. Raises NarthexError where the file can't be written.
    """
    memory, gap = pictures(result)
    page = render(result, memory, memory_gap=gap, notes=notes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise NarthexError(
            f"{path} can't be written: {error.strerror}.", hint="Name another file."
        ) from error


def pictures(result: StudyResult) -> tuple[tuple[MemoryPicture, ...], str]:
    """The memory pictures of the winner, or none and the reason.

    The devices are those that the study planned for (``extra["devices"]``); where it noted none, those of
    this machine, if it is still the study's own; else only the main memory, without a line for what is free.
    """
    if result.chosen is None:
        return (), "nothing is recommended, so there is no setting to draw."
    if result.model is None or not Path(result.model.path).is_file():
        return (), "the model file is not there any more."
    from narthex.models.gguf import inspect_file

    try:
        inspection = inspect_file(result.model.path)
        if inspection.identity != result.model.identity:
            return (), "the model file has changed since the study."
        devices, when = _devices(result)
        return picture_memory(inspection, result.chosen, devices, when), ""
    except msgspec.ValidationError:
        return (), "the study's devices can't be read."
    except NarthexError as error:
        return (), error.message


def _devices(result: StudyResult) -> tuple[tuple[Device, ...], str]:
    known = msgspec.convert(result.extra.get("devices", ()), type=tuple[Device, ...])
    if known:
        return known, "when the study began"
    from narthex.host.collect import collect_host

    host = collect_host(processes=False)
    main = Device(name="host", kind="host")
    if host.key != result.host:
        return (main,), ""
    cards = tuple(
        Device(name=card.name, kind="gpu", free_bytes=card.free_bytes, total_bytes=card.total_bytes)
        for card in host.gpus
    )
    main = Device(
        name="host",
        kind="host",
        free_bytes=host.ram_available_bytes or None,
        total_bytes=host.ram_total_bytes or None,
    )
    return (*cards, main), "when this page was made"
