"""``Progress``: what a person sees while trials run. Everything goes to stderr; stdout stays data.

On a terminal a small live display stands below the finished lines: the stage with its share, the trial,
the best so far, and how long it still takes. Without a terminal (or with ``--plain``, ``NO_COLOR`` or
``TERM=dumb``) each event is one line, so that a log file or a pipe can be read.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from narthex.trials.trial import Watch
from narthex.units import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEARTBEAT_S = 30.0  # plain mode: a long stage says every so often that it is still alive
_BAR_CELLS = 28


def wants_plain(stream: TextIO, plain: bool | None = None) -> bool:
    """Whether lines are better than a live display here. ``plain`` is the user's own word, if given."""
    if plain is not None:
        return plain
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") == "dumb":
        return True
    return not stream.isatty()


class Progress:
    """Shows events of a study, a trial or a soak. Use it as a context manager.

    ``total_hint`` is the expected number of trials, where one is known. :attr:`watch` is the callable
    that runners get (see :data:`narthex.trials.trial.Watch`).
    """

    def __init__(
        self,
        title: str,
        total_hint: int | None = None,
        *,
        plain: bool | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._title = title
        self._total = total_hint
        self._stream = stream if stream is not None else sys.stderr
        self._plain = wants_plain(self._stream, plain)
        self._began = time.monotonic()
        self._number: int | None = None
        self._knobs = ""
        self._why = ""
        self._stage = ""
        self._share: float | None = None
        self._best = ""
        self._ends_at: float | None = None
        self._said: set[str] = set()
        self._beat = self._began
        self._live: Any = None
        self._spinner: Any = None
        self.watch: Watch = self.stage

    def __enter__(self) -> Progress:
        self._began = self._beat = time.monotonic()
        if self._plain:
            self._line(self._title)
            return self
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._spinner = Spinner("dots", style="cyan")  # one object: its frames go by its own clock
        # Nothing of the live display stays behind; the finished lines above it do.
        self._live = Live(
            get_renderable=self._picture,
            console=console,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        console.print(self._title, style="bold")
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()  # shows the cursor again

    def trial(self, number: int, knobs: str, why: str = "") -> None:
        """A trial begins: its number, its knobs in one short line, and why it is tried."""
        self._number, self._knobs, self._why = number, knobs, why
        self._stage, self._share = "", None
        self._said.clear()
        if self._plain:
            self._line(f"{self._trial_words()}: {knobs}{f' — {why}' if why else ''}")

    def stage(self, name: str, share: float | None = None) -> None:
        """What happens right now («loading», «prompt», …) and, where known, its share done in 0…1."""
        self._stage, self._share = name, share
        if not self._plain:
            return
        now = time.monotonic()
        if name not in self._said:
            self._said.add(name)
            self._line(f"  {name} …")
        elif now - self._beat >= _HEARTBEAT_S:
            self._line(f"  {name}{f' {share:.0%}' if share is not None else ' …'}{self._left_words()}")

    def done(self, text: str) -> None:
        """The trial ended: its outcome and figures in one line, which stays on the screen."""
        self._stage, self._share = "", None
        words = f"{self._trial_words()} · {self._knobs}" if self._number is not None else ""
        if self._plain or not words:
            self._say(f"  {text}" if self._plain else text)
            return
        self._say(words, style="dim")
        self._say(f"  {text}")

    def best(self, text: str) -> None:
        """The best so far has changed."""
        if text != self._best:
            self._best = text
            if self._plain:
                self._line(f"  best so far: {text}")

    def eta(self, seconds: float | None) -> None:
        """How long it still takes, as far as one can tell. None takes the figure away."""
        self._ends_at = None if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, as last said; None where nobody said."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def note(self, text: str) -> None:
        """A remark that stays on the screen: a decision, a warning."""
        self._say(text)

    # How it is written.

    def _say(self, text: str, style: str | None = None) -> None:
        if self._live is not None:
            from rich.text import Text

            # A styled Text, not print(style=…): that would colour the live frame below as well.
            self._live.console.print(Text(text, style=style or ""), soft_wrap=True)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._beat = time.monotonic()
        clock = _clock(self._beat - self._began)
        self._stream.write(f"[{clock}] {text}\n")
        self._stream.flush()

    def _trial_words(self) -> str:
        of = f" of about {max(self._total, self._number or 0)}" if self._total and self._total > 1 else ""
        return f"trial {self._number}{of}"

    def _left_words(self) -> str:
        if self._ends_at is None:
            return ""
        left = self._ends_at - time.monotonic()
        if left < 1:
            return " · nearly there"
        return f" · about {f'{left:.0f} s' if left < 90 else format_duration(left)} left"

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        head = Text(_clock(time.monotonic() - self._began))
        if self._number is not None:
            head.append(f" · {self._trial_words()}")
        head.append(self._left_words(), style="dim")
        self._spinner.update(text=head)
        rows: list[RenderableType] = [self._spinner]
        if self._knobs:
            rows.append(Text(f"  {self._knobs}", style="bold", overflow="ellipsis", no_wrap=True))
        if self._why:
            rows.append(Text(f"  why: {self._why}", style="dim", overflow="ellipsis", no_wrap=True))
        if self._stage:
            rows.append(self._bar())
        if self._best:
            rows.append(
                Text(f"  best so far: {self._best}", style="green", overflow="ellipsis", no_wrap=True)
            )
        return Group(*rows)

    def _bar(self) -> RenderableType:
        from rich.text import Text

        row = Text(f"  {self._stage} ", overflow="ellipsis", no_wrap=True)
        if self._share is not None:
            share = min(max(self._share, 0.0), 1.0)
            full = round(share * _BAR_CELLS)
            row.append("━" * full, style="cyan").append("━" * (_BAR_CELLS - full), style="bright_black")
            row.append(f" {share:.0%}")
        return row


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
