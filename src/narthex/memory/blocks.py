"""The building blocks of the engine's model graphs: embedding, norms, attention, feed-forward, experts.

Each follows the function of the same purpose in ``llama-graph.cpp`` and ``llama-kv-cache.cpp`` of llama.cpp
b11434, in the order in which it adds nodes: the order decides which buffers live at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narthex.memory.graph import (
    Graph,
    Tensor,
    fresh,
    get_rows,
    like,
    mul_mat,
    set_rows,
    view,
)
from narthex.models.inspection import Inspection


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


class MissingWeight(Exception):
    """A weight that the recipe needs is not in the file: the architecture is not what it seems."""
