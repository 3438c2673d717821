"""Multi-head latent attention: one compressed row a token is cached.

Source: ``deepseek2.cpp`` of llama.cpp b11434.
"""

from __future__ import annotations

from narthex.memory.attention import AttentionInputs
from narthex.memory.graph import (
    Tensor,
    concat,
    cont,
    leaf,
    mul_mat,
    permute,
    repeat,
    reshape,
    set_rows,
    view,
)
from narthex.memory.transformer import Transformer
from narthex.models.inspection import AttentionKind


class Latent(Transformer):
    """deepseek2 and its kin: with absorbed projections, or uncompressed where the file is an old one."""

    def cache_inputs(self) -> dict[AttentionKind, AttentionInputs]:
        """Keys only where the cache is latent."""
        kinds = {shape.attention for shape in self.inspection.layer_shapes}
        if AttentionKind.LATENT not in kinds:
            return super().cache_inputs()
        return {AttentionKind.LATENT: self.attention_inputs(self.setup.cells)}

    def attention(self, i: int, x: Tensor) -> Tensor:
        """Queries through their low rank, keys and values from one compressed row."""
        shape, n = self.inspection.layer_shapes[i], self.setup.tokens
        heads = shape.heads
        turned = int(self.meta("rope.dimension_count"))
        rank = int(self.meta("attention.kv_lora_rank"))
        d = int(self.meta("attention.key_length_mla") or self.meta("attention.key_length"))
        plain = d - turned
        if self.weight(i, "attn_q") is not None:
            q = mul_mat(self.need(i, "attn_q"), x)
        else:
            q = self.norm(mul_mat(self.need(i, "attn_q_a"), x), self.weight(i, "attn_q_a_norm"))
            q = mul_mat(self.need(i, "attn_q_b"), q)
        q = reshape(q, d, heads, n)
        both = mul_mat(self.need(i, "attn_kv_a_mqa"), x)
        row = both.nb[1]
        k_turned = self.rope(view(both, (turned, 1, n), (row, row)))
        small = self.norm(view(both, (rank, n), (row,)), self.weight(i, "attn_kv_a_norm"))
        if shape.attention is not AttentionKind.LATENT:
            return self._uncompressed(i, q, small, k_turned, plain)
        q_turned = self.rope(view(q, (turned, heads, n), q.nb[1:3]))
        absorbed = mul_mat(
            self.need(i, "attn_k_b"), permute(view(q, (plain, heads, n), q.nb[1:3]), 0, 2, 1, 3)
        )
        q = concat(permute(absorbed, 0, 2, 1, 3), q_turned, 0)
        small = reshape(small, rank, 1, n)
        k = concat(small, k_turned, 0)
        return self.project(i, "attn_output", self._attend_latent(i, q, k, small))

    def _attend_latent(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        inputs, g, s = self.inputs[AttentionKind.LATENT], self.graph, self.setup
        for part in (q, v, k):
            g.expand(part)
        length = self.inspection.layer_shapes[i].key_length
        cache = leaf(s.kv_type, length, s.cells, s.streams)
        cache.home = self.home(i)
        flat = view(k, (k.ne[0] * k.ne[1], k.ne[2]), (k.nb[2],))
        target = reshape(cache, length, s.cells * s.streams) if s.streams > 1 else cache
        g.expand(set_rows(target, flat, inputs.k_ids))
        row = cache.nb[1]
        k_all = view(cache, (length, 1, s.cells, s.streams), (row, row, row * s.cells))
        v_all = view(k_all, (v.ne[0], 1, s.cells, s.streams), k_all.nb[1:])
        return self.mix(q, k_all, v_all, inputs.mask, v_mla=self.need(i, "attn_v_b"))

    def _uncompressed(self, i: int, q: Tensor, small: Tensor, k_turned: Tensor, plain: int) -> Tensor:
        shape, n = self.inspection.layer_shapes[i], self.setup.tokens
        heads, value = shape.heads, shape.value_length
        kv = mul_mat(self.need(i, "attn_kv_b"), small)
        steps = ((plain + value) * 4, (plain + value) * heads * 4)
        v = cont(view(kv, (value, heads, n), steps))
        q = self.rope(q)
        k = concat(view(kv, (plain, heads, n), steps), repeat(k_turned, k_turned.ne[0], heads, n), 0)
        out = self.attend(i, self.inputs[shape.attention], q, k, v)
        return self.project(i, "attn_output", out)
