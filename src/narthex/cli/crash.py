"""Crash reports: what a maintainer needs, without what is nobody's business."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import traceback
from pathlib import Path

from narthex import __version__, paths

_PATH = re.compile(r"(?<![\w.])~?/(?:[^\s/:'\"«»,()\[\]]+/)+([^\s/:'\"«»,()\[\]]*)")


def write_report(error: BaseException, verb: str) -> Path | None:
    """Write ``crash-*.txt`` in the state folder. None where that can't be written: then it is on stderr."""
    text = report(error, verb)
    folder = paths.state_dir()
    path = folder / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:
        sys.stderr.write(text)
        return None
    return path


def report(error: BaseException, verb: str) -> str:
    """Versions and the traceback; the command line stays out but for its verb."""
    facts = [
        f"narthex {__version__}",
        f"verb: {verb or '(none)'}",
        f"python {platform.python_version()}",
        f"system: {platform.system()} {platform.release()} {platform.machine()}",
    ]
    trace = "".join(traceback.format_exception(error))
    return without_private_paths("\n".join(facts) + "\n\n" + trace)


def without_private_paths(text: str) -> str:
    """``/home/ada/models/x.gguf`` becomes ``…/x.gguf``; source files keep their place in the package."""
    for root in sorted({entry for entry in sys.path if len(entry) > 1}, key=len, reverse=True):
        text = text.replace(root.rstrip("/") + "/", "")
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    return _PATH.sub(lambda found: f"…/{found[1]}", text)
