"""Layers that keep a state instead of a cache: Mamba 1 and 2, gated delta nets, short convolutions.

Source: ``mamba-base.cpp``, ``delta-net-base.cpp``, ``qwen3next.cpp``, ``qwen35.cpp``, ``lfm2.cpp`` and
``llm_graph_context::build_rs`` of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.memory.graph import (
    Tensor,
    concat,
    cont,
    copy_into,
    fresh,
    get_rows,
    leaf,
    like,
    mul_mat,
    overwrite,
    repeat,
    reshape,
    transpose,
    view,
)
from narthex.memory.transformer import Transformer
from narthex.models.inspection import AttentionKind

Getter = Callable[[Tensor, Tensor], Tensor]


class Recurrent(Transformer):
    """Pure and hybrid recurrent models; attention layers are those of a transformer."""

    def begin(self) -> Tensor:
        """As in a transformer, with the input that says where each sequence's state lies."""
        x = super().begin()
        self.sequences = self.graph.input("I32", self.setup.streams)
        self.ids = view(self.sequences, (self.setup.streams,))
        self.other_ids = view(self.sequences, (self.setup.streams - 1,))
        return x

    def mixer(self, i: int, x: Tensor) -> Tensor:
        """The kind of layer that the file's tensors show."""
        if self.inspection.layer_shapes[i].attention is not AttentionKind.RECURRENT:
            return self.attention(i, x)
        if self.weight(i, "shortconv.conv") is not None:
            return self.short_convolution(i, x)
        if self.weight(i, "ssm_x") is not None:
            return self.mamba1(i, x)
        if self.named(f"blk.{i}.ssm_d") is not None:
            return self.mamba2(i, x)
        return self.delta_net(i, x)

    # ---- states

    def state(self, i: int, length: int) -> Tensor:
        """A state of the layer's, one row a sequence, where the layer is."""
        tensor = leaf("F32", length, self.setup.streams)
        tensor.home = self.home(i)
        return tensor

    def recall(self, state: Tensor, getter: Getter | None = None) -> Tensor:
        """The states of the sequences, read by ``getter`` or copied out (build_rs)."""
        g, n = self.graph, self.setup.streams
        length = state.ne[0]
        states = reshape(state, length, state.ne[1])
        zero = view(states, (length,))
        g.expand(overwrite("scale", zero, zero))
        everything = get_rows(states, self.other_ids if getter else self.sequences)
        out = getter(states, self.ids) if getter else view(everything, (length, n), everything.nb[1:2])
        g.expand(out)
        none = view(everything, (length, 0), everything.nb[1:2])
        g.expand(copy_into(none, view(state, (length, 0), state.nb[1:2])))
        return out

    def _slide(self, i: int, rows: Tensor, kernel: str, biased: bool) -> Tensor:
        taps = self.need(i, kernel)
        out = fresh("ssm_conv", "F32", (taps.ne[1], rows.ne[0] - taps.ne[0] + 1, rows.ne[2], 1), rows, taps)
        bias = self.weight(i, kernel, "bias") if biased else None
        return like("add", out, bias) if bias is not None else out

    # ---- kinds of layers

    def mamba1(self, i: int, x: Tensor) -> Tensor:
        """build_mamba_layer."""
        streams = self.setup.streams
        inner, size = int(self.meta("ssm.inner_size")), int(self.meta("ssm.state_size"))
        rank, kept = int(self.meta("ssm.time_step_rank")), int(self.meta("ssm.conv_kernel")) - 1
        per = x.ne[1] // streams
        convolution, memory = self.state(i, kept * inner), self.state(i, size * inner)
        before = reshape(self.recall(convolution), kept, inner, streams)
        both = mul_mat(self.need(i, "ssm_in"), reshape(x, x.ne[0], per, streams))
        x = view(both, (inner, per, streams), both.nb[1:3])
        z = view(both, (inner, per, streams), both.nb[1:3])
        rows = concat(before, transpose(x), 0)
        last = view(rows, (kept, inner, streams), rows.nb[1:3])
        self.graph.expand(copy_into(last, view(convolution, (kept * inner * streams,))))
        x = like("unary", self._slide(i, rows, "ssm_conv1d", True))
        db = mul_mat(self.need(i, "ssm_x"), x)
        dt = view(db, (rank, per, streams), db.nb[1:3])
        b = view(db, (size, 1, per, streams), (size * 4, db.nb[1], db.nb[2]))
        c = view(db, (size, 1, per, streams), (size * 4, db.nb[1], db.nb[2]))
        if self.weight(i, "ssm_dt_norm") is not None or self.meta("ssm.dt_b_c_rms"):
            dt, b, c = (
                self.norm(part, self.weight(i, f"ssm_{name}_norm"))
                for part, name in ((dt, "dt"), (b, "b"), (c, "c"))
            )
        else:
            dt = cont(dt)
        dt = self.linear(self.need(i, "ssm_dt"), dt, self.weight(i, "ssm_dt", "bias"))
        heads = reshape(x, 1, inner, per, streams)
        a = self.bare(i, "ssm_a")

        def scan(states: Tensor, ids: Tensor) -> Tensor:
            return _scan(reshape(states, size, 1, inner, streams), heads, dt, (a, b, c), ids)

        y = self.recall(memory, scan)
        new = view(y, (size * inner * streams,))
        self.graph.expand(copy_into(new, view(memory, (size * inner * streams,))))
        y = view(y, (inner, per, streams), (heads.nb[2], heads.nb[3]))
        y = like("add", y, like("mul", x, self.bare(i, "ssm_d")))
        y = like("glu", cont(z), y)
        y = mul_mat(self.need(i, "ssm_out"), y)
        return reshape(y, y.ne[0], per * streams)

    def mamba2(self, i: int, x: Tensor) -> Tensor:
        """build_mamba2_layer."""
        streams = self.setup.streams
        inner, size = int(self.meta("ssm.inner_size")), int(self.meta("ssm.state_size"))
        heads, groups = int(self.meta("ssm.time_step_rank")), int(self.meta("ssm.group_count"))
        kept, d = int(self.meta("ssm.conv_kernel")) - 1, inner // heads
        channels, per = inner + 2 * groups * size, x.ne[1] // streams
        convolution, memory = self.state(i, kept * channels), self.state(i, size * inner)
        before = reshape(self.recall(convolution), kept, channels, streams)
        every = mul_mat(self.need(i, "ssm_in"), x)
        every = reshape(every, every.ne[0], per, streams)
        z = view(every, (d, heads, per, streams), (d * 4, every.nb[1], every.nb[2]))
        mixed = view(every, (channels, per, streams), every.nb[1:3])
        dt = view(every, (heads, per, streams), every.nb[1:3])
        rows = concat(before, transpose(mixed), 0)
        last = view(rows, (kept, channels, streams), rows.nb[1:3])
        self.graph.expand(copy_into(last, view(convolution, (kept * channels, streams), convolution.nb[1:2])))
        mixed = like("unary", self._slide(i, rows, "ssm_conv1d", True))
        x = view(mixed, (d, heads, per, streams), (d * 4, mixed.nb[1], mixed.nb[2]))
        b = view(mixed, (size, groups, per, streams), (size * 4, mixed.nb[1], mixed.nb[2]))
        c = view(mixed, (size, groups, per, streams), (size * 4, mixed.nb[1], mixed.nb[2]))
        bias = self.weight(i, "ssm_dt", "bias")
        dt = like("add", cont(dt), bias) if bias is not None else cont(dt)
        a = self.bare(i, "ssm_a")

        def scan(states: Tensor, ids: Tensor) -> Tensor:
            return _scan(reshape(states, size, d, heads, streams), x, dt, (a, b, c), ids)

        y = self.recall(memory, scan)
        row = size * inner * 4
        new = view(y, (size * inner, streams, 1), (row, row * streams))
        self.graph.expand(copy_into(new, view(memory, (size * inner, streams, 1), (memory.nb[1], row))))
        y = view(y, (d, heads, per, streams), (x.nb[1], heads * x.nb[1], per * heads * x.nb[1]))
        y = like("add", y, like("mul", x, self.bare(i, "ssm_d")))
        y = like("glu", cont(z), y)
        if self.weight(i, "ssm_norm") is not None:
            y = self.norm(reshape(y, inner // groups, groups, per, streams), self.weight(i, "ssm_norm"))
        return mul_mat(self.need(i, "ssm_out"), reshape(y, inner, per * streams))

    def short_convolution(self, i: int, x: Tensor) -> Tensor:
        """build_shortconv_block of lfm2."""
        streams, width = self.setup.streams, self.width
        kept = int(self.meta("shortconv.l_cache")) - 1
        per = x.ne[1] // streams
        bcx = mul_mat(self.need(i, "shortconv.in_proj"), reshape(x, x.ne[0], per, streams))
        b, c, x = (view(bcx, (width, per, streams), bcx.nb[1:3]) for _ in range(3))
        mixed = transpose(like("mul", b, x))
        state = self.state(i, kept * width)
        rows = concat(reshape(self.recall(state), kept, width, streams), mixed, 0)
        last = view(rows, (kept, width, streams), rows.nb[1:3])
        self.graph.expand(copy_into(last, view(state, (kept * width, streams), state.nb[1:2])))
        y = like("mul", c, self._slide(i, rows, "shortconv.conv", False))
        y = mul_mat(self.need(i, "shortconv.out_proj"), y)
        return reshape(y, y.ne[0], per * streams)

    def delta_net(self, i: int, x: Tensor) -> Tensor:
        """build_layer_attn_linear of qwen3next and qwen35, fused."""
        streams, n = self.setup.streams, x.ne[1]
        per = n // streams
        size, k_heads = int(self.meta("ssm.state_size")), int(self.meta("ssm.group_count"))
        v_heads = int(self.meta("ssm.time_step_rank"))
        wide = int(self.meta("ssm.inner_size")) // v_heads
        channels = 2 * size * k_heads + wide * v_heads
        mixed, z = self._qkv_and_gate(i, x, channels, per)
        beta, gate = self._beta_and_decay(i, x, v_heads, k_heads, per)
        kept = int(self.meta("ssm.conv_kernel")) - 1
        convolution, memory = self.state(i, kept * channels), self.state(i, size * wide * v_heads)
        rows = concat(reshape(self.recall(convolution), kept, channels, streams), transpose(mixed), 0)
        last = view(rows, (kept, channels, streams), rows.nb[1:3])
        self.graph.expand(copy_into(last, view(convolution, (kept * channels, streams), convolution.nb[1:2])))
        state = reshape(self.recall(memory), wide, wide, v_heads, streams)
        mixed = like("unary", self._slide(i, rows, "ssm_conv1d", False))
        row = channels * 4
        q, k = (
            like(
                "scale",
                like("rms_norm", view(mixed, (size, k_heads, per, streams), (size * 4, row, row * per))),
            )
            for _ in range(2)
        )
        v = view(mixed, (wide, v_heads, per, streams), (wide * 4, row, row * per))
        if (
            k_heads != v_heads and self.weight(i, "ssm_ba") is not None
        ):  # qwen3next repeats, qwen35 broadcasts
            q, k = (self._repeated(part, size, k_heads, v_heads, per) for part in (q, k))
        out = fresh(
            "gated_delta_net", "F32", (wide * v_heads, n + wide * streams, 1, 1), q, k, v, gate, beta, state
        )
        read = view(
            out, (wide, v_heads, per, streams), (wide * 4, wide * v_heads * 4, wide * v_heads * per * 4)
        )
        new = view(
            out, (wide, wide, v_heads, streams), (wide * 4, wide * wide * 4, wide * wide * v_heads * 4)
        )
        self.graph.expand(copy_into(new, view(memory, (memory.ne[0], streams), memory.nb[1:2])))
        normed = self.norm(read, self.weight(i, "ssm_norm"))
        out = like("mul", normed, like("unary", reshape(z, wide, v_heads, per, streams)))
        out = mul_mat(self.need(i, "ssm_out"), reshape(out, wide * v_heads, per, streams))
        return reshape(out, self.width, n)

    def _qkv_and_gate(self, i: int, x: Tensor, channels: int, per: int) -> tuple[Tensor, Tensor]:
        streams = self.setup.streams
        if self.weight(i, "attn_qkv") is not None:
            mixed = mul_mat(self.need(i, "attn_qkv"), x)
            return reshape(mixed, channels, per, streams), mul_mat(self.need(i, "attn_gate"), x)
        size, k_heads = int(self.meta("ssm.state_size")), int(self.meta("ssm.group_count"))
        inner = int(self.meta("ssm.inner_size"))
        every = mul_mat(self.need(i, "ssm_in"), x)
        every = reshape(every, every.ne[0] // k_heads, k_heads, per, streams)
        z = cont(view(every, (inner // k_heads, k_heads, per, streams), every.nb[1:]))
        q, k = (
            cont(view(every, (size, k_heads, per, streams), every.nb[1:]), size * k_heads, per, streams)
            for _ in range(2)
        )
        v = cont(view(every, (inner // k_heads, k_heads, per, streams), every.nb[1:]), inner, per, streams)
        return concat(concat(q, k, 0), v, 0), z

    def _beta_and_decay(
        self, i: int, x: Tensor, v_heads: int, k_heads: int, per: int
    ) -> tuple[Tensor, Tensor]:
        streams = self.setup.streams
        if self.weight(i, "ssm_ba") is not None:
            ratio = v_heads // k_heads
            both = reshape(mul_mat(self.need(i, "ssm_ba"), x), 2 * ratio, k_heads, per, streams)
            b = cont(view(both, (ratio, k_heads, per, streams), both.nb[1:]))
            a = view(both, (ratio, k_heads, per, streams), both.nb[1:])
            beta = reshape(like("unary", b), 1, v_heads, per, streams)
            alpha = cont(a, v_heads, per, streams)
        else:
            beta = like("unary", reshape(mul_mat(self.need(i, "ssm_beta"), x), 1, v_heads, per, streams))
            alpha = reshape(mul_mat(self.need(i, "ssm_alpha"), x), v_heads, per, streams)
        bias = self.weight(i, "ssm_dt", "bias")
        alpha = like("add", alpha, bias) if bias is not None else alpha
        gate = like("mul", like("unary", alpha), self.bare(i, "ssm_a"))
        return beta, reshape(gate, 1, v_heads, per, streams)

    def _repeated(self, x: Tensor, size: int, k_heads: int, v_heads: int, per: int) -> Tensor:
        streams = self.setup.streams
        wide = repeat(
            reshape(x, size, 1, k_heads, per * streams), size, v_heads // k_heads, k_heads, per * streams
        )
        return reshape(wide, size, v_heads, per, streams)


class BothMixers(Recurrent):
    """falcon-h1: each layer has attention and Mamba 2 side by side."""

    def rope_factors(self, layer: int) -> Tensor | None:
        """None: the engine loads them and does not use them."""
        return None

    def layer(self, i: int, x: Tensor, wanted: Tensor | None) -> Tensor:
        """One layer: both mixers on norms of their own, then the feed-forward part."""
        attended = self.attention(i, self.normed(i, "attn_norm", x))
        scanned = self.mamba2(i, self.normed(i, "attn_norm", x))
        cur = like("add", attended, scanned)
        middle = like("add", cur, x)
        if wanted is not None:
            cur, middle = get_rows(cur, wanted), get_rows(middle, wanted)
        norm = self.weight(i, "ffn_norm") or self.named(f"blk.{i}.ffn_norm")
        return like("add", self.forward(i, self.norm(middle, norm)), middle)


class OneThingALayer(Recurrent):
    """mamba and nemotron_h: a layer is one mixer or a feed-forward part, never two of them."""

    def layer(self, i: int, x: Tensor, wanted: Tensor | None) -> Tensor:
        """Norm, the one thing, and the sum."""
        cur = self.normed(i, "attn_norm", x)
        if self.weight(i, "ssm_in") is not None:
            cur = self.mixer(i, cur)
        elif self.weight(i, "attn_output") is not None:
            cur = self.attention(i, cur)
        else:
            cur = self.forward(i, cur)
        if wanted is not None:
            cur, x = get_rows(cur, wanted), get_rows(x, wanted)
        return like("add", cur, x)


def _scan(s: Tensor, x: Tensor, dt: Tensor, abc: tuple[Tensor, Tensor, Tensor], ids: Tensor) -> Tensor:
    size = x.elements + s.ne[0] * s.ne[1] * s.ne[2] * ids.ne[0]
    return fresh("ssm_scan", "F32", (size, 1, 1, 1), s, x, dt, *abc, ids)
