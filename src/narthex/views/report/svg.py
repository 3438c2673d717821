"""Small charts as inline SVG. Colours are CSS classes, so that a page can be light or dark.

Coordinates are in the units of the view box; text is escaped here. A :class:`Chart` collects shapes over
two axes and becomes one string.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import msgspec

WIDTH, HEIGHT = 360, 240  # narrow, so that letters stay readable where a phone scales it down
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 38
_LETTER = 5.9  # mean width of a letter at the charts' 11 px, for labels that must stay inside


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """A range with its ticks. ``log`` spaces doublings evenly."""

    low: float
    high: float
    label: str
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at ``low`` and 1 at ``high``."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log2(low), math.log2(high), math.log2(max(value, 1e-9))
        return (value - low) / (high - low) if high > low else 0.5


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten) within ``low … high``."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def axis(low: float, high: float, label: str, *, unit: float = 1.0, count: int = 5) -> Axis:
    """A linear axis; ``unit`` divides the figures on the ticks (GiB over bytes)."""
    if high <= low:
        high = low + unit
    ticks = tuple((tick * unit, f"{tick:,g}") for tick in nice_ticks(low / unit, high / unit, count))
    return Axis(low=low, high=high, label=label, ticks=ticks)


def time_axis(low: float, high: float, label: str) -> Axis:
    """Seconds from zero; logarithmic where the slowest is more than eight times the fastest."""
    if low <= 0 or high < 8 * low:
        return axis(0, high * 1.15, label)
    bottom, top = low / 1.5, high * 1.6
    powers = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    ticks = [10.0**power * factor for power in powers for factor in (1, 2, 5)]
    inside = tuple((tick, f"{tick:g}") for tick in ticks if bottom <= tick <= top)
    return Axis(low=bottom, high=top, label=label, ticks=inside, log=True)


def token_axis(low: float, high: float, label: str) -> Axis:
    """A logarithmic axis of tokens with ticks at powers of two: 4k, 8k, 16k."""
    first, last = math.floor(math.log2(max(low, 1))), math.ceil(math.log2(max(high, 2)))
    if first == last:
        first, last = first - 1, last + 1
    every = max(1, math.ceil((last - first) / 6))
    ticks = tuple((2.0**power, tokens(2**power)) for power in range(first, last + 1, every))
    return Axis(low=2.0**first, high=2.0**last, label=label, ticks=ticks, log=True)


def tokens(count: int) -> str:
    """``4096`` as «4k», ``1000`` as «1000»."""
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


class Chart:
    """Shapes over an x and a y axis. Give it words: ``title`` is read out, ``about`` says what to see."""

    def __init__(self, name: str, title: str, about: str, *, x: Axis, y: Axis, height: int = HEIGHT) -> None:
        self._name, self._title, self._about = name, title, about
        self.x, self.y, self.height = x, y, height
        self._parts: list[str] = []
        self._over: list[str] = []

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        return LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)

    def py(self, value: float) -> float:
        """Vertical place of a value."""
        return self.height - BOTTOM - self.y.place(value) * (self.height - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through the points."""
        if points:
            path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
            self._parts.append(f'<polyline class="line {style}" points="{path}"/>')

    def steps(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A staircase: between two points the right one's value holds (what a longer context costs)."""
        corners = list(points[:1])
        for (before, _), (x, y) in pairwise(points):
            corners += [(before, y), (x, y)]
        self.line(corners, style)

    def bar(self, x: float, low: float, high: float, style: str, *, width: float, title: str) -> None:
        """A bar of ``width`` view box units around ``x``, from ``low`` to ``high``."""
        top, bottom = self.py(high), self.py(low)
        if bottom - top < 0.1:
            return
        self._parts.append(
            f'<rect class="{style}" x="{self.px(x) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{bottom - top:.1f}"><title>{escape(title)}</title></rect>'
        )

    def dot(self, x: float, y: float, style: str, title: str, size: float = 4.5) -> None:
        """A round mark that tells its figures when pointed at."""
        self._parts.append(
            f'<circle class="{style}" cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="{size}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def cross(self, x: float, top: float, style: str, title: str) -> None:
        """A cross for what failed, ``top`` view box units from the upper edge: it has no y."""
        cx, cy, arm = self.px(x), top, 4
        self._over.append(
            f'<path class="cross {style}" d="M{cx - arm:.1f} {cy - arm}l{2 * arm} {2 * arm}'
            f'M{cx + arm:.1f} {cy - arm}l{-2 * arm} {2 * arm}"><title>{escape(title)}</title></path>'
        )

    def rule(self, y: float, text: str, style: str) -> None:
        """A horizontal line across with a word on it."""
        place = self.py(y)
        self._over.append(
            f'<line class="rule {style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
        )
        self._over.append(
            f'<text class="halo {style}-text" x="{LEFT + 4}" y="{place - 4:.1f}">{escape(text)}</text>'
        )

    def labels(self, places: Sequence[tuple[float, float, str, str]]) -> None:
        """Words beside points (x, y, text, style), moved apart so that none covers another."""
        taken: list[tuple[float, float, float]] = []
        for x, y, text, style in sorted(places, key=lambda row: self.py(row[1])):
            wide = len(text) * _LETTER
            left, place, anchor = self.px(x) + 8, self.px(x) + 8, "start"
            if left + wide > WIDTH - RIGHT:
                left, place, anchor = self.px(x) - 8 - wide, self.px(x) - 8, "end"
            top = self.py(y) + 3.5
            while any(
                abs(top - other) < 12 and left < end and begin < left + wide for begin, end, other in taken
            ):
                top += 3
            taken.append((left, left + wide, top))
            self._over.append(
                f'<text class="halo {style}" x="{place:.1f}" y="{top:.1f}" text-anchor="{anchor}">'
                f"{escape(text)}</text>"
            )

    def render(self) -> str:
        """The whole ``<svg>`` element."""
        head = (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-labelledby="{self._name}-t {self._name}-d">'
            f'<title id="{self._name}-t">{escape(self._title)}</title>'
            f'<desc id="{self._name}-d">{escape(self._about)}</desc>'
        )
        return head + "".join(self._grid() + self._parts + self._over) + "</svg>"

    def _grid(self) -> list[str]:
        floor = self.height - BOTTOM
        parts = []
        for value, text in self.y.ticks:
            y = self.py(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
            )
        for value, text in self.x.ticks:
            x = self.px(value)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{escape(text)}</text>'
            )
        parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="name" x="{middle}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
            f'<text class="name" x="12" y="{(TOP + floor) / 2}" text-anchor="middle" '
            f'transform="rotate(-90 12 {(TOP + floor) / 2})">{escape(self.y.label)}</text>'
        )
        return parts
