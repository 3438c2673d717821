"""The graph of a transformer as llama.cpp builds it, told apart by what the file holds and a short recipe.

Most architectures differ in few ways that matter to memory: which norms there are (the file's tensors tell),
where they sit, how experts are chosen, which layers keep what. A :class:`Recipe` says what the file does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from narthex.memory.attention import Attention, AttentionInputs
from narthex.memory.experts import Routing, mixture
from narthex.memory.graph import Tensor, cont, get_rows, like, mul_mat, reshape, view
from narthex.models.inspection import AttentionKind

SOFTMAX, SIGMOID, SOFTMAX_LATE = 1, 2, 3  # expert_gating_func of a file


class Recipe(NamedTuple):
    """How an architecture's graph differs from the plain one (llama)."""

    scaled_input: bool = False  # gemma3: token rows times a factor of their own
    scale_input: bool = False  # a plain scale behind the embedding
    norm: Literal["rms_norm", "norm"] = "rms_norm"
    pre_norm: bool = True
    norm_ahead: bool = False  # the norm is put into the graph before what the mixer needs
    ffn_norm: str = "ffn_norm"  # the norm before the feed-forward part; "" for none
    qk_norm: Literal["head", "row", "late", "bare"] = "head"  # late: after positions; bare: without weight
    rope: Literal["all", "none", "window", "skip4"] = "all"  # skip4: not in each fourth layer
    positions: int = 1
    deep_stack: bool = False  # inputs for the first layers lie behind the embedding
    scaled_queries: bool = False
    gated_queries: bool = False  # half of each query head gates the output
    temperature: bool = False  # queries times a factor of their position, where there is no rope
    softcap: bool = False
    parallel: Literal["", "cohere", "phi2", "falcon"] = ""  # attention and feed-forward side by side
    post_norms: bool = False
    act: Literal["glu", "glu_fused", "unary", "relu_sqr"] = "glu"
    routing: Routing = Routing()
    shared_gate: Literal["", "silu", "sigmoid"] = ""
    residual_scale: bool = False
    residual_first: Literal["", "both", "last"] = (
        ""  # the order of a layer's sums decides what is written over
    )
    pick: Literal["last layer", "before norm", "after norm"] = "last layer"  # where unwanted rows go
    scaled_logits: bool = False
    logit_softcap: bool = False


class Transformer(Attention):
    """Builds a whole graph: :meth:`build`."""

    recipe: Recipe = Recipe()
    layers: Sequence[int] = ()  # those to build; all of the trunk where none are named

    def build(self) -> None:
        """Add every node of the model's graph."""
        x = self.begin()
        layers = self.layers or range(self.depth())
        for layer in layers:
            self.current = layer
            last = layer == layers[-1] and self.recipe.pick == "last layer"
            x = self.layer(layer, x, self.wanted if last else None)
            if layer < self.stacked:  # rows for the first layers, from images
                x = like("add", x, view(self.first, (self.width, self.setup.tokens), self.first.nb[1:2]))
        self.current = None
        self.head(x)

    def begin(self) -> Tensor:
        """Embedding, positions and the inputs that layers share."""
        r = self.recipe
        self.stacked = int(self.meta("n_deepstack_layers")) if r.deep_stack else 0
        x = self.embed(scaled=r.scaled_input, scale_op=r.scale_input, stacked=self.stacked)
        self.first = x
        self.start(r.positions)
        self.temperatures = self.graph.input("F32", 1, 1, self.setup.tokens)
        self.inputs = self.cache_inputs()
        self.wanted = self.graph.input("I32", self.setup.outputs)
        return x

    def depth(self) -> int:
        """Layers that the graph runs: those of speculative heads are not among them."""
        return self.inspection.layers - int(self.meta("nextn_predict_layers"))

    def cache_inputs(self) -> dict[AttentionKind, AttentionInputs]:
        """The inputs of each kind of attention layer, in the order in which the engine makes them."""
        shapes = self.inspection.layer_shapes
        full = [i for i, s in enumerate(shapes) if s.attention is AttentionKind.FULL]
        sliding = [i for i, s in enumerate(shapes) if s.attention is AttentionKind.SLIDING]
        inputs = {AttentionKind.FULL: self.attention_inputs(self.setup.cells)}
        if sliding:
            inputs[AttentionKind.SLIDING] = self.attention_inputs(self.setup.window_cells)
        for kind, layers in ((AttentionKind.FULL, full), (AttentionKind.SLIDING, sliding)):
            if kind in inputs:
                k, v = self.rotations(layers)
                inputs[kind] = inputs[kind]._replace(k_rotation=k, v_rotation=v, keys_first=bool(sliding))
        return inputs

    def layer(self, i: int, x: Tensor, wanted: Tensor | None) -> Tensor:
        """One repeating layer; ``wanted`` picks the rows that go on, in the last one."""
        r = self.recipe
        normed = self.normed(i, "attn_norm", x) if r.pre_norm else x
        if r.norm_ahead:
            self.graph.expand(normed)
        cur = self.mixer(i, normed)
        skip = x
        if r.parallel:
            return self.side_by_side(i, cur, normed, x, wanted)
        if wanted is not None:
            cur, skip = get_rows(cur, wanted), get_rows(skip, wanted)
        if r.post_norms:
            cur = self.norm(cur, self.weight(i, "post_attention_norm"))
        if r.residual_scale:
            cur = like("scale", cur)
        middle = like("add", skip, cur) if r.residual_first == "both" else like("add", cur, skip)
        cur = self.normed(i, r.ffn_norm, middle) if r.ffn_norm else middle
        cur = self.forward(i, cur)
        if r.post_norms:
            cur = self.norm(cur, self.weight(i, "post_ffw_norm"))
        if r.residual_scale:
            cur = like("scale", cur)
        return like("add", middle, cur) if r.residual_first else like("add", cur, middle)

    def side_by_side(self, i: int, cur: Tensor, normed: Tensor, x: Tensor, wanted: Tensor | None) -> Tensor:
        """The end of a layer whose feed-forward part reads the same norm as its attention."""
        if wanted is not None:
            cur, x, normed = (get_rows(part, wanted) for part in (cur, x, normed))
        out = self.forward(i, normed)
        match self.recipe.parallel:
            case "cohere":
                return like("add", like("add", out, x), cur)
            case "phi2":
                return like("add", like("add", cur, out), x)
            case _:
                return like("add", like("add", out, cur), x)

    def normed(self, i: int, name: str, x: Tensor) -> Tensor:
        """``x`` through one of the layer's norms, with the bias that the file may hold."""
        return self.norm(x, self.weight(i, name), self.weight(i, name, "bias"), self.recipe.norm)

    def mixer(self, i: int, x: Tensor) -> Tensor:
        """What mixes tokens in this layer: attention, unless a subclass knows other kinds."""
        return self.attention(i, x)

    def attention(self, i: int, x: Tensor) -> Tensor:
        """Projections, positions, attention over the cache, and the output projection."""
        r = self.recipe
        shape = self.inspection.layer_shapes[i]
        gate: Tensor | None = None
        if r.qk_norm == "row":
            q, k, v = self.rows_normed(i, x)
        elif r.gated_queries:
            q, k, v, gate = self.queries_with_gate(i, x)
        else:
            q, k, v = self.qkv(i, x)
        if r.qk_norm == "head":
            q, k = self.head_normed(i, "attn_q_norm", q), self.head_normed(i, "attn_k_norm", k)
        if self.turns(i):
            factors = self.rope_factors(i)
            q, k = self.rope(q, factors), self.rope(k, factors)
            if r.qk_norm == "bare":
                q, k = like("rms_norm", q), like("rms_norm", k)
        elif r.temperature:
            q = like("mul", q, self.temperatures)
        if r.qk_norm == "late":
            k, q = self.head_normed(i, "attn_k_norm", k), self.head_normed(i, "attn_q_norm", q)
        if r.scaled_queries:
            q = like("scale", q)
        sinks = self.weight(i, "attn_sinks")
        out = self.attend(i, self.inputs[shape.attention], q, k, v, sinks=sinks, softcap=r.softcap)
        if gate is not None:
            out = like("mul", out, like("unary", gate))
        return self.project(i, "attn_output", out)

    def turns(self, i: int) -> bool:
        """Whether this layer gives queries and keys positions."""
        match self.recipe.rope:
            case "none":
                return False
            case "window":
                return self.inspection.layer_shapes[i].attention is AttentionKind.SLIDING
            case "skip4":
                return (i + 1) % 4 != 0
            case _:
                return True

    def head_normed(self, i: int, name: str, x: Tensor) -> Tensor:
        """A norm over each head, where the file has one."""
        weight = self.weight(i, name)
        return x if weight is None else self.norm(x, weight, self.weight(i, name, "bias"), self.recipe.norm)

    def rows_normed(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys normed as whole rows, before they are cut into heads."""
        shape, n = self.inspection.layer_shapes[i], self.setup.tokens
        q, k, v = (self.project(i, f"attn_{part}", x) for part in "qkv")
        q, k = self.head_normed(i, "attn_q_norm", q), self.head_normed(i, "attn_k_norm", k)
        return (
            reshape(q, shape.key_length, shape.heads, n),
            reshape(k, shape.key_length, shape.kv_heads, n),
            reshape(v, shape.value_length, shape.kv_heads, n),
        )

    def queries_with_gate(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries twice as wide, whose second half gates the output (qwen3next, qwen35)."""
        shape, n = self.inspection.layer_shapes[i], self.setup.tokens
        d, heads, kv_heads = shape.key_length, shape.heads, shape.kv_heads
        both, k, v = (self.project(i, f"attn_{part}", x) for part in "qkv")
        steps = (d * 2 * 4, d * 2 * heads * 4)
        gate = cont(view(both, (d, heads, n), steps), d * heads, n)
        k, v = reshape(k, d, kv_heads, n), reshape(v, shape.value_length, kv_heads, n)
        return view(both, (d, heads, n), steps), k, v, gate

    def forward(self, i: int, x: Tensor) -> Tensor:
        """Feed-forward or experts, whichever the layer has, and the shared expert beside them."""
        r = self.recipe
        if self.weight(i, "ffn_gate_inp") is None:
            return self.feed_forward(i, x, act=r.act)
        out = mixture(self, i, x, self.routing(), used=self.inspection.experts_used)
        if self.weight(i, "ffn_up_shexp") is None:
            return out
        shared = self.feed_forward(i, x, tag="_shexp", act=r.act)
        if r.shared_gate:
            gate = mul_mat(self.need(i, "ffn_gate_inp_shexp"), x)
            act = like("unary", gate)
            shared = like("mul", shared, like("div", act, gate) if r.shared_gate == "silu" else act)
        return like("add", out, shared)

    def routing(self) -> Routing:
        """The recipe's routing, with what the file says about it."""
        known = self.recipe.routing
        if known.from_file:
            kind = int(self.meta("expert_gating_func", known.default_gating))
            gating = {SOFTMAX: "softmax", SIGMOID: "sigmoid", SOFTMAX_LATE: "late"}.get(kind, "softmax")
            known = known._replace(gating=gating, normed=bool(self.meta("expert_weights_norm")))
        return known._replace(
            scaled=self.meta("expert_weights_scale") not in (0, 1),
            groups=int(self.meta("expert_group_count")),
            groups_used=int(self.meta("expert_group_used_count")),
        )

    def head(self, x: Tensor) -> None:
        """The last norm and the logits, both kept as outputs."""
        r = self.recipe
        if r.pick == "before norm":
            x = get_rows(x, self.wanted)
        cur = self.norm(x, self.last_norm(), self.named("output_norm.bias"), r.norm)
        cur.is_output = True
        if r.pick == "after norm":
            cur = get_rows(cur, self.wanted)
            cur.is_output = True
        output = self.named("output.weight") or self.named("token_embd.weight#output")
        assert output is not None
        cur = self.linear(output, cur, self.named("output.bias"))
        if r.scaled_logits:
            cur = like("scale", cur)
        if r.logit_softcap:
            cur = like("scale", like("unary", like("scale", cur)))
        cur.is_output = True
        self.graph.expand(cur)

    def last_norm(self) -> Tensor | None:
        """The weight of the norm before the logits."""
        return self.named("output_norm.weight") or self.named("token_embd_norm.weight")
