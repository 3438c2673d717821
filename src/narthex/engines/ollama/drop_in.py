"""Where narthex puts a systemd drop-in, and so sees one that an earlier run left there."""

from __future__ import annotations

import os
from pathlib import Path

from narthex.engines.ollama.processes import Unit

NAME = "zz-narthex.conf"  # drop-ins are read by name: it must come after the user's override.conf


def drop_in(unit: Unit) -> Path:
    """Below /run, so that a reboot takes it away, too."""
    return _runtime_folder(unit) / f"{unit.name}.d" / NAME


def _runtime_folder(unit: Unit) -> Path:
    if unit.uid is None:
        return Path("/run/systemd/system")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{unit.uid}") / "systemd" / "user"
