"""Progress as plain lines and on a real pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from narthex.views.progress import Progress, wants_plain


def events(progress: Progress) -> None:
    progress.trial(1, "ctx 4096 · layers 19", "the engine's own placement")
    progress.watch("loading", 0.5)
    progress.watch("loading", 0.9)
    progress.watch("prompt", None)
    progress.done("turn 4.5 s")
    progress.best("turn 4.5 s at ctx 4096")
    progress.note("backing off: ctx 8192 → 4096")


def test_plain_mode_writes_one_line_for_each_event() -> None:
    stream = io.StringIO()
    with Progress("tuning a model", 6, plain=True, stream=stream) as progress:
        events(progress)
    lines = [line.split("] ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "tuning a model",
        "trial 1 of about 6: ctx 4096 · layers 19 — the engine's own placement",
        "  loading …",
        "  prompt …",
        "  turn 4.5 s",
        "  best so far: turn 4.5 s at ctx 4096",
        "backing off: ctx 8192 → 4096",
    ]


def test_a_stream_that_is_no_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_plain(io.StringIO())
    assert not wants_plain(io.StringIO(), plain=False)


def test_plain_lines_hold_no_escape_codes() -> None:
    stream = io.StringIO()
    with Progress("title", plain=True, stream=stream) as progress:
        events(progress)
    assert "\x1b" not in stream.getvalue()


LIVE = """
import sys
from narthex.views.progress import Progress
with Progress("tuning a model", 6) as progress:
    progress.trial(1, "ctx 4096", "why")
    progress.watch("loading", 0.5)
    progress.done("turn 4.5 s")
    progress.eta(90)
    print("data on stdout")
    {ending}
"""


def on_a_terminal(ending: str, **environment: str) -> tuple[str, str, int]:
    """What the program wrote to its terminal (stderr) and to stdout, and its exit code."""
    master, slave = pty.openpty()
    names = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    child = subprocess.Popen(
        [sys.executable, "-c", LIVE.format(ending=ending)],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**names, "TERM": "xterm-256color", **environment},
        text=True,
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    out, _ = child.communicate()
    return seen.decode(), out, child.returncode


def test_a_terminal_gets_a_live_display_and_its_cursor_back() -> None:
    screen, out, code = on_a_terminal("pass")
    assert code == 0
    assert out == "data on stdout\n"
    assert "tuning a model" in screen
    assert "\x1b[?25l" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


def test_ctrl_c_gets_through_and_leaves_the_terminal_usable() -> None:
    screen, _, code = on_a_terminal("raise KeyboardInterrupt")
    assert code in (1, 130, -2)
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


def test_no_color_means_plain_lines_even_on_a_terminal() -> None:
    screen, _, _ = on_a_terminal("pass", NO_COLOR="1")
    assert "\x1b[?25l" not in screen
    assert "trial 1 of about 6: ctx 4096 — why" in screen
