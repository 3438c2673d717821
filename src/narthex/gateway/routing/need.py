"""``Needs``: the memory that one setting of one model takes, planned once and remembered."""

from __future__ import annotations

from pathlib import Path

from narthex.engines._base import Engine
from narthex.errors import NarthexError
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.memory.calibrate import Calibration, calibrate
from narthex.memory.plan import Device, plan_memory
from narthex.models.inspection import Inspection

_HOST = Device(name="host", kind="host")
_CARD = Device(name="GPU0", kind="gpu")  # no free room is said: what the setting takes at most is planned


class Needs:
    """Plans by the planner, corrected by what earlier loads in the journal taught. Blocking."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._known: dict[tuple[str, KnobValues, bool, str], int | None] = {}
        self._taught: dict[tuple[str, str], Calibration | None] = {}

    def forget(self) -> None:
        """The journal has something new."""
        self._known.clear()
        self._taught.clear()

    def of(
        self, inspection: Inspection, knobs: KnobValues, engine: Engine | None, *, card: bool
    ) -> int | None:
        """Bytes of the card with all overhead, or of main memory where no card computes; None where this
        can't be planned. Where the engine places the layers itself, all of them are planned."""
        key = (inspection.identity, knobs, card, engine.key if engine else "")
        if key not in self._known:
            self._known[key] = self._planned(inspection, knobs, engine, card)
        return self._known[key]

    def _planned(
        self, inspection: Inspection, knobs: KnobValues, engine: Engine | None, card: bool
    ) -> int | None:
        taught = self._calibration(inspection.identity, engine.key if engine else None)
        try:
            plan = plan_memory(
                inspection,
                knobs,
                (_CARD, _HOST) if card else (_HOST,),
                calibration=taught,
                outputs=None if taught is not None else engine.outputs if engine else "every",
            )
        except NarthexError:  # the engine would refuse the setting: that is told when it is loaded
            return None
        return plan.devices[0].need_bytes

    def _calibration(self, identity: str, engine_key: str | None) -> Calibration | None:
        """What loads taught: those of this very engine, else any of this model's."""
        key = (identity, engine_key or "")
        if key not in self._taught:
            self._taught[key] = self._read(identity, engine_key)
        return self._taught[key]

    def _read(self, identity: str, engine_key: str | None) -> Calibration | None:
        if not self._journal.exists():
            return None
        try:
            with Journal.open(self._journal) as journal:
                rows = journal.predictions(model_identity=identity, engine_key=engine_key)
                found = calibrate(rows or journal.predictions(model_identity=identity))
        except NarthexError:  # a plan needs no journal
            return None
        return found if found.corrections else None
