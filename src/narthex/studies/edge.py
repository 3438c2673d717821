"""Where the edge of memory lies when there is no plan: a small set of hypotheses, weighed by what was tried.

Everything is counted in layers: a setting needs ``layers·(1 + κ·cache) + γ·micro-batch/512``, where κ (a
layer's cache over its weights) and γ (the compute buffers in layers) are unknown, and so is the limit. Each
hypothesis is one κ with one γ; a good load is a lower bound of its limit and a failed one an upper bound.
Before anything was tried the limit may lie anywhere, with equal chance on the scale of log turn time:
choosing by chance × gain then halves the gap on that scale (see ``design.md``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from math import exp

import msgspec

from narthex.knobs import KnobValues
from narthex.trials.roofline import KV_BYTES
from narthex.trials.trial import TrialRecord

CACHE_SHARES = (0.03, 0.1, 0.3)  # κ: from a 4k context of grouped-query attention to a long one
COMPUTE_LAYERS = (0.3, 1.0, 3.0)  # γ: what 512 tokens of micro-batch take, in layers
LAYERS_ONLY = 0.8  # that nothing but the layer count matters: layers so large that the rest is small
CACHE_ONLY = 0.10  # that a large cache decides, so that a smaller KV type makes everything fit
TOP_FITS = 0.7  # chance that everything fits, before anything was tried
NOTHING_FITS = 0.03
TEXT_TRUST = 0.85  # that a failure's text names the buffer that made it fail
ENGINE_TRUST = 0.9  # that what the engine itself placed still fits
ROOM = (0.85, 1.05)  # layers differ in size, so a count worked out from one buffer may be off by so much
_FLASH_OFF = 1.5  # compute buffers without flash attention

_CACHE_FAILED = re.compile(r"kv.?cache|kv buffer", re.IGNORECASE)
_COMPUTE_FAILED = re.compile(r"compute|graph", re.IGNORECASE)
_WEIGHTS_FAILED = re.compile(r"load.{0,10}model|model buffer|load_tensors|alloc_tensor", re.IGNORECASE)


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """One guess of the sizes, and how far text and engine are believed."""

    cache: float
    compute: float
    text: bool
    engine: bool
    weight: float

    def need(self, knobs: KnobValues, ctx_scale: float) -> float:
        """Layers' worth of memory of a setting."""
        return self.weights_of(knobs) + self.cache_of(knobs, ctx_scale) + self.compute_of(knobs)

    def weights_of(self, knobs: KnobValues) -> float:
        """Its weights."""
        layers = knobs.gpu_layers or 0
        return layers - 0.8 * min(knobs.cpu_moe, layers)  # experts are most of a mixture's layer

    def cache_of(self, knobs: KnobValues, ctx_scale: float) -> float:
        """Its KV cache."""
        share = KV_BYTES.get(knobs.kv_type, 2.0) / KV_BYTES["f16"]
        tokens = knobs.num_ctx * knobs.parallel * ctx_scale
        return (knobs.gpu_layers or 0) * self.cache * share * tokens

    def compute_of(self, knobs: KnobValues) -> float:
        """Its compute buffers."""
        if not knobs.gpu_layers:
            return 0.0
        off = _FLASH_OFF if knobs.flash_attn == "off" else 1.0
        return self.compute * off * min(knobs.ubatch, knobs.batch) / 512


class Edge:
    """Chances by hypotheses. ``log_time(n)`` is the log turn time with n layers on the GPU, 0 ≤ n ≤ all."""

    def __init__(
        self,
        *,
        all_layers: int,
        min_ctx: int,
        log_time: Callable[[int], float],
        good: Sequence[KnobValues],
        failed: Sequence[TrialRecord],
        placed: KnobValues | None,
        free_bytes: int | None = None,
    ) -> None:
        self._top = all_layers
        self._free_bytes = free_bytes
        self._ctx_scale = 1 / max(min_ctx, 1)
        times = [log_time(count) for count in range(all_layers + 1)]
        for count in range(all_layers - 1, -1, -1):  # more layers are never slower: noise must not say so
            times[count] = max(times[count], times[count + 1] + 1e-6)
        self._times = times
        self._hypotheses: list[tuple[Hypothesis, float, float, float]] = []
        each = (1 - LAYERS_ONLY - CACHE_ONLY) / len(CACHE_SHARES) / len(COMPUTE_LAYERS)
        sizes = [(cache, compute, each) for cache, compute in product(CACHE_SHARES, COMPUTE_LAYERS)]
        sizes += [(0.0, 0.0, LAYERS_ONLY), (max(CACHE_SHARES), 0.0, CACHE_ONLY)]
        for (cache, compute, share), text, engine in product(sizes, (True, False), (True, False)):
            trust = (TEXT_TRUST if text else 1 - TEXT_TRUST) * (ENGINE_TRUST if engine else 1 - ENGINE_TRUST)
            guess = Hypothesis(cache=cache, compute=compute, text=text, engine=engine, weight=share * trust)
            self._weigh(guess, good, failed, placed if engine else None)

    def chance(self, knobs: KnobValues) -> float:
        """The chance that a setting fits, over all hypotheses that are left."""
        if not knobs.gpu_layers:
            return 1.0 - NOTHING_FITS
        total = sum(mass for *_, mass in self._hypotheses)
        if total <= 0:
            return 0.5
        found = 0.0
        for guess, low, high, mass in self._hypotheses:
            need = guess.need(knobs, self._ctx_scale)
            if need <= low:
                found += mass
            elif need < high:
                above = self._survival(guess, high) if high != float("inf") else 0.0
                below = self._survival(guess, low) if low > 0 else 1.0
                found += mass * (self._survival(guess, need) - above) / max(below - above, 1e-9)
        return min(max(found / total, 0.0), 1.0)

    def _weigh(
        self,
        guess: Hypothesis,
        good: Sequence[KnobValues],
        failed: Sequence[TrialRecord],
        placed: KnobValues | None,
    ) -> None:
        low = max((guess.need(knobs, self._ctx_scale) for knobs in good), default=0.0)
        high = float("inf")
        if placed is not None:
            low = max(low, guess.need(placed, self._ctx_scale))
        for record in failed:
            knobs, reason = record.trial.knobs, record.observation.reason
            too_much = guess.need(knobs, self._ctx_scale)
            if guess.text:
                if _COMPUTE_FAILED.search(reason):
                    low = max(low, too_much - guess.compute_of(knobs))
                elif _CACHE_FAILED.search(reason):
                    low = max(low, guess.weights_of(knobs))
                elif _WEIGHTS_FAILED.search(reason):
                    too_much = guess.weights_of(knobs)
                    if room := self._room(record, too_much):
                        low, too_much = max(low, room * ROOM[0]), room * ROOM[1]
            high = min(high, too_much)
        if low >= high:
            return
        mass = (self._survival(guess, low) if low > 0 else 1.0) - (
            self._survival(guess, high) if high != float("inf") else 0.0
        )
        if mass > 0:
            self._hypotheses.append((guess, low, high, guess.weight * mass))

    def _room(self, record: TrialRecord, weights: float) -> float | None:
        """Layers that fit by the size of the buffer that did not; None where the text does not tell."""
        asked = record.observation.requested_bytes
        if not asked or not self._free_bytes or asked <= self._free_bytes:
            return None
        return weights * self._free_bytes / asked

    def _survival(self, guess: Hypothesis, need: float) -> float:
        """Prior chance that the limit is at least ``need``."""
        layers = (need - guess.compute) / (1 + guess.cache)
        if layers >= self._top:
            return TOP_FITS * exp(-(layers - self._top) / (0.1 * self._top))
        if layers <= 0:
            return 1.0 - NOTHING_FITS
        whole = int(layers)
        part = layers - whole
        time = self._times[whole] * (1 - part) + self._times[whole + 1] * part
        place = (time - self._times[-1]) / (self._times[0] - self._times[-1])
        return TOP_FITS + (1 - TOP_FITS - NOTHING_FITS) * place
