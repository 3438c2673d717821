"""The building blocks of the engine's model graphs: embedding, norms, attention, feed-forward, experts.

Each follows the function of the same purpose in ``llama-graph.cpp`` and ``llama-kv-cache.cpp`` of llama.cpp
b11434, in the order in which it adds nodes: the order decides which buffers live at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narthex.memory.graph import (
    BLOCKS,
    PLAIN,
    Graph,
    Tensor,
    cast,
    cont,
    fresh,
    get_rows,
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
from narthex.models.inspection import Inspection, LayerShape


class Setup(NamedTuple):
    """What of a setting shapes the graph. Counts are the engine's own, after its rounding."""

    tokens: int  # of one micro-batch
    outputs: int  # tokens of it whose logits are wanted
    streams: int  # sequences, each with a cache of its own
    cells: int  # cache cells of one sequence
    window_cells: int  # the same for sliding-window layers
    kv_type: str  # ggml type of the cache, as in "Q8_0"
    flash: bool
    transposed: bool = False  # values are cached transposed: flash attention was off from the start


PINNED_BELOW = 32  # tokens

Weights = Callable[[str], Tensor | None]


class Blocks:
    """Builds pieces of one graph. ``home`` gives a layer's device, ``weight`` a weight by its name."""

    def __init__(
        self, inspection: Inspection, setup: Setup, weight: Weights, home: Callable[[int], int]
    ) -> None:
        self.inspection = inspection
        self.setup = setup
        self.graph = Graph()
        self.named = weight
        self.home = home
        self.width = inspection.embedding_length
        self.positions: Tensor | None = None
        self.current: int | None = None  # the layer being built
        self.flash_nodes: list[tuple[int, Tensor]] = []  # layer and node, for the engine's «auto»
        self.caches: dict[tuple[str, int], Tensor] = {}

    # ---- weights and small things

    def weight(self, layer: int, name: str, suffix: str = "weight") -> Tensor | None:
        """``blk.<layer>.<name>.<suffix>``, or None if the file has no such tensor."""
        return self.named(f"blk.{layer}.{name}.{suffix}")

    def need(self, layer: int, name: str) -> Tensor:
        """A weight that the layer can't do without. Raises MissingWeight."""
        tensor = self.weight(layer, name)
        if tensor is None:
            raise MissingWeight(f"blk.{layer}.{name}.weight")
        return tensor

    def meta(self, key: str, default: float = 0) -> float:
        """A number from the file's metadata, under the architecture's prefix."""
        value = self.inspection.metadata.get(f"{self.inspection.architecture}.{key}", default)
        return value if isinstance(value, (int, float)) else default

    def linear(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A matrix product, with the per-tensor scale and the bias that the file may hold."""
        out = mul_mat(weight, x)
        return like("add", out, bias) if bias is not None else out

    def project(self, layer: int, name: str, x: Tensor) -> Tensor:
        """A matrix product with one of the layer's weights, its scale and its bias, where there are any."""
        out = mul_mat(self.need(layer, name), x)
        scale = self.weight(layer, name, "scale")
        if scale is not None:
            out = like("mul", out, scale)
        bias = self.weight(layer, name, "bias")
        return like("add", out, bias) if bias is not None else out

    def bare(self, layer: int, name: str) -> Tensor:
        """A weight whose name has no suffix (``blk.0.ssm_a``). Raises MissingWeight."""
        tensor = self.named(f"blk.{layer}.{name}")
        if tensor is None:
            raise MissingWeight(f"blk.{layer}.{name}")
        return tensor

    def norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None, op: str = "rms_norm"
    ) -> Tensor:
        """A norm, with weight and bias where there are any.

        In small batches the engine keeps a layer's norms on the layer's own device (``graph_get_cb``).
        """
        x = like(op, x)
        if weight is None:
            return x
        if self.current is not None and self.setup.tokens < PINNED_BELOW:
            x.device = self.home(self.current)
        x = like("mul", x, weight)
        return like("add", x, bias) if bias is not None else x

    def rope_factors(self, layer: int) -> Tensor | None:
        """The frequency factors of a long-context file, on the layer's device (get_rope_factors)."""
        factors = self.named(f"rope_freqs.weight#{layer}")
        if factors is not None:
            return factors
        trained = self.meta("rope.scaling.original_context_length") or self.inspection.context_train
        return self.named(f"rope_factors_{'long' if self.setup.cells > trained else 'short'}.weight#{layer}")

    def rope(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """Rotary positions, with frequency factors where the model has them."""
        assert self.positions is not None
        return like("rope", x, self.positions, *(() if factors is None else (factors,)))

    # ---- inputs

    def embed(
        self, *, scaled: bool = False, mixed: bool = True, scale_op: bool = False, stacked: int = 0
    ) -> Tensor:
        """Token embedding with the inputs for images beside it (build_inp_embd).

        ``scaled`` multiplies token rows by a factor of their own; ``scale_op`` is a plain scale behind it.
        ``stacked`` inputs of later layers lie behind each row.
        """
        g, n = self.graph, self.setup.tokens
        table = self.named("token_embd.weight")
        if table is None:
            raise MissingWeight("token_embd.weight")
        wide = self.width * (1 + stacked)

        def rows_of(ids: Tensor) -> Tensor:
            rows = get_rows(table, ids)
            return fresh("pad", "F32", (wide, n, 1, 1), rows) if stacked else rows

        tokens, rows = g.input("I32", n), g.input("F32", wide, n)
        x = rows_of(tokens)
        g.expand(x)
        g.expand(rows)
        if mixed:
            ids, slots, base = g.input("I32", n), g.input("I64", n), g.input("F32", wide, n)
            g.expand(set_rows(like("dup", base), rows_of(ids), slots))
        if stacked:
            x = view(x, (self.width, n), x.nb[1:2])
        if scale_op:
            x = like("scale", x)
        if scaled:
            x = like("mul", x, g.input("F32", 1, n))
        return g.expand(x)

    def start(self, positions: int = 1) -> None:
        """The position input; ``positions`` numbers a token."""
        self.positions = self.graph.input("I32", self.setup.tokens * positions)

    # ---- attention with a cache of keys and values

    def attention_inputs(self, cells: int, shape: LayerShape | None = None) -> AttentionInputs:
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
        if v.nb[2] == length * 4:
            flat = reshape(v, length, v.ne[2])
        else:
            flat = cont(v, length, v.ne[2])
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

    # ---- feed-forward

    def feed_forward(self, layer: int, x: Tensor, *, tag: str = "", act: str = "glu") -> Tensor:
        """Up, gate and down (build_ffn). ``act``: glu, glu_fused (up holds both), unary or relu_sqr."""
        raised = self.project(layer, f"ffn_up{tag}", x)
        if self.weight(layer, f"ffn_gate{tag}") is not None:
            x = like("glu", self.project(layer, f"ffn_gate{tag}", x), raised)
        elif act == "glu_fused":
            x = fresh("glu", "F32", (raised.ne[0] // 2, raised.ne[1], 1, 1), raised)
        else:
            x = like("unary", raised)
            if act == "relu_sqr":
                x = like("sqr", x)
        return self.project(layer, f"ffn_down{tag}", x)


class AttentionInputs(NamedTuple):
    """What attention layers of one kind share."""

    k_ids: Tensor
    v_ids: Tensor
    mask: Tensor
    cells: int
    k_rotation: Tensor | None = None
    v_rotation: Tensor | None = None
    keys_first: bool = False  # sliding-window caches add keys to the graph before values


class MissingWeight(Exception):
    """A weight that the recipe needs is not in the file: the architecture is not what it seems."""


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
