"""Which service of the stack a process is, by its command line and the folder that it works in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from narthex.host.processes import PROC


def is_openwebui(words: Sequence[str], folder: str = "") -> bool:
    """``open-webui serve``, or its module under uvicorn or Python."""
    return any(PurePosixPath(word).name == "open-webui" or "open_webui" in word for word in words[:6])


def is_comfyui(words: Sequence[str], folder: str = "") -> bool:
    """A launcher of that name, or ``python main.py`` in a folder of ComfyUI: named so, or with its package
    «comfy» in it."""
    names = [PurePosixPath(word).name.lower() for word in words[:4]]
    if any(name in ("comfyui", "comfyui.exe") for name in names):
        return True
    script = next((word for word in words[1:4] if PurePosixPath(word).name == "main.py"), None)
    if script is None:
        return False
    home = Path(folder) / Path(script).parent
    return "comfyui" in f"{home}".lower() or _is_folder(home / "comfy")


def folder_of(pid: int) -> str:
    """The folder that a process works in; "" where this user may not see it."""
    try:
        return os.readlink(PROC / str(pid) / "cwd")
    except OSError:
        return ""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_absolute() and path.is_dir()
    except OSError:
        return False
