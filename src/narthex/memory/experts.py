"""The mixture-of-experts block (``build_moe_ffn`` of llama.cpp b11434)."""

from __future__ import annotations

from typing import NamedTuple

from narthex.memory.blocks import Blocks
from narthex.memory.graph import (
    Tensor,
    cont,
    fresh,
    get_rows,
    like,
    mul_mat,
    mul_mat_id,
    repeat,
    reshape,
    set_rows,
    sum_rows,
    top_k,
    view,
)


class Routing(NamedTuple):
    """How an architecture picks and weighs experts."""

    gating: str = "softmax"  # softmax, sigmoid, late (softmax over the chosen only)
    normed: bool = True  # weights of the chosen are made to add up to one
    scaled: bool = False
    groups: int = 0  # expert groups to choose from first
    groups_used: int = 0
    weigh_first: bool = False  # llama4: tokens are weighed before the experts, not after
    act: str = "glu"
    from_file: bool = False  # gating and norm as the file says
    default_gating: int = 1  # where it does not: 1 softmax, 2 sigmoid


def mixture(
    b: Blocks, layer: int, x: Tensor, routing: Routing, *, used: int, logits: Tensor | None = None
) -> Tensor:
    """Route each token to ``used`` experts and add up what they say."""
    g, width, n = b.graph, x.ne[0], x.ne[1]
    if logits is None:
        logits = mul_mat(b.need(layer, "ffn_gate_inp"), x)
    gate_bias = b.weight(layer, "ffn_gate_inp", "bias")
    if gate_bias is not None:
        logits = like("add", logits, gate_bias)
    ids, weights = _choose(b, layer, logits, routing, used)
    g.expand(weights)
    x = reshape(x, width, 1, n)
    if routing.weigh_first:
        x = like("mul", repeat(x, width, used, n), weights)
    x = _through_experts(b, layer, x, ids, routing)
    if not routing.weigh_first:
        x = like("mul", x, weights)
    g.expand(x)
    parts = [view(x, (width, n), (x.nb[2],)) for _ in range(used)]
    for part in parts:
        g.expand(part)
    out = parts[0]
    for part in parts[1:]:
        out = g.expand(like("add", out, part))
    return cont(out) if used == 1 else out


def _choose(b: Blocks, layer: int, logits: Tensor, routing: Routing, used: int) -> tuple[Tensor, Tensor]:
    experts, n = logits.ne[:2]
    probs = logits
    if routing.gating == "softmax":
        probs = like("soft_max", logits)
    elif routing.gating == "sigmoid":
        probs = like("unary", logits)
    choice = probs
    bias = b.weight(layer, "exp_probs_b", "bias")
    if bias is not None:
        choice = like("add", probs, bias)
    if routing.weigh_first:
        choice = logits
    if routing.groups > 1:
        choice = _best_groups(choice, experts, routing, n)
    ids = top_k(choice, used)
    weights = get_rows(reshape(probs, 1, experts, n), ids)
    if routing.gating == "late":
        weights = reshape(like("soft_max", reshape(weights, used, n)), 1, used, n)
    if routing.normed:
        weights = reshape(weights, used, n)
        total = like("clamp", sum_rows(weights))
        weights = reshape(like("div", weights, total), 1, used, n)
    if routing.scaled:
        weights = like("scale", weights)
    return ids, weights


def _best_groups(choice: Tensor, experts: int, routing: Routing, n: int) -> Tensor:
    size, groups = experts // routing.groups, routing.groups
    grouped = reshape(choice, size, groups, n)
    best = top_k(grouped, 2)
    scores = get_rows(reshape(grouped, 1, size, groups, n), best)
    scores = sum_rows(reshape(scores, scores.ne[1], scores.ne[2], scores.ne[3]))
    chosen = top_k(reshape(scores, scores.ne[1], scores.ne[2]), routing.groups_used)
    kept = get_rows(grouped, chosen)
    return reshape(set_rows(like("fill", grouped), kept, chosen), experts, n)


def _through_experts(b: Blocks, layer: int, x: Tensor, ids: Tensor, routing: Routing) -> Tensor:
    fused = b.weight(layer, "ffn_gate_up_exps")
    if fused is not None:
        both = _expert(b, layer, "ffn_gate_up_exps", x, ids)
        half = (both.ne[0] // 2, both.ne[1], both.ne[2])
        x = fresh("glu", "F32", (*half, 1), view(both, half, both.nb[1:3]), view(both, half, both.nb[1:3]))
    else:
        raised = _expert(b, layer, "ffn_up_exps", x, ids)
        if b.weight(layer, "ffn_gate_exps") is not None:
            x = like("glu", _expert(b, layer, "ffn_gate_exps", x, ids), raised)
        else:
            x = like("unary", raised)
            if routing.act == "relu_sqr":
                x = like("sqr", x)
    return _expert(b, layer, "ffn_down_exps", x, ids)


def _expert(b: Blocks, layer: int, name: str, x: Tensor, ids: Tensor) -> Tensor:
    """The chosen experts' matrix product, with the scale and the bias of each where the file has them."""
    out = mul_mat_id(b.need(layer, name), x, ids)
    scale = b.weight(layer, name, "scale")
    if scale is not None:
        count, n = scale.ne[0], x.ne[2]
        rows = repeat(reshape(scale, 1, count, 1), 1, count, n)
        out = like("mul", out, get_rows(rows, ids))
    bias = b.weight(layer, name, "bias")
    return like("add_id", out, bias, ids) if bias is not None else out
