"""The graph of a transformer as llama.cpp builds it, told apart by what the file holds and a short recipe.

Most architectures differ in few ways that matter to memory: which norms there are (the file's tensors tell),
where they sit, how experts are chosen, which layers keep what. A :class:`Recipe` says what the file does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narthex.memory.blocks import AttentionInputs, Blocks
from narthex.memory.experts import Routing, mixture
from narthex.memory.graph import Tensor, get_rows, like
from narthex.models.inspection import AttentionKind


class Recipe(NamedTuple):
    """How an architecture's graph differs from the plain one (llama)."""

    scaled_input: bool = False  # gemma: token rows times a factor
    scale_input: bool = False  # granite, minicpm: a plain scale behind the embedding
    norm: str = "rms_norm"
    pre_norm: bool = True
    qk_norm: str = "head"  # norm each head, or the whole row before it is cut into heads
    qk_norm_after_rope: bool = False
    rope: str = "all"  # all, window (sliding layers only), none
    scaled_queries: bool = False
    attention_softcap: bool = False
    parallel_block: bool = False  # attention and feed-forward both read the first norm
    post_norms: bool = False
    act: str = "glu"
    routing: Routing = Routing()
    shared_expert: str = ""  # "", "plain", "gated"
    shared_first: bool = False
    residual_scale: bool = False
    scaled_logits: bool = False
    logit_softcap: bool = False


class Transformer(Blocks):
    """Builds a whole graph: :meth:`build`."""

    recipe: Recipe = Recipe()
    layers: Sequence[int] = ()  # those to build; all of the trunk where none are named

    def build(self) -> None:
        """Add every node of the model's graph."""
        r = self.recipe
        x = self.embed(scaled=r.scaled_input, scale_op=r.scale_input)
        self.start()
        self.inputs = self.cache_inputs()
        wanted = self.graph.input("I32", self.setup.outputs)
        layers = self.layers or range(self.depth())
        for layer in layers:
            x = self.layer(layer, x, wanted if layer == layers[-1] else None)
        self.head(x)

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
        skip = x
        cur = self.norm(x, self.weight(i, "attn_norm"), self.weight(i, "attn_norm", "bias"), r.norm)
        normed = cur
        cur = self.attention(i, cur)
        if wanted is not None:
            cur, skip = get_rows(cur, wanted), get_rows(skip, wanted)
        if r.post_norms:
            cur = self.norm(cur, self.weight(i, "post_attention_norm"), None, r.norm)
        if r.residual_scale:
            cur = like("scale", cur)
        middle = like("add", cur, skip)
        cur = self.norm(middle, self.weight(i, "ffn_norm"), self.weight(i, "ffn_norm", "bias"), r.norm)
        cur = self.forward(i, cur)
        if r.post_norms:
            cur = self.norm(cur, self.weight(i, "post_ffw_norm"), None, r.norm)
        if r.residual_scale:
            cur = like("scale", cur)
        return like("add", cur, middle)

    def attention(self, i: int, x: Tensor) -> Tensor:
        """Projections, positions, attention over the cache, and the output projection."""
        r = self.recipe
        shape = self.inspection.layer_shapes[i]
        q, k, v = self.qkv(i, x)
        q = self._positioned(i, q, "attn_q_norm")
        k = self._positioned(i, k, "attn_k_norm")
        if r.scaled_queries:
            q = like("scale", q)
        out = self.attend(i, self.inputs[shape.attention], q, k, v, softcap=r.attention_softcap)
        return self.linear(self.need(i, "attn_output"), out, self.weight(i, "attn_output", "bias"))

    def _positioned(self, i: int, x: Tensor, norm: str) -> Tensor:
        weight = self.weight(i, norm)
        if weight is not None:
            x = self.norm(x, weight, self.weight(i, norm, "bias"), self.recipe.norm)
        return self.rope(x, self.rope_factors(i))

    def rope_factors(self, i: int) -> Tensor | None:
        """The frequency factors of long-context files, if the file has them."""
        return None

    def forward(self, i: int, x: Tensor) -> Tensor:
        """Feed-forward or experts, whichever the layer has."""
        r = self.recipe
        if self.weight(i, "ffn_gate_inp") is None:
            return self.feed_forward(i, x, act=r.act)
        return mixture(self, i, x, r.routing, used=self.inspection.experts_used)

    def head(self, x: Tensor) -> None:
        """The last norm and the logits, both kept as outputs."""
        r = self.recipe
        cur = self.norm(x, self.named("output_norm.weight"), self.named("output_norm.bias"), r.norm)
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
