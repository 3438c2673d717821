"""«Can it go faster at all?»: decoding speed against what memory bandwidth allows.

To decode one token, every weight that takes part and the whole cache of the context are read once. So no
setting decodes faster than ``1 / (GPU bytes / GPU bandwidth + CPU bytes / CPU bandwidth)`` tokens a second
(Williams, Waterman, Patterson: Roofline, 2009). Decoding one stream is always on the memory side of it.
"""

from __future__ import annotations

import msgspec

from narthex.knobs import KnobValues
from narthex.models.inspection import AttentionKind, Inspection, LayerShape

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one cached element: blocks of 32 take 34 bytes in q8_0 and 18 in q4_0 (ggml-common.h)."""


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a second that can be read, by kind of memory; None is unknown."""

    gpu: float | None = None
    cpu: float | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes read to decode one token, by the memory that they lie in."""

    gpu_bytes: int
    cpu_bytes: int


def traffic(inspection: Inspection, knobs: KnobValues, *, depth: int) -> Traffic:
    """Bytes read for one token with ``depth`` tokens in the context.

    ``knobs.gpu_layers`` must be a number where there is a GPU; None counts as 0. Of routed experts only the
    chosen ones are read. The embedding table is read as the output layer where the two are one.
    """
    on_gpu = min(knobs.gpu_layers or 0, inspection.layers + 1)
    first = inspection.layers + 1 - on_gpu  # llama.cpp offloads from the end; the output layer is the last
    gpu = cpu = 0
    decoding = len(inspection.layer_shapes) - inspection.nextn_layers  # the last only guess ahead
    for index, layer in enumerate(inspection.layer_shapes[:decoding]):
        share = inspection.experts_used / inspection.experts if inspection.experts else 1.0
        experts = int(layer.expert_bytes * share)
        rest = layer.weight_bytes - layer.expert_bytes + _cache_bytes(layer, knobs.kv_type, depth)
        if index < first:
            cpu += rest + experts
        elif index < knobs.cpu_moe:
            gpu, cpu = gpu + rest, cpu + experts
        else:
            gpu += rest + experts
    output = inspection.group_bytes.get("output", 0) or inspection.group_bytes.get("embedding", 0)
    if on_gpu:
        gpu += output
    else:
        cpu += output
    return Traffic(gpu_bytes=gpu, cpu_bytes=cpu)


def roofline_share(
    inspection: Inspection, knobs: KnobValues, decode_tps: float, bandwidth: Bandwidth, *, depth: int = 0
) -> float | None:
    """Decoding speed as a share of the bandwidth's limit; 1.0 is the roof. None: a bandwidth is unknown."""
    read = traffic(inspection, knobs, depth=depth)
    seconds = 0.0
    for size, rate in ((read.gpu_bytes, bandwidth.gpu), (read.cpu_bytes, bandwidth.cpu)):
        if size and not rate:
            return None
        if rate:
            seconds += size / rate
    return decode_tps * seconds if seconds else None


def _cache_bytes(layer: LayerShape, kv_type: str, depth: int) -> int:
    if layer.attention in (AttentionKind.RECURRENT, AttentionKind.NONE):
        return layer.state_bytes
    seen = min(depth, layer.window) if layer.window else depth
    heads = 1 if layer.attention is AttentionKind.LATENT else layer.kv_heads
    row = heads * (layer.key_length + layer.value_length) + layer.index_length
    return layer.state_bytes + int(seen * row * KV_BYTES.get(kv_type, 2.0))
