"""``CostModel``: how long a turn takes, from what the first loads showed and corrected by each next one.

Decoding reads every weight and every cached token once a token, so::

    seconds a token = GPU bytes / GPU bandwidth + CPU bytes / CPU bandwidth + constant
                    = g0 + g1·x + g2·[x > 0]        with x = CPU bytes / all bytes

A prompt is computed in micro-batches; weights that lie in main memory are copied to the GPU for each one::

    seconds a prompt = n·(p0 + p1 / ubatch) + p2·x·ceil(n / ubatch)

Both are linear in their weights, so a fit with a prior (:mod:`narthex.studies.least_squares`) gives a
value and how far it may be off. The KV type and flash attention multiply. See ``design.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, exp, hypot, log, sqrt
from statistics import median

import msgspec

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.least_squares import Fit, Row, fit
from narthex.studies.space import Candidate, Space
from narthex.trials.trial import TrialRecord, Turn

CPU_RATIO = 12.0
"""Prior for g1/g0: a byte in main memory costs this many times a byte on the card. Dual-channel DDR5 beside a
360 GB/s card gives 5, a server CPU beside an H100 20 to 25; the prior is wide enough for both."""
STREAM_RATIO = 10.0  # prior for p2 over a whole GPU prompt: recorded 7 to 14
BATCH_TOKENS = 50.0  # prior for p1/p0: at a micro-batch of 50 a token costs twice as much

FACTORS: dict[tuple[str, str], tuple[float, float]] = {
    # (knob, value): (how many times longer decoding takes, spread of its logarithm); recorded 1.06 to 1.19
    ("kv_type", "q8_0"): (1.08, 0.06),
    ("kv_type", "q4_0"): (1.08, 0.06),
    ("flash_attn", "off"): (1.06, 0.12),  # recorded 1.09 to 1.16; on some older cards it is the faster one
}
ONE = (1.0, 0.0)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A measured setting as the model sees it."""

    knobs: KnobValues
    cpu_share: float
    decode_s: float  # a token
    prompt_s: float  # a token
    sigma: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting should do. ``sigma``: standard deviation of the turn time's logarithm."""

    turn_s: float
    decode_tps: float
    prompt_tps: float
    sigma: float


class CostModel:
    """A fitted model for one turn. Before the first sample its times are relative (all on the GPU = 1)."""

    def __init__(self, turn: Turn, space: Space, samples: Sequence[Sample]) -> None:
        self.turn = turn
        self._space = space
        self.samples = tuple(samples)
        self._corrections = dict(FACTORS)
        self._decode = self._fit_decode()
        self._prompt = self._fit_prompt()
        self._learn_factors()

    @classmethod
    def of(cls, turn: Turn, space: Space, history: Iterable[TrialRecord]) -> CostModel:
        """Fit to every finished trial of a history that can be compared."""
        found = (sample_of(record, space) for record in history)
        return cls(turn, space, [sample for sample in found if sample is not None])

    def predict(self, candidate: Candidate) -> Prediction:
        """A turn's time with one setting, and how far it may be off."""
        knobs, share = candidate.knobs, candidate.cpu_share
        factor, spread = self._factor(knobs)
        decode, decode_var = self._decode.predict(_decode_features(share))
        prompt, prompt_var = self._prompt.predict(self._prompt_features(knobs, share))
        decode = max(decode, self._floor[0]) * factor
        prompt = max(prompt, self._floor[1])
        if near := self._alike(knobs, share):
            # Decoding depends on nothing else: what was measured counts, and only its noise is left.
            decode, decode_var, spread = near, 0.0, 0.0
        generated, asked = self.turn.generate, self.turn.prompt_tokens
        turn_s = generated * decode + asked * prompt
        variance = (generated * factor) ** 2 * decode_var + asked**2 * prompt_var
        variance += (generated * decode * spread) ** 2
        noise = self._space.noise_split if share > 0 else self._space.noise_gpu
        return Prediction(
            turn_s=turn_s,
            decode_tps=1 / decode,
            prompt_tps=1 / prompt,
            sigma=min(sqrt(variance / turn_s**2 + noise**2), 1.5),
        )

    def _alike(self, knobs: KnobValues, share: float) -> float | None:
        """Median seconds a token of samples that decode the same way; None in a recording, where one point
        alone says too little."""
        if self._space.recorded:
            return None
        mine = [
            sample.decode_s
            for sample in self.samples
            if abs(sample.cpu_share - share) < 1e-9 and _decoding(sample.knobs) == _decoding(knobs)
        ]
        return median(mine) if mine else None

    @property
    def seconds_a_token(self) -> tuple[float, float]:
        """(all on the GPU, what a full share on the CPU adds) in seconds a token."""
        return self._decode.weights[0], self._decode.weights[1]

    def on_other_card(self, candidate: Candidate, bandwidth_ratio: float, roof_s: float = 0.0) -> float:
        """Predicted turn time on a card with ``bandwidth_ratio`` times this one's memory bandwidth.

        ``roof_s``: seconds a token that reading the card's share takes there. A fast card waits for other
        things than its memory, and those don't grow with a slower one: decoding takes what it takes here or
        what the memory there needs, and at most what the ratio says. The CPU's part stays. The prompt scales
        with the ratio, copies over the bus stay: the cautious reading.
        """
        here = self.predict(candidate)
        gpu_s, _ = self.seconds_a_token
        share = candidate.cpu_share
        gpu_part = gpu_s * (1 - share)
        cpu_part = max(1 / here.decode_tps - gpu_part, 0.0) if share else 0.0
        gpu_part = 1 / here.decode_tps - cpu_part
        copies = min(
            self._prompt.weights[2] * _copies(self.turn.prompt_tokens, candidate.knobs, share),
            1 / here.prompt_tps,
        )
        prompt = (1 / here.prompt_tps - copies) / bandwidth_ratio + copies
        decode = gpu_part / bandwidth_ratio
        if roof_s:
            decode = min(decode, max(gpu_part, roof_s))
        return self.turn.prompt_tokens * prompt + self.turn.generate * (decode + cpu_part)

    # How it is fitted.

    @property
    def _floor(self) -> tuple[float, float]:
        """No prediction goes below half of the best that was seen."""
        if not self.samples:
            return 0.1, 0.01
        best_decode = min(sample.decode_s for sample in self.samples)
        return best_decode / 2, min(sample.prompt_s for sample in self.samples) / 3

    def _fit_decode(self) -> Fit:
        scale = _scale(
            [(sample.decode_s, _decode_features(sample.cpu_share)) for sample in self.samples],
            (1.0, CPU_RATIO, 0.02),
        )
        rows = [
            Row(
                _decode_features(sample.cpu_share),
                sample.decode_s / self._factor(sample.knobs)[0],
                sample.decode_s * hypot(sample.sigma, self._factor(sample.knobs)[1]),
            )
            for sample in self.samples
        ]
        mean = (scale, scale * CPU_RATIO, scale * 0.02)
        return fit(rows, mean, (scale * 0.6, scale * CPU_RATIO * 0.8, scale * 0.05))

    def _fit_prompt(self) -> Fit:
        prior = (1.0, BATCH_TOKENS, STREAM_RATIO)
        # Without flash attention prompts are read at another speed: no fault of the micro-batch.
        plain = [s for s in self.samples if s.knobs.flash_attn != "off"] or self.samples
        pairs = [(sample.prompt_s, self._prompt_features(sample.knobs, sample.cpu_share)) for sample in plain]
        # Without a sample: a prompt token costs a fortieth of a generated one.
        scale = _scale(pairs, prior) if pairs else 0.025
        rows = [
            Row(features, value, value * max(sample.sigma, 0.05))
            for (value, features), sample in zip(pairs, plain, strict=True)
        ]
        mean = tuple(scale * value for value in prior)
        return fit(rows, mean, tuple(value * 0.6 for value in mean))

    def _prompt_features(self, knobs: KnobValues, share: float) -> tuple[float, float, float]:
        asked = self.turn.prompt_tokens
        return 1.0, 1.0 / min(knobs.ubatch, knobs.batch, asked), _copies(asked, knobs, share)

    def _learn_factors(self) -> None:
        """Correct the factors of KV type and flash attention by what their samples showed."""
        for key, (factor, spread) in FACTORS.items():
            mine = [s for s in self.samples if getattr(s.knobs, key[0]) == key[1]]
            if not mine or len(mine) == len(self.samples):
                continue  # with nothing to compare it to, the factor is part of the scale
            precision, total = 1 / spread**2, log(factor) / spread**2
            for sample in mine:
                plain, variance = self._decode.predict(_decode_features(sample.cpu_share))
                seen = log(sample.decode_s / max(plain, self._floor[0]))
                weight = 1 / (sample.sigma**2 + variance / max(plain, 1e-12) ** 2)
                precision, total = precision + weight, total + seen * weight
            self._corrections[key] = (exp(total / precision), sqrt(1 / precision))

    def _factor(self, knobs: KnobValues) -> tuple[float, float]:
        """How many times longer decoding takes than with f16 and flash attention, and its spread."""
        rows = [
            self._corrections.get(("kv_type", knobs.kv_type), ONE),
            self._corrections.get(("flash_attn", knobs.flash_attn), ONE),
        ]
        product = rows[0][0] * rows[1][0]
        return product, sqrt(rows[0][1] ** 2 + rows[1][1] ** 2)


def sample_of(record: TrialRecord, space: Space) -> Sample | None:
    """A finished trial as a sample; None where it can't be compared or was not timed."""
    observation, knobs = record.observation, record.trial.knobs
    engine_placed = knobs.gpu_layers is None
    if observation.outcome is not Outcome.DONE or (engine_placed and not space.engine_comparable):
        return None
    if not observation.decode_tps or not observation.prompt_tps:
        return None
    offloaded = observation.report.offloaded_layers if observation.report else None
    if not space.has_gpu:
        offloaded = 0  # some builds count layers as offloaded where there is no GPU
    split = observation.report is not None and observation.report.splits_layers
    if engine_placed and (offloaded is None or split):
        return None
    share = space.cpu_share(knobs, offloaded)
    noise = space.noise_split if share > 0 else space.noise_gpu
    return Sample(
        knobs=knobs,
        cpu_share=share,
        decode_s=1 / observation.decode_tps,
        prompt_s=1 / observation.prompt_tps,
        sigma=max(noise, (observation.spread or 0.0) / 2),
    )


def _decoding(knobs: KnobValues) -> tuple[str, bool, int | None]:
    """What decoding depends on beside where the bytes lie."""
    return knobs.kv_type, knobs.flash_attn == "off", knobs.threads


def _decode_features(share: float) -> tuple[float, float, float]:
    return 1.0, share, float(share > 0)


def _copies(asked: int, knobs: KnobValues, share: float) -> float:
    """Whole-model copies to the GPU for each prompt token."""
    return share * ceil(asked / min(knobs.ubatch, knobs.batch)) / asked


def _scale(pairs: Sequence[tuple[float, tuple[float, ...]]], prior: tuple[float, ...]) -> float:
    """The prior's unit: the fastest sample over what the prior says of it."""
    if not pairs:
        return 1.0
    value, features = min(pairs)
    return value / sum(weight * feature for weight, feature in zip(prior, features, strict=True))
