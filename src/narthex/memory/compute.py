"""Compute buffers: what the engine reserves for one micro-batch on each device.

Nothing is estimated: the graph that llama.cpp would build is built, split over the devices and walked by
its allocator (:mod:`graph`, :mod:`placement`, :mod:`arena`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narthex.memory import arena, recipes
from narthex.memory.blocks import Blocks, Setup
from narthex.memory.fusion import held_longer
from narthex.memory.graph import BLOCKS, Tensor, leaf
from narthex.memory.placement import GPU, Scheduler
from narthex.memory.weights import GPU_ALIGNMENT, HOST_ALIGNMENT, ROW_PADDING, Placement
from narthex.models.inspection import Inspection, LayerShape, TensorInfo


class Compute(NamedTuple):
    """Bytes of the compute buffers, and how many pieces the graph falls into."""

    gpu: int
    host: int
    splits: int


def compute_bytes(
    inspection: Inspection, setup: Setup, placement: Placement, *, layers: Sequence[int] | None = None
) -> Compute:
    """The compute buffers of one setting. Raises MissingWeight where the file is not what it seems.

    ``layers`` shortens the model to some of its layers, in order.
    """
    tape, splits = compute_tape(inspection, setup, placement, layers=layers)
    *gpu, host = tape.peaks()
    return Compute(gpu[0] if gpu else 0, host, splits)


def compute_tape(
    inspection: Inspection, setup: Setup, placement: Placement, *, layers: Sequence[int] | None = None
) -> tuple[arena.Tape, int]:
    """What the allocators of GPU and host (or of the host alone) are asked for, and the number of pieces.

    Between contexts that round to whole cells alike, with full windows and micro-batches, only sizes differ.
    """
    graph = build(inspection, setup, placement, layers=layers).graph
    placed = Scheduler(graph, gpu=placement.gpu, gpu_supports=gpu_runs).place(held_longer)
    alignments = (GPU_ALIGNMENT, HOST_ALIGNMENT) if placement.gpu else (HOST_ALIGNMENT,)
    size_of = _size_on if placement.gpu else _plain_size
    return arena.record(placed.leafs, placed.nodes, alignments, size_of), placed.splits


def flash_stays_home(inspection: Inspection, setup: Setup, placement: Placement) -> bool:
    """What the engine's «auto» asks: does each layer's flash attention run on the layer's own device?

    It places a graph of one token a slot (``llama_context::resolve_fused_ops``). The layers at both ends,
    where the devices meet, and one of each kind tell as much as all do (1,616 settings of 81 models).
    """
    if not placement.gpu or placement.first > placement.layers:
        return True
    if placement.first == 0:
        return all(
            flash_kernel(
                shape.key_length, _value_length(inspection, shape), shape.heads // shape.kv_heads, 256
            )
            for shape in set(inspection.layer_shapes)
            if shape.kv_heads
        )
    probe = setup._replace(tokens=setup.streams, outputs=setup.streams, flash=True)
    builder = build(inspection, probe, placement, layers=_telling(inspection, placement.first))
    Scheduler(builder.graph, gpu=placement.gpu, gpu_supports=gpu_runs).place(None)
    return all(node.device == builder.home(layer) for layer, node in builder.flash_nodes)


def _telling(inspection: Inspection, first: int) -> list[int]:
    end = inspection.layers - inspection.nextn_layers
    near = {0, 1, 2, first - 2, first - 1, first, first + 1, first + 2, end - 2, end - 1}
    kinds = [shape.attention for shape in inspection.layer_shapes[:end]]
    return sorted({layer for layer in near if 0 <= layer < end} | {kinds.index(kind) for kind in set(kinds)})


def _value_length(inspection: Inspection, shape: LayerShape) -> int:
    """Elements of a value; a latent row serves as both, and its value part is the compressed rank."""
    rank = inspection.metadata.get(f"{inspection.architecture}.attention.kv_lora_rank", 0)
    return shape.value_length or (rank if isinstance(rank, int) else 0)


def build(
    inspection: Inspection, setup: Setup, placement: Placement, *, layers: Sequence[int] | None = None
) -> Blocks:
    """The engine's graph for a setting, not yet placed."""
    weights = _Weights(inspection, placement)
    builder = recipes.builder(inspection, setup, weights.get, weights.layer_home)
    if layers is not None:
        builder.layers = layers
    builder.build()
    return builder


_last: list[tuple[tuple[TensorInfo, ...], dict[str, TensorInfo]]] = []


def _by_name(tensors: tuple[TensorInfo, ...]) -> dict[str, TensorInfo]:
    """Tensors by name; the newest table is kept, since plans come in series for one model."""
    if not _last or _last[0][0] is not tensors:
        _last[:] = [(tensors, {tensor.name: tensor for tensor in tensors})]
    return _last[0][1]


class _Weights:
    """Weights as leaves of one graph, each on its device."""

    def __init__(self, inspection: Inspection, placement: Placement) -> None:
        self.infos = _by_name(inspection.tensors)
        self.placement = placement
        self.made: dict[str, Tensor] = {}

    def _home(self, on_gpu: bool) -> int:
        if not self.placement.gpu:
            return 0
        return GPU if on_gpu else 1

    def layer_home(self, layer: int) -> int:
        """The device of a layer, and so of its cache."""
        return self._home(self.placement.layer_on_gpu(layer))

    def get(self, name: str) -> Tensor | None:
        """A weight by its name, or None.

        ``token_embd.weight#output`` is the copy that serves as output matrix; ``rope_freqs.weight#7`` the
        copy for layer 7, one a device.
        """
        if name in self.made:
            return self.made[name]
        base, _, part = name.partition("#")
        info = self.infos.get(base)
        if info is None or info.type_name not in BLOCKS:
            return None
        home = self.layer_home(int(part)) if part.isdecimal() else self._home(self.placement.on_gpu(name))
        shared = f"{base} on {home}" if part.isdecimal() else name
        if shared not in self.made:
            tensor = leaf(info.type_name, *info.dims)
            tensor.is_weight = True
            tensor.home = home
            self.made[shared] = tensor
        self.made[name] = self.made[shared]
        return self.made[name]


def flash_kernel(key: int, value: int, ratio: int, cells: int) -> bool:
    """Whether CUDA has a flash-attention kernel for these head sizes (``fattn.cu``, b11434).

    ``ratio`` is query heads per KV head; the large heads need several, and a cache padded to 256.
    """
    shared = ratio >= 2 and cells % 256 == 0
    if key in (40, 64, 72, 80, 96, 112, 128, 256):
        return value == key
    if key == 192:
        return value == 128 and shared and ratio % 8 == 0
    if key == 320:
        return value == 256 and shared and ratio % 32 == 0
    if key == 512:
        return value == key and shared
    return key == 576 and value == 512 and shared


def gpu_runs(node: Tensor) -> bool:
    """Whether the GPU can run a node. Everything but some flash attention and old state sizes."""
    if node.op == "flash_attn":
        q, k, v = node.src[0], node.src[1], node.src[2]
        return flash_kernel(k.ne[0], v.ne[0], q.ne[2] // max(k.ne[2], 1), k.ne[1])
    if node.op == "ssm_scan":
        state, head = node.src[0].ne[0], node.src[0].ne[1]
        if node.src[3].ne[0] == 1:  # mamba 2
            return state in (96, 128, 256) and head % 16 == 0
        return state == 16 and head == 1 and node.src[0].ne[2] % 128 == 0
    if node.op == "ssm_conv":
        return node.src[0].ne[1] % 128 == 0
    return True


def _plain_size(tensor: Tensor, device: int) -> int:
    return tensor.nbytes


def _size_on(tensor: Tensor, device: int) -> int:
    size = tensor.nbytes
    if device != GPU:
        return size
    if tensor.op == "flash_attn":
        k, v = tensor.src[1:3]
        for part in (k,) if k.base is not None and k.base is v.base else (k, v):
            if part.kind != "F16":  # room for a quantised cache as f16
                size = -(-size // 128) * 128 + part.elements * 2
    block, nbytes = BLOCKS[tensor.kind]
    if block > 1 and tensor.ne[0] % ROW_PADDING:
        size += (ROW_PADDING - tensor.ne[0] % ROW_PADDING) // block * nbytes
    return size
