"""Recordings as the recorder of the real ones would have made them, of models and cards nobody has.

``modelled_recording(seed)`` draws one: a model (dense or a mixture of experts), a card, a grid of settings
as the recorder lays it, noisy speeds, and failures with the engine's own words. The same seed gives the
same recording. ``smaller(recording, …)`` takes its top layer counts away, written down in several ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log
from random import Random

import msgspec

from narthex.trials.replay import EngineDefault, Point, RecordedFailure, Recording

UBATCHES = (128, 256, 512, 1024)
DEPTH = 3072
FAMILIES = (
    "roomy", "tight", "mixture", "partial", "long grid", "slow card", "small, prompt-heavy",
    "q8_0 makes it fit",
    "cpu only", "flash off is faster", "depth 0 only", "small micro-batch is best",
)  # fmt: skip
STYLES = ("all lists", "f16 only", "f16 fails, rest stays", "point by point", "one entry")
TEXTS = {
    "compute": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {mib:.2f} MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size {size}\n"
        "graph_reserve: failed to allocate compute buffers\nllama_init_from_model: failed to initialize "
        "the context: failed to allocate compute pp buffers\n"
        "llama_bench: error: failed to create context with model 'm.gguf'\n"
    ),
    "cache": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {mib:.2f} MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "ggml_backend_buft_alloc_buffer_n_default: failed to allocate CUDA0 buffer of size {size}\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n"
        "llama_bench: error: failed to create context with model 'm.gguf'\n"
    ),
    "weights": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {mib:.2f} MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size {size}\n"
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "llama_model_load_from_file_impl: failed to load model\n"
        "llama_bench: error: failed to load model 'm.gguf'\n"
    ),
    "plain": "cudaMalloc failed: out of memory",
}
Setting = tuple[int, int, str, bool]  # gpu_layers, micro-batch, KV type, flash attention


class Nature(msgspec.Struct, frozen=True, kw_only=True):
    """What a model on a card is like. Times in seconds a token; memory counted in layers."""

    layers: int  # the output layer counted
    decode_s: float  # everything on the card
    cpu_ratio: float  # a layer in main memory over one on the card
    hop: float  # going to and fro, over decode_s
    prompt_ratio: float  # a prompt token over a generated one, at large micro-batches
    batch_tokens: float  # at this micro-batch a prompt token costs twice as much
    large_batch_cost: float  # how much slower each doubling beyond 256 makes a prompt
    stream: float  # copying all weights for a micro-batch, over decode_s
    depth_cost: float  # per 4096 tokens of depth, decoding
    coded_cost: float  # q8_0 and q4_0, decoding
    flash_off_cost: float
    cache: float  # the cache of 4096 tokens of one layer, over the layer
    compute: float  # compute buffers at micro-batch 512, in layers
    limit: float  # what the card holds, in layers
    noise_gpu: float
    noise_split: float
    outliers: float  # share of points that are off by a tenth to a third


def modelled_recording(seed: int, family: str | None = None) -> Recording:
    """A recording of a family (by the seed where none is given)."""
    family = family or FAMILIES[seed % len(FAMILIES)]
    random = Random(f"recording/{seed}/{family}")
    nature = _nature(random, family)
    points: list[Point] = []
    failures: dict[tuple[int, str, bool, int], list[tuple[int, int]]] = {}
    for setting, depth in _grid(random, family, nature):
        layers, ubatch, kv_type, flash = setting
        if _need(nature, setting, depth) > nature.limit:
            failures.setdefault((layers, kv_type, flash, 0), []).append((ubatch, depth))
            continue
        prompt_s, decode_s = _times(nature, setting, depth)
        noise = nature.noise_gpu if layers == nature.layers else nature.noise_split
        points.append(
            Point(
                gpu_layers=layers,
                ubatch=ubatch,
                kv_type=kv_type,
                flash_attn=flash,
                depth=depth,
                prompt_tps=round(_noisy(random, 1 / prompt_s, noise, nature.outliers), 3),
                decode_tps=round(_noisy(random, 1 / decode_s, noise, nature.outliers), 3),
            )
        )
    return Recording(
        model=f"{family} {seed}",
        gpu="modelled",
        gpu_free_mib=19950,
        cpu_threads=16,
        engine_default=_placements(random, nature, family),
        points=tuple(points),
        failures=tuple(_failures(nature, failures)),
    )


def smaller(recording: Recording, count: int, depth: int, style: str, seed: int = 0) -> Recording:
    """A recording with its top ``count`` layer counts turned into failures, written in a style."""
    random = Random(f"smaller/{recording.model}/{count}/{style}/{seed}")
    tops = sorted({p.gpu_layers for p in recording.points if p.depth == depth}, reverse=True)[:count]
    text = random.choice(list(TEXTS.values())).format(mib=681.03, size=714113024)
    gone = [p for p in recording.points if p.gpu_layers in tops]
    if style == "f16 fails, rest stays":
        gone = [p for p in gone if p.kv_type == "f16"]
    ubatches, depths = sorted({p.ubatch for p in gone}), sorted({p.depth for p in gone})

    def failure(layers: object, kv: object, flash: object, small: object, at: object) -> RecordedFailure:
        values = {"gpu_layers": layers, "kv_type": kv, "flash_attn": flash, "ubatches": small, "depths": at}
        body = {**values, "completed": 0, "exit_code": 1, "stderr_tail": text}
        return msgspec.convert(body, RecordedFailure)

    if style == "point by point":
        rows = [failure(p.gpu_layers, p.kv_type, p.flash_attn, [p.ubatch], [p.depth]) for p in gone]
    elif style == "one entry":
        rows = [failure(tops, ["f16", "q8_0", "q4_0"], [True, False], ubatches, depths)]
    elif style == "all lists":
        rows = [failure(n, ["f16", "q8_0", "q4_0"], [True, False], ubatches, depths) for n in tops]
    else:
        rows = [failure(n, "f16", True, ubatches, depths) for n in tops]
    return msgspec.structs.replace(
        recording,
        points=tuple(p for p in recording.points if p not in gone),
        failures=(*(recording.failures or ()), *rows),
    )


def _nature(random: Random, family: str) -> Nature:
    layers = random.choice((25, 27, 29, 33, 37, 41, 43, 47, 49, 57, 61, 63, 65, 81))
    mixture = family == "mixture" or (
        family not in {"small, prompt-heavy", "cpu only"} and random.random() < 0.2
    )
    slow = family == "slow card" or random.random() < 0.2
    decode_s = exp(random.uniform(log(0.004), log(0.018))) * (3.5 if slow else 1.0)
    if mixture:
        decode_s *= 0.4
    if family == "small, prompt-heavy":
        decode_s = exp(random.uniform(log(0.001), log(0.004)))
    limits = {
        "roomy": 10.0, "mixture": random.choice((1.1, 1.3, 10.0)), "small, prompt-heavy": 10.0,
        "cpu only": 10.0,
        "small micro-batch is best": 10.0, "flash off is faster": 10.0,
        "partial": random.uniform(0.25, 0.9), "long grid": random.uniform(0.3, 1.2),
    }  # fmt: skip
    cache = exp(random.uniform(log(0.02), log(0.25)))
    compute = exp(random.uniform(log(0.3), log(2.0)))
    if family == "q8_0 makes it fit":  # between what f16 and q8_0 need at 3840 tokens
        whole = layers * (1 + 0.94 * cache * random.uniform(0.6, 0.9)) + compute
        limit = whole
    elif family == "tight":
        limit = layers * (1 + 0.94 * cache) + compute * random.uniform(0.4, 2.2)
    else:
        limit = layers * limits.get(family, random.choice((0.8, 1.1, 10.0))) * (1 + cache)
    ratio = random.uniform(3.5, 9) if slow else random.uniform(8, 26)
    return Nature(
        layers=layers,
        decode_s=decode_s,
        cpu_ratio=ratio * (0.6 if mixture else 1.0),
        hop=random.uniform(0.0, 0.6 if mixture else 0.2),
        prompt_ratio=random.uniform(0.015, 0.06) * (2.5 if family == "small, prompt-heavy" else 1.0),
        batch_tokens=random.uniform(20, 120) * (2.0 if family == "small, prompt-heavy" else 1.0),
        large_batch_cost=random.uniform(0.15, 0.5) if family == "small micro-batch is best"
        else random.choice((0.0, 0.0, 0.03)),
        stream=random.uniform(4, 20),
        depth_cost=random.uniform(0.02, 0.15),
        coded_cost=random.uniform(1.02, 1.2),
        flash_off_cost=random.uniform(0.8, 0.94) if family == "flash off is faster"
        else random.uniform(1.02, 1.2),
        cache=cache,
        compute=compute,
        limit=limit,
        noise_gpu=random.uniform(0.003, 0.025),
        noise_split=random.uniform(0.01, 0.06),
        outliers=random.choice((0.0, 0.03, 0.08)),
    )  # fmt: skip


def _grid(random: Random, family: str, nature: Nature) -> Iterable[tuple[Setting, int]]:
    """What the recorder asks for: a fine grid near the top, other KV types at two counts, a few more."""
    top = nature.layers
    fits = int((nature.limit - nature.compute) / (1 + nature.cache))
    if family == "cpu only":
        counts: Sequence[int] = (0,)
    elif family == "long grid":
        counts = [top - step for step in range(0, top, random.choice((2, 3, 4)))][:14]
    elif fits < top - 9:  # the recorder lays the grid round the edge, and the top is tried as well
        counts = [top, *(max(fits + step, 1) for step in (3, 2, 1, 0, -1, -3, -7))]
    else:
        counts = [top - step for step in (0, 1, 2, 3, 5, 9)]
    counts = sorted({count for count in counts if 0 <= count <= top}, reverse=True)
    few = random.sample(UBATCHES, 2) if len(counts) > 9 else UBATCHES
    depths = (0,) if family == "depth 0 only" else (0, DEPTH)
    yield from (((n, u, "f16", True), d) for n in counts for u in few for d in depths)
    coded = [counts[0], counts[min(3, len(counts) - 1)]]
    if family == "q8_0 makes it fit":
        coded = counts[:3]
    wide = UBATCHES if family == "q8_0 makes it fit" and random.random() < 0.5 else (512,)
    yield from (
        ((n, u, k, True), d)
        for n in dict.fromkeys(coded)
        for u in wide
        for k in ("q8_0", "q4_0")
        for d in depths
    )
    if family not in {"depth 0 only", "cpu only"}:
        yield from (((counts[0], 512, k, True), 12288) for k in ("f16", "q8_0"))
    yield (counts[0], 512, "f16", False), 0
    if family == "flash off is faster":
        yield from (((n, u, "f16", False), DEPTH) for n in counts[:3] for u in (256, 512))
    if family != "cpu only" and random.random() < 0.8:
        coarse = {int(top * share) for share in (0.75, 0.5)} | {19, 0}
        yield from (((n, 256, "f16", True), 0) for n in coarse if n < top and n not in counts)


def _times(nature: Nature, setting: Setting, depth: int) -> tuple[float, float]:
    """(seconds a prompt token, seconds a generated token) without noise."""
    layers, ubatch, kv_type, flash = setting
    share = 1 - layers / nature.layers
    deep = 1 + nature.depth_cost * depth / 4096
    decode = nature.decode_s * (1 - share + nature.cpu_ratio * share * deep + nature.hop * (share > 0)) * deep
    asked = min(ubatch, 512)
    prompt = nature.decode_s * nature.prompt_ratio * (1 + nature.batch_tokens / asked)
    prompt *= (1 + nature.large_batch_cost) ** max(log(ubatch / 256, 2), 0)
    prompt += nature.stream * nature.decode_s * share * -(-512 // asked) / 512
    if kv_type != "f16":
        decode, prompt = decode * nature.coded_cost, prompt * 1.03
    if not flash:
        decode, prompt = decode * nature.flash_off_cost, prompt * nature.flash_off_cost
    return prompt, decode


def _need(nature: Nature, setting: Setting, depth: int) -> float:
    layers, ubatch, kv_type, flash = setting
    cache = {"f16": 1.0, "q8_0": 0.53}.get(kv_type, 0.28) * nature.cache * (depth + 768) / 4096
    compute = nature.compute * ubatch / 512 * (1.0 if flash else 1.5) if layers else 0.0
    return layers * (1 + cache) + compute


def _noisy(random: Random, value: float, sigma: float, outliers: float) -> float:
    if random.random() < outliers:
        slow = random.random() < 0.8
        return value * (1 - random.uniform(0.1, 0.33) if slow else 1 + random.uniform(0.05, 0.15))
    return value * exp(random.gauss(0, sigma))


def _placements(random: Random, nature: Nature, family: str) -> tuple[EngineDefault, ...]:
    if family in {"cpu only", "depth 0 only"} or random.random() < 0.3:
        return ()
    room = nature.limit - nature.compute - 0.05 * nature.layers  # the engine leaves a gibibyte free
    layers = max(0, min(int(room / (1 + nature.cache)), nature.layers))
    prompt_s, decode_s = _times(nature, (layers, 512, "f16", True), DEPTH)
    return (
        EngineDefault(
            ctx=4096,
            args=f"-c 4096 -ngl {layers - 1}",
            offloaded=f"offloaded {layers}/{nature.layers}",
            prompt_tps=0.8 / prompt_s,
            decode_tps=0.8 / decode_s,
        ),
        EngineDefault(ctx=16384, args=f"-c 16384 -ngl {max(layers - 6, 0)}"),
    )


def _failures(
    nature: Nature, found: dict[tuple[int, str, bool, int], list[tuple[int, int]]]
) -> Iterable[RecordedFailure]:
    """One entry for each layer count, KV type and depth group, in the recorder's manner: its lists cover also
    what it had completed before."""
    for (layers, kv_type, flash, _), cells in found.items():
        ubatches, depths = sorted({u for u, _ in cells}), sorted({d for _, d in cells})
        cache = layers * nature.cache * (max(depths) + 768) / 4096
        if layers > nature.limit:
            kind, size = "weights", float(layers)
        elif layers + cache > nature.limit:
            kind, size = "cache", cache
        else:
            kind, size = "compute", nature.compute
        mib = size * 19950 / nature.limit
        text = TEXTS[kind].format(mib=mib, size=int(mib * 2**20))
        if kind == "compute":  # it printed rows before the largest micro-batch failed
            ubatches = (
                sorted(set(UBATCHES)) if len(ubatches) > 1 or ubatches[0] == max(UBATCHES) else ubatches
            )
            depths = sorted({0, *depths})
        yield RecordedFailure(
            gpu_layers=layers,
            kv_type=kv_type,
            flash_attn=flash,
            ubatches=tuple(ubatches),
            depths=tuple(depths),
            completed=7 if kind == "compute" else 0,
            exit_code=1,
            stderr_tail="ggml_cuda_init: found 1 CUDA devices\n" + text,
        )
