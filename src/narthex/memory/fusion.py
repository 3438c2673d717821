"""Buffers that the CUDA backend keeps alive longer, so that it may run several nodes as one.

``ggml_backend_cuda_graph_optimize`` (``ggml-cuda.cu`` of llama.cpp b11434) looks for three patterns around
experts and asks the allocator not to reuse what the joined kernel still reads.
"""

from __future__ import annotations

from narthex.memory.graph import PLAIN, Tensor, is_contiguous
from narthex.memory.placement import GPU, Split

MOST_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS
ODD_EXPERT_COUNTS = (288, 576)  # kernels exist for these and for powers of two up to 512

Held = dict[Tensor, list[Tensor]]


def held_longer(nodes: list[Tensor], splits: list[Split]) -> Held:
    """Node → tensors that may not be freed before it. Reorders ``nodes`` where the backend does."""
    held: Held = {}
    for split in splits:
        if split.device != GPU:
            continue
        part = nodes[split.start : split.end]
        if any(node.op == "mul_mat_id" for node in part):
            _join_shared_experts(part, held)
            nodes[split.start : split.end] = part
        _join_routing(part, held)
    return held


def _hold(held: Held, tensor: Tensor, until: Tensor) -> None:
    kept = held.setdefault(until, [])
    if tensor not in kept:
        kept.append(tensor)


def _join_shared_experts(part: list[Tensor], held: Held) -> None:
    """Gate, up and activation of the shared expert move behind those of the routed ones."""
    i = 0
    while i + 5 < len(part):
        if part[i].op == "mul_mat_id":
            for j in range(i + 3, len(part) - 2):
                if part[j].op == part[j + 1].op == "mul_mat_id":
                    break
                if part[j].op == "mul_mat" and _is_shared_expert(part, i, j):
                    part[i + 3 : j + 3] = part[j : j + 3] + part[i + 3 : j]
                    up = part[i + 2].src[1]
                    _hold(held, up.src[1], part[i + 5])
                    _hold(held, up.src[2], part[i + 5])
                    i += 5
                    break
        i += 1


def _is_shared_expert(part: list[Tensor], i: int, j: int) -> bool:
    routed, shared = part[i + 2], part[j + 2]
    if routed.op != "glu" or shared.op != "glu" or len(routed.src) < 2 or len(shared.src) < 2:
        return False
    gate, up = routed.src
    shared_gate, shared_up = shared.src
    if {id(gate), id(up)} != {id(part[i]), id(part[i + 1])}:
        return False
    if {id(shared_gate), id(shared_up)} != {id(part[j]), id(part[j + 1])}:
        return False
    weight, shared_weight = up.src[0], shared_up.src[0]
    taken = up.src[1]
    return (
        up.op == "mul_mat_id"
        and shared_up.op == "mul_mat"
        and weight.kind not in PLAIN
        and weight.home is not None
        and taken.op == "reshape"
        and taken.src[0] is shared_up.src[1]
        and taken.ne[1] == 1
        and weight.kind == shared_weight.kind
        and weight.ne[:2] == shared_weight.ne[:2]
        and gate.src[0].kind == weight.kind
        and shared_gate.src[0].kind == shared_weight.kind
    )


def _join_routing(part: list[Tensor], held: Held) -> None:
    i = 0
    while i < len(part):
        node = part[i]
        if node.op == "mul":
            length = _weighted_sum(part, i)
            if length:
                experts, weights = _experts_and_weights(node)
                until = part[i + length - 1]
                _hold(held, experts, until)
                _hold(held, weights, until)
                i += length - 1
        elif node.op in ("unary", "soft_max"):
            length = _choice(part, i)
            if length and i + length < len(part):
                until = part[i + length]
                for inner in part[i : i + length]:
                    _hold(held, inner, until)
                    for source in inner.src:
                        _hold(held, source, until)
                i += length - 1
        i += 1


def _experts_and_weights(node: Tensor) -> tuple[Tensor, Tensor]:
    a, b = node.src
    return (a, b) if a.ne == node.ne else (b, a)


def _weighted_sum(part: list[Tensor], i: int) -> int:
    """Nodes of «experts × weights, then added up» that starts at ``i``; 0 if it is none."""
    node = part[i]
    if len(node.src) != 2 or not is_contiguous(node):
        return 0
    experts, weights = _experts_and_weights(node)
    used = node.ne[1]
    if experts.ne != node.ne or weights.ne != (1, *node.ne[1:]) or not 2 <= used <= MOST_EXPERTS:
        return 0
    views, adds = part[i + 1 : i + 1 + used], part[i + 1 + used : i + 2 * used]
    if len(adds) != used - 1 or not all(v.op == "view" and v.base is node for v in views):
        return 0
    total = views[0]
    for view, add in zip(views[1:], adds, strict=True):
        if add.op != "add" or add.src[0] is not total or add.src[1] is not view:
            return 0
        total = add
    return 2 * used


def _choice(part: list[Tensor], i: int) -> int:
    """Nodes of «scores → the best experts and their weights» that starts at ``i``; 0 if it is none."""
    probs = part[i]
    ops = [node.op for node in part[i : i + 13]]
    biased = ops[2:3] == ["add"]
    wanted = (
        ["reshape", "add", "argsort", "view", "get_rows"]
        if biased
        else ["reshape", "argsort", "view", "get_rows"]
    )
    if ops[1 : 1 + len(wanted)] != wanted or part[i + 1].src[0] is not probs:
        return 0
    length = 1 + len(wanted)
    experts = part[i + length - 2].base.ne[0] if part[i + length - 2].base else 0  # type: ignore[union-attr]
    if (experts & (experts - 1) or experts > 512) and experts not in ODD_EXPERT_COUNTS:
        return 0
    if probs.op == "soft_max" and len(probs.src) > 1:
        return 0
    if ops[length : length + 5] == ["reshape", "sum_rows", "clamp", "div", "reshape"]:
        length += 5
    if ops[length : length + 1] == ["scale"]:
        length += 1
    return length
