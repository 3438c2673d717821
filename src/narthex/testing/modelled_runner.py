"""``ModelledMachine``: an honest stand-in for an engine on a card, computed from bytes and bandwidths.

It answers trials like a real engine does: a setting that needs more memory than the card has fails with the
line that names the buffer, and speeds come from bytes read over bandwidths, with noise by seed. It is not
the study's cost model: the CPU part is not quite linear and depends on the threads.
"""

from __future__ import annotations

import hashlib
import time
from math import ceil, exp
from random import Random

import msgspec

from narthex.engines._base import LoadReport
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.trials.observation import Observation, TurnTiming
from narthex.trials.replay import Point, RecordedFailure, Recording, turn_timing
from narthex.trials.trial import Trial, Turn, Watch
from narthex.units import GIB, MIB

KV_SHARE = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}  # of the bytes of an f16 cache


class ModelledMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a card. Bandwidths in bytes a second."""

    all_layers: int = 65  # output layer counted
    layer_bytes: int = 280 * MIB
    read_share: float = 1.0  # of a layer's bytes that one token reads: below 1 with experts
    kv_bytes: int = 4096  # of one token in one layer, f16
    compute_bytes: int = 80 * MIB  # whatever the micro-batch
    compute_token_bytes: int = 600_000  # for each token of the micro-batch
    gpu_free_bytes: int = 20 * GIB
    gpu_bandwidth: float = 360e9
    cpu_bandwidth: float = 50e9
    bus_bandwidth: float = 20e9
    gpu_prompt_tps: float = 2000.0  # all layers on the GPU, large micro-batch
    token_s: float = 0.0005  # what a token costs beside memory
    cores: int = 16
    noise: float = 0.0  # standard deviation of a speed's logarithm
    seed: int = 0

    def need_bytes(self, knobs: KnobValues) -> int:
        """GPU memory of a setting."""
        layers = self.layers_of(knobs)
        if layers == 0:
            return 0
        weights = layers * self.layer_bytes
        ubatch = min(knobs.ubatch, knobs.batch)
        return (
            weights
            + self._cache_bytes(knobs, layers)
            + self.compute_bytes
            + ubatch * self.compute_token_bytes
        )

    def layers_of(self, knobs: KnobValues) -> int:
        """Layers on the GPU; what the engine's own placement chooses keeps 1 GiB free."""
        if knobs.gpu_layers is not None:
            return min(knobs.gpu_layers, self.all_layers)
        for layers in range(self.all_layers, 0, -1):
            if self.need_bytes(knobs.with_(gpu_layers=layers)) + GIB <= self.gpu_free_bytes:
                return layers
        return 0

    def speeds(self, knobs: KnobValues, turn: Turn) -> tuple[float, float]:
        """(prompt tokens/s, decode tokens/s), noise included."""
        share = 1 - self.layers_of(knobs) / self.all_layers
        read = self.all_layers * self.layer_bytes * self.read_share
        cache = self.all_layers * self.kv_bytes * KV_SHARE[knobs.kv_type] * turn.depth
        threads = min(knobs.threads or self.cores, self.cores) / self.cores
        slow = 1.08 if knobs.kv_type != "f16" else 1.0
        slow *= 1.1 if knobs.flash_attn == "off" else 1.0
        gpu_s = (1 - share) * (read + cache) / self.gpu_bandwidth * slow
        cpu_s = share**0.95 * (read + cache) / self.cpu_bandwidth / min(1.0, threads * 1.5)
        decode_s = gpu_s + cpu_s + self.token_s
        ubatch = min(knobs.ubatch, knobs.batch, turn.prompt_tokens)
        passes = ceil(turn.prompt_tokens / ubatch)
        copied = share * self.all_layers * self.layer_bytes / self.bus_bandwidth * passes
        prompt_s = turn.prompt_tokens / self.gpu_prompt_tps * (1 + 60 / ubatch) + copied
        return (
            turn.prompt_tokens / prompt_s * self._wobble(knobs, "prompt"),
            1 / decode_s * self._wobble(knobs, "decode"),
        )

    def failure_line(self, knobs: KnobValues) -> str | None:
        """The line that proves that a setting does not fit; None where it does."""
        free = self.gpu_free_bytes
        if self.need_bytes(knobs) <= free:
            return None
        layers = self.layers_of(knobs)
        weights = layers * self.layer_bytes
        asked, what = weights, "unable to allocate CUDA0 buffer: error loading model"
        if weights <= free:
            asked, what = self._cache_bytes(knobs, layers), "failed to allocate buffer for kv cache"
        if weights + self._cache_bytes(knobs, layers) <= free:
            asked, what = (
                self.need_bytes(knobs) - weights,
                "graph_reserve: failed to allocate compute buffers",
            )
        return f"allocating {asked / MIB:.2f} MiB on device 0: cudaMalloc failed: out of memory | {what}"

    def recording(
        self,
        layers: tuple[int, ...],
        *,
        ubatches: tuple[int, ...] = (128, 256, 512, 1024),
        kv_types: tuple[str, ...] = ("f16",),
        depths: tuple[int, ...] = (3072,),
        name: str = "modelled",
    ) -> Recording:
        """A recording of a grid of settings on this machine."""
        points, failures = [], []
        for count in layers:
            for ubatch in ubatches:
                for kv_type in kv_types:
                    for depth in depths:
                        turn = Turn(depth=depth)
                        knobs = KnobValues(
                            num_ctx=depth + 1024,
                            gpu_layers=count,
                            ubatch=ubatch,
                            kv_type=kv_type,
                            flash_attn="on",
                        )
                        line = self.failure_line(knobs)
                        if line:
                            failures.append(
                                RecordedFailure(
                                    gpu_layers=count,
                                    kv_type=kv_type,
                                    ubatches=(ubatch,),
                                    depths=(depth,),
                                    exit_code=1,
                                    stderr_tail=line.replace(" | ", "\n"),
                                )
                            )
                            continue
                        prompt_tps, decode_tps = self.speeds(knobs, turn)
                        points.append(
                            Point(
                                gpu_layers=count,
                                ubatch=ubatch,
                                kv_type=kv_type,
                                depth=depth,
                                prompt_tps=prompt_tps,
                                decode_tps=decode_tps,
                            )
                        )
        return Recording(
            model=name,
            points=tuple(points),
            failures=tuple(failures),
            gpu_free_mib=self.gpu_free_bytes / MIB,
            cpu_threads=self.cores,
        )

    def _cache_bytes(self, knobs: KnobValues, layers: int) -> int:
        tokens = knobs.num_ctx * knobs.parallel
        return int(layers * self.kv_bytes * KV_SHARE[knobs.kv_type] * tokens)

    def _wobble(self, knobs: KnobValues, what: str) -> float:
        """The same setting always wobbles the same way, and more with layers on the CPU."""
        if not self.noise:
            return 1.0
        text = f"{self.seed}/{knobs.describe()}/{what}"
        random = Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        split = self.layers_of(knobs) < self.all_layers
        return exp(random.gauss(0, self.noise * (1.0 if split else 0.3)))


class ModelledRunner:
    """A :class:`~narthex.trials.trial.Runner` over a modelled machine. ``pause_s``: what a load takes."""

    def __init__(self, machine: ModelledMachine, pause_s: float = 0.0) -> None:
        self.machine = machine
        self.pause_s = pause_s
        self.trials: list[Trial] = []  # all that was run

    def run(self, trial: Trial, watch: Watch) -> Observation:
        """Load, or fail with the line that proves it; then time the turns."""
        self.trials.append(trial)
        watch("loading", None)
        if self.pause_s:
            time.sleep(self.pause_s)
        machine, knobs = self.machine, trial.knobs
        line = machine.failure_line(knobs)
        if line is not None:
            return Observation(outcome=Outcome.OUT_OF_MEMORY, reason=line)
        layers = machine.layers_of(knobs)
        return Observation(
            outcome=Outcome.DONE,
            reason=f"{layers} of {machine.all_layers} layers on the card",
            load_s=self.pause_s,
            turns=tuple(self._turn(trial, number) for number in range(trial.repeats)),
            report=LoadReport(
                offloaded_layers=layers, total_layers=machine.all_layers, num_ctx=knobs.num_ctx
            ),
        )

    def _turn(self, trial: Trial, number: int) -> TurnTiming:
        prompt_tps, decode_tps = self.machine.speeds(trial.knobs, trial.turn)
        drift = 1 + 0.002 * (number - 1)  # repeats of a real engine differ by about so much
        return turn_timing(trial.turn, prompt_tps * drift, decode_tps * drift)
