"""Where files live: XDG folders, each overridable by one environment variable."""

from __future__ import annotations

import os
from pathlib import Path


def _folder(own: str, xdg: str, default: str) -> Path:
    if chosen := os.environ.get(own):
        return Path(chosen).expanduser()
    base = os.environ.get(xdg) or str(Path.home() / default)
    return Path(base).expanduser() / "narthex"


def data_dir() -> Path:
    """The journal's folder: ``$NARTHEX_DATA``, else ``$XDG_DATA_HOME/narthex``. Not created here."""
    return _folder("NARTHEX_DATA", "XDG_DATA_HOME", ".local/share")


def cache_dir() -> Path:
    """Things that can be made again (the assembled demo model): ``$NARTHEX_CACHE``, else XDG."""
    return _folder("NARTHEX_CACHE", "XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """Engine logs and crash reports: ``$NARTHEX_STATE``, else ``$XDG_STATE_HOME/narthex``."""
    return _folder("NARTHEX_STATE", "XDG_STATE_HOME", ".local/state")


def journal_path() -> Path:
    """The journal's database file."""
    return data_dir() / "journal.db"
