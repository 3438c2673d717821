"""Recorded machines: the files of /proc, /sys, /dev and /etc that tell about a host, in one text.

A text is read from its top: ``base OTHER`` plants another one of the same folder first, ``-- PATH`` takes a
file or folder away, ``== PATH`` begins a file, ``== PATH (hex)`` one of bytes, and ``== PATH -> TARGET`` is a
link. Lines before the first of these, and those that begin with ``#`` there, are for people.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def plant(recorded: Path, root: Path) -> Path:
    """Make the files of a recorded host below ``root``; returns ``root``."""
    head, *parts = f"\n{recorded.read_text()}".split("\n== ")
    for line in head.splitlines():
        word, _, rest = line.partition(" ")
        if word == "base":
            plant(recorded.with_name(f"{rest.strip()}{recorded.suffix}"), root)
        elif word == "--":
            _take_away(_below(root, rest.strip()))
    for part in parts:
        title, _, content = part.partition("\n")
        _make(root, title.strip(), content)
    return root


def _make(root: Path, title: str, content: str) -> None:
    path, arrow, target = title.partition(" -> ")
    path, bracket, _ = path.partition(" (hex)")
    file = _below(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    _take_away(file)
    if arrow:
        file.symlink_to(target)
    elif bracket:
        file.write_bytes(bytes.fromhex(content))
    else:
        file.write_text(f"{content}\n" if content and not content.endswith("\n") else content)


def _take_away(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")
