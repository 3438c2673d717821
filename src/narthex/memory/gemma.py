"""Gemma 3n and 4: inputs for each layer, caches that later layers share, and 3n's parallel residual streams.

Source: ``gemma3n.cpp`` and ``gemma4.cpp`` of llama.cpp b11434.
"""

from __future__ import annotations

from narthex.memory.experts import mixture
from narthex.memory.graph import (
    Tensor,
    concat,
    cont,
    fresh,
    get_rows,
    like,
    mul_mat,
    permute,
    repeat,
    reshape,
    sum_rows,
    transpose,
    view,
)
from narthex.memory.transformer import Transformer
from narthex.models.inspection import AttentionKind

SLIDING, FULL = AttentionKind.SLIDING, AttentionKind.FULL
SPARSE_LAYERS = 10  # gemma3n: the first layers keep only the largest activations
STREAMS = 4  # gemma3n: parallel residual streams (altup)


class PerLayerInputs(Transformer):
    """What both have: a second embedding with one row for each layer, and shared caches."""

    def begin(self) -> Tensor:
        """As in a transformer, then the inputs of the layers."""
        x = super().begin()
        self.each = self.per_layer(x) if self.named("per_layer_token_embd.weight") is not None else None
        return x

    def per_layer(self, x: Tensor) -> Tensor:
        """Rows of the second embedding plus a projection of the first, one slice a layer."""
        table = self.named("per_layer_token_embd.weight")
        assert table is not None
        layers, n = self.inspection.layers, self.setup.tokens
        width = table.ne[0] // layers
        rows = get_rows(table, self.graph.input("I32", n))
        rows = self.graph.expand(like("scale", reshape(rows, width, layers, n)))
        projection = self.named("per_layer_model_proj.weight")
        assert projection is not None
        projected = reshape(like("scale", mul_mat(projection, x)), width, layers, n)
        projected = self.norm(projected, self.named("per_layer_proj_norm.weight"))
        return cont(permute(like("scale", like("add", projected, rows)), 0, 2, 1, 3))

    def slice_of(self, i: int) -> Tensor:
        """The rows of one layer's input."""
        assert self.each is not None
        return _slice(self.each)

    def is_sliding(self, i: int) -> bool:
        """Whether a layer has a window, those without a cache of their own included."""
        shape = self.inspection.layer_shapes[i]
        if shape.attention is not AttentionKind.NONE:
            return shape.attention is SLIDING
        pattern = self.inspection.metadata.get(
            f"{self.inspection.architecture}.attention.sliding_window_pattern"
        )
        if isinstance(pattern, tuple):
            return bool(pattern[i])
        return i % 5 < 4

    def owner(self, i: int) -> int:
        """The layer whose cache layer ``i`` reads."""
        shapes = self.inspection.layer_shapes
        if shapes[i].attention is not AttentionKind.NONE:
            return i
        first = next(j for j, shape in enumerate(shapes) if shape.attention is AttentionKind.NONE)
        return first - (2 if self.is_sliding(i) else 1)

    def attention(self, i: int, x: Tensor) -> Tensor:
        """Attention with norms on queries, keys and values; later layers read an earlier cache."""
        owner = self.owner(i)
        shape = self.inspection.layer_shapes[owner]
        heads, n, d = self.inspection.layer_shapes[i].heads, self.setup.tokens, shape.key_length
        kind = SLIDING if self.is_sliding(i) else FULL
        k = v = None
        if owner == i and self.weight(i, "attn_v") is not None:
            q, k, v = self.qkv(i, x)
            q = self.norm(q, self.weight(i, "attn_q_norm"))
        else:
            q = self.norm(reshape(self.project(i, "attn_q", x), d, heads, n), self.weight(i, "attn_q_norm"))
            if owner == i:  # keys serve as values too
                both = self.project(i, "attn_k", x)
                k, v = reshape(both, d, shape.kv_heads, n), reshape(both, d, shape.kv_heads, n)
        factors = None if kind is SLIDING else self.rope_factors(i)
        q = self.rope(q, factors)
        if k is not None and v is not None:
            k = self.rope(self.norm(k, self.weight(i, "attn_k_norm")), factors)
            v = like("rms_norm", v)
        out = self.attend(owner, self.inputs[kind], q, k, v)
        return self.project(i, "attn_output", out)


class Gemma4(PerLayerInputs):
    """gemma4, dense and with experts."""

    def layer(self, i: int, x: Tensor, wanted: Tensor | None) -> Tensor:
        """One layer, with the layer's own input folded in at the end."""
        cur = self.attention(i, self.norm(x, self.weight(i, "attn_norm")))
        middle = like("add", self.norm(cur, self.weight(i, "post_attention_norm")), x)
        if self.weight(i, "ffn_gate_inp") is None:
            cur = self.feed_forward(i, self.norm(middle, self.weight(i, "ffn_norm")))
        else:
            cur = self._with_experts(i, middle)
        cur = like("add", self.norm(cur, self.weight(i, "post_ffw_norm")), middle)
        if self.each is not None:
            gate = like("unary", self.project(i, "inp_gate", cur))
            out = self.project(i, "proj", like("mul", gate, self.slice_of(i)))
            cur = like("add", cur, self.norm(out, self.weight(i, "post_norm")))
        scale = self.weight(i, "layer_output_scale")
        return like("mul", cur, scale) if scale is not None else cur

    def _with_experts(self, i: int, middle: Tensor) -> Tensor:
        dense = self.feed_forward(i, self.norm(middle, self.weight(i, "ffn_norm")))
        dense = self.norm(dense, self.weight(i, "post_ffw_norm_1"))
        routed = self.norm(middle, self.weight(i, "pre_ffw_norm_2"))
        seen = like("scale", like("rms_norm", middle))
        scale = self.weight(i, "ffn_gate_inp", "scale")
        seen = like("mul", seen, scale) if scale is not None else seen
        logits = mul_mat(self.need(i, "ffn_gate_inp"), seen)
        routed = mixture(
            self, i, routed, self.recipe.routing, used=self.inspection.experts_used, logits=logits
        )
        return like("add", dense, self.norm(routed, self.weight(i, "post_ffw_norm_2")))


class Gemma3n(PerLayerInputs):
    """gemma3n: four residual streams, predicted before and corrected after each layer."""

    def begin(self) -> Tensor:
        """The embedding, spread over the streams."""
        x = super().begin()
        target = _magnitude(x)
        spread = repeat(x, self.width, self.setup.tokens, STREAMS - 1)
        projection = self.named("altup_proj.weight")
        assert projection is not None
        added = mul_mat(projection, spread)
        size = _magnitude(added)
        return concat(x, like("div", like("mul", added, target), size), 2)

    def layer(self, i: int, x: Tensor, wanted: Tensor | None) -> Tensor:
        """Predict, attend, feed forward, correct, and add the layer's own input."""
        predicted = self._predict(i, x)
        active = _slice(predicted)
        cur = self.norm(active, self.weight(i, "attn_norm"))
        low = mul_mat(self.need(i, "laurel_r"), mul_mat(self.need(i, "laurel_l"), cur))
        laurel = like("add", self.norm(low, self.weight(i, "laurel_post_norm")), cur)
        cur = self.attention(i, cur)
        cur = like("add", self.norm(cur, self.weight(i, "post_attention_norm")), active)
        middle = like("scale", like("add", cur, laurel))
        cur = self._sparse_forward(i, self.norm(middle, self.weight(i, "ffn_norm")))
        cur = like("add", self.norm(cur, self.weight(i, "post_ffw_norm")), middle)
        corrected = self._correct(i, predicted, cur)
        first = like("mul", _slice(corrected), self.need(i, "altup_correct_scale"))
        first = like("unary", self.project(i, "inp_gate", first))
        first = self.project(i, "proj", like("mul", first, self.slice_of(i)))
        first = self.norm(first, self.weight(i, "post_norm"))
        rest = like("add", _rest(corrected), first)
        return concat(_slice(corrected), rest, 2)

    def head(self, x: Tensor) -> None:
        """The streams joined again, then as in a transformer."""
        target = _magnitude(_slice(x))
        projection = self.named("altup_unembd_proj.weight")
        assert projection is not None
        joined = mul_mat(projection, _rest(x))
        size = _magnitude(joined)
        joined = like("div", like("mul", joined, target), size)
        cur = _slice(x)
        for _ in range(STREAMS - 1):
            cur = like("add", cur, _slice(joined))
        super().head(like("scale", cur))

    def _sparse_forward(self, i: int, x: Tensor) -> Tensor:
        up, gate = self.project(i, "ffn_up", x), self.project(i, "ffn_gate", x)
        if i < SPARSE_LAYERS:
            mean = fresh("mean", "F32", (1, *gate.ne[1:]), gate)
            square = like("sqr", like("sub", gate, mean))
            spread = like("sqrt", like("scale", sum_rows(square)))
            cutoff = like("add", mean, like("scale", spread))
            gate = like("unary", like("sub", gate, cutoff))
        return self.project(i, "ffn_down", like("mul", up, like("unary", gate)))

    def _modalities(self, i: int, x: Tensor) -> Tensor:
        seen = like("scale", self.norm(x, self.weight(i, "altup_router_norm")))
        return like("unary", mul_mat(self.need(i, "altup_router"), seen))

    def _predict(self, i: int, x: Tensor) -> Tensor:
        factors = mul_mat(self.need(i, "altup_predict_coef"), self._modalities(i, _slice(x)))
        factors = reshape(factors, STREAMS, STREAMS, self.setup.tokens)
        mixed = mul_mat(cont(permute(x, 1, 2, 0, 3)), factors)
        return like("add", cont(permute(mixed, 0, 2, 1, 3)), x)

    def _correct(self, i: int, predicted: Tensor, active: Tensor) -> Tensor:
        modalities = self._modalities(i, active)
        news = like("sub", active, _slice(predicted))
        factors = like("scale", mul_mat(self.need(i, "altup_correct_coef"), modalities))
        factors = cont(transpose(factors), 1, self.setup.tokens, STREAMS)
        spread = repeat(news, self.width, self.setup.tokens, STREAMS)
        return like("add", like("mul", spread, factors), predicted)


def _slice(x: Tensor) -> Tensor:
    return view(x, x.ne[:2], x.nb[1:2])


def _rest(x: Tensor) -> Tensor:
    return view(x, (x.ne[0], x.ne[1], x.ne[2] - 1), x.nb[1:3])


def _magnitude(x: Tensor) -> Tensor:
    return like("sqrt", sum_rows(like("sqr", x)))
