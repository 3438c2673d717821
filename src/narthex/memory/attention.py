"""Attention over a cache of keys and values, with flash attention or without.

Follows ``build_qkv``, ``build_attn`` and ``build_attn_mha`` of ``llama-graph.cpp`` and the stores and views
of ``llama-kv-cache.cpp`` (llama.cpp b11434).
"""

from __future__ import annotations

from typing import NamedTuple

from narthex.memory.blocks import Blocks
from narthex.memory.graph import (
    BLOCKS,
    PLAIN,
    Tensor,
    cast,
    cont,
    fresh,
    is_contiguous,
    leaf,
    like,
    mul_mat,
    permute,
    reshape,
    set_rows,
    strides,
    transpose,
    view,
)


class AttentionInputs(NamedTuple):
    """What attention layers of one kind share."""

    k_ids: Tensor
    v_ids: Tensor
    mask: Tensor
    cells: int
    k_rotation: Tensor | None = None
    v_rotation: Tensor | None = None
    keys_first: bool = False  # sliding-window caches add keys to the graph before values


class Attention(Blocks):
    """The pieces of attention layers; caches are made when a layer first stores into them."""

    def attention_inputs(self, cells: int) -> AttentionInputs:
        """Cache indices and the mask of one kind of layer (build_attn_inp_kv)."""
        s = self.setup
        g = self.graph
        k_ids = g.input("I64", s.tokens)
        v_rows = 1
        if s.transposed:
            v_rows = max((ls.kv_heads * ls.value_length for ls in self.inspection.layer_shapes), default=1)
        v_ids = g.input("I64", s.tokens * v_rows)
        mask = g.input("F16" if s.flash else "F32", cells, s.tokens // s.streams, 1, s.streams)
        return AttentionInputs(k_ids, v_ids, mask, cells)

    def rotations(self, layers: list[int]) -> tuple[Tensor | None, Tensor | None]:
        """The Hadamard matrices that a quantised cache turns keys and values with, or None (b11434)."""
        shapes = self.inspection.layer_shapes
        if self.setup.kv_type in PLAIN or not layers:
            return None, None
        keys = {shapes[i].key_length for i in layers}
        values = {shapes[i].value_length for i in layers}
        k = v = None
        if len(keys) == 1 and (size := keys.pop()) % 64 == 0:
            turn = 64
            while size % (2 * turn) == 0:
                turn *= 2
            k = self.graph.input("F32", turn, turn)
        if len(values) == 1 and (size := values.pop()) and size % 64 == 0:
            v = self.graph.input("F32", 64, 64)
        return k, v

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as (head, heads, tokens), from fused or separate weights (build_qkv)."""
        shape, n = self.inspection.layer_shapes[layer], self.setup.tokens
        heads, kv_heads = shape.heads, shape.kv_heads
        d, dv = shape.key_length, shape.value_length
        clamp = self.meta("attention.clamp_kqv") > 0
        if self.weight(layer, "attn_qkv") is not None:
            out = self.project(layer, "attn_qkv", x)
            if clamp:
                out = like("clamp", out)
            row = out.nb[1]
            return (
                view(out, (d, heads, n), (d * 4, row)),
                view(out, (d, kv_heads, n), (d * 4, row)),
                view(out, (dv, kv_heads, n), (dv * 4, row)),
            )
        parts = []
        for name, size, count in (("q", d, heads), ("k", d, kv_heads), ("v", dv, kv_heads)):
            part = self.project(layer, f"attn_{name}", x)
            parts.append((like("clamp", part) if clamp else part, size, count))
        q, k, v = (reshape(part, size, count, n) for part, size, count in parts)
        return q, k, v

    def _cache(self, part: str, layer: int, length: int, cells: int) -> Tensor:
        key = (part, layer)
        if key not in self.caches:
            tensor = leaf(self.setup.kv_type, length, cells, self.setup.streams)
            tensor.home = self.home(layer)
            self.caches[key] = tensor
        return self.caches[key]

    def _store(self, cache: Tensor, x: Tensor, ids: Tensor, cells: int) -> None:
        flat = view(x, (x.ne[0] * x.ne[1], x.ne[2]), (x.nb[2],))
        target = cache
        if self.setup.streams > 1:
            target = reshape(cache, cache.ne[0], cells * self.setup.streams)
        self.graph.expand(set_rows(target, flat, ids))

    def _store_transposed(self, cache: Tensor, v: Tensor, ids: Tensor) -> None:
        length = v.ne[0] * v.ne[1]
        whole = v.nb[2] == length * 4
        flat = reshape(v, length, v.ne[2]) if whole else cont(v, length, v.ne[2])
        if length < cache.ne[0]:
            flat = fresh("pad", "F32", (cache.ne[0], v.ne[2], 1, 1), flat)
        target = reshape(cache, 1, cache.elements)
        self.graph.expand(set_rows(target, reshape(flat, 1, flat.elements), ids))

    def attend(
        self,
        layer: int,
        inputs: AttentionInputs,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        *,
        cache_layer: int | None = None,
        sinks: Tensor | None = None,
        softcap: bool = False,
    ) -> Tensor:
        """Attention over the cache: a (values × heads, tokens) matrix, before the output projection.

        ``cache_layer`` is the layer whose cache is read, where layers share one.
        """
        g, s = self.graph, self.setup
        if inputs.k_rotation is not None:
            q = _rotate(q, inputs.k_rotation)
            k = _rotate(k, inputs.k_rotation) if k is not None else None
        if inputs.v_rotation is not None and v is not None:
            v = _rotate(v, inputs.v_rotation)
        g.expand(q)
        for part in (k, v) if inputs.keys_first else (v, k):
            if part is not None:
                g.expand(part)
        shape = self.inspection.layer_shapes[layer]
        source = layer if cache_layer is None else cache_layer
        d, dv, kv_heads, cells = shape.key_length, shape.value_length, shape.kv_heads, inputs.cells
        k_cache = self._cache("k", source, d * kv_heads, cells)
        v_length = dv * kv_heads
        if s.transposed:
            v_length = max((ls.kv_heads * ls.value_length for ls in self.inspection.layer_shapes), default=1)
        v_cache = self._cache("v", source, v_length, cells)
        if k is not None:
            self._store(k_cache, k, inputs.k_ids, cells)
        if v is not None:
            if not s.transposed:
                self._store(v_cache, v, inputs.v_ids, cells)
            else:
                self._store_transposed(v_cache, v, inputs.v_ids)
        k_all = _rows_of_heads(k_cache, d, kv_heads, cells, s.streams)
        if not s.transposed:
            v_all = _rows_of_heads(v_cache, dv, kv_heads, cells, s.streams)
        else:
            size = BLOCKS[v_cache.kind][1]
            v_all = view(
                v_cache,
                (cells, kv_heads, dv, s.streams),
                (cells * dv * size, cells * size, cells * v_length * size),
            )
        out = self.mix(q, k_all, v_all, inputs.mask, sinks=sinks, softcap=softcap)
        return _rotate(out, inputs.v_rotation) if inputs.v_rotation is not None else out

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        *,
        sinks: Tensor | None = None,
        softcap: bool = False,
        v_mla: Tensor | None = None,
    ) -> Tensor:
        """Scores, softmax and the weighted sum, with flash attention or without (build_attn_mha)."""
        streams = k.ne[3]
        transposed = v.nb[1] > v.nb[2]
        per = q.ne[2] // streams
        q = view(q, (q.ne[0], q.ne[1], per, streams), (q.nb[1], q.nb[2], q.nb[2] * per))
        q, k, v = (permute(part, 0, 2, 1, 3) for part in (q, k, v))
        extra = [mask] if mask is not None else []
        if self.setup.flash:
            if transposed:
                v = transpose(v)
            k = cast(k, "F16") if k.kind == "F32" else k
            v = cast(v, "F16") if v.kind == "F32" else v
            out = fresh("flash_attn", "F32", (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), q, k, v, *extra)
            self.flash_nodes.append((self.current or 0, out))
            if sinks is not None:
                out.src.append(sinks)
            if v_mla is not None:
                out = permute(mul_mat(v_mla, permute(out, 0, 2, 1, 3)), 0, 2, 1, 3)
                out = cont(out)
            out = reshape(out, out.ne[0] * out.ne[1], out.ne[2] * out.ne[3])
            return self.graph.expand(out)
        scores = mul_mat(k, q)
        if softcap:
            scores = like("scale", like("unary", like("scale", scores)))
        scores = like("soft_max", scores, *extra)
        if sinks is not None:
            scores.src.append(sinks)
        if not transposed:
            v = cont(transpose(v))
        out = mul_mat(v, scores)
        if v_mla is not None:
            out = mul_mat(v_mla, out)
        out = permute(out, 0, 2, 1, 3)
        return self.graph.expand(cont(out, out.ne[0] * out.ne[1], out.ne[2] * out.ne[3]))


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    size = turn.ne[0]
    flat = (size, x.elements // size)
    x2 = reshape(x, *flat) if is_contiguous(x) else cont(x, *flat)
    return reshape(mul_mat(turn, x2), *x.ne)


def _rows_of_heads(cache: Tensor, length: int, heads: int, cells: int, streams: int) -> Tensor:
    """The cache seen as (length, heads, cells, streams)."""
    row = strides(cache.kind, (length, 1, 1, 1))[1]
    all_heads = cache.nb[1]
    return view(cache, (length, heads, cells, streams), (row, all_heads, all_heads * cells))
