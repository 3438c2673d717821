"""Bounds of the compute buffers where the graph of an architecture is not known."""

from __future__ import annotations

from narthex.memory.blocks import Setup
from narthex.memory.weights import Placement
from narthex.models.inspection import Inspection


def rough_compute(
    inspection: Inspection, setup: Setup, placement: Placement
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bounds of the compute buffers from sizes alone, as ((GPU, host), (GPU, host)).

    At least the logits and one layer's widest row; at most eight of the widest rows, the scores of all heads
    without flash attention, and two copies of the largest weight that would be fetched from the host.
    """
    row = 4 * setup.tokens
    widest = max((t.dims[1] for t in inspection.tensors if len(t.dims) == 2 and ".attn" in t.name), default=0)
    widest = max(widest, inspection.feed_forward_length, inspection.embedding_length)
    logits = 4 * inspection.vocabulary * setup.outputs
    scores = 0 if setup.flash else 2 * 4 * setup.cells * setup.tokens * max(inspection.heads, 1)
    fetched = 0
    if placement.first:
        fetched = 2 * max((tensor.nbytes for tensor in inspection.tensors), default=0)
    low = max(logits, widest * row)
    experts = inspection.experts_used * (
        inspection.embedding_length + 2 * inspection.expert_feed_forward_length
    )
    high = logits + 8 * widest * row + 3 * experts * row + scores + fetched
    inputs = 4 * inspection.embedding_length * row + 4 * setup.cells * setup.tokens
    if not placement.gpu:
        return (0, low), (0, high + inputs)
    return (low, 0), (high, inputs + logits)
