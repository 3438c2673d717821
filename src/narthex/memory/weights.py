"""Where each weight goes, and what the weights take there.

The engine fills the GPU from the end: with ``gpu_layers`` = n, the output layer and the last n − 1 repeating
layers. The input embedding always stays on the host; a model without an output matrix uses the embedding a
second time, as a copy where the output layer is (``llama-model.cpp`` and ``llama-model-loader.cpp``, b11434).
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import NamedTuple

from narthex.memory.graph import BLOCKS
from narthex.models.dialects import BESIDE, LEFT
from narthex.models.inspection import Inspection, TensorInfo

# alignment of a tensor in a buffer (CUDA and Vulkan: 128; host memory: TENSOR_ALIGNMENT)
GPU_ALIGNMENT, HOST_ALIGNMENT = 128, 32
ROW_PADDING = 512  # weights: CUDA pads the last row of quantised tensors to this many (MATRIX_ROW_PADDING)

# these load the output copy before the embedding itself, and so twice even where both are on the host
TWICE = frozenset({"gemma3n", "gemma4"})

_INPUT = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
_OUTPUT = ("output.", "output_norm.", "cls.", "altup_", "token_embd.weight#output")
# whose last norm is called token_embd_norm; elsewhere that name is a norm of the input, loaded with layer 0
_NORM_AT_THE_END = frozenset({"lfm2", "lfm2moe"})
_EXPERTS = re.compile(r"\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps")  # LLM_FFN_EXPS_REGEX
_BLOCK = re.compile(r"blk\.(\d+)\.")


class Placement(NamedTuple):
    """Which layers are on the GPU: those from ``first`` on; the output counts as layer ``layers``."""

    first: int
    layers: int
    cpu_moe: int = 0
    gpu: bool = True  # whether the engine has a GPU at all
    output_names: tuple[str, ...] = _OUTPUT

    def layer_on_gpu(self, layer: int) -> bool:
        """Whether a repeating layer, or the output (layer ``layers``), is on the GPU."""
        return self.gpu and layer >= self.first

    def on_gpu(self, name: str) -> bool:
        """Whether the weight of this name is on the GPU."""
        layer = self.layer_of(name)
        return layer is not None and self.layer_on_gpu(layer)

    def layer_of(self, name: str) -> int | None:
        """The layer that a weight goes with, the output being the last; None stays on the host."""
        if found := _BLOCK.match(name):
            layer = int(found[1])
            return None if layer < self.cpu_moe and _EXPERTS.search(name) else layer
        if name.startswith(_INPUT) and not name.endswith("#output"):
            return None
        # what has no layer number is loaded as part of the output or of layer 0
        return self.layers if name.startswith(self.output_names) else 0


def place(inspection: Inspection, gpu_layers: int, cpu_moe: int = 0, *, gpu: bool = True) -> Placement:
    """The placement for a number of GPU layers, output layer counted; more than all is all."""
    layers = inspection.layers
    count = min(max(gpu_layers, 0), layers + 1) if gpu else 0
    names: tuple[str, ...] = _OUTPUT
    if inspection.architecture in _NORM_AT_THE_END:
        names = (*names, "token_embd_norm.")
    return Placement(layers + 1 - count, layers, cpu_moe, gpu, names)


def padded_bytes(kind: str, first_dim: int, nbytes: int, *, on_gpu: bool) -> int:
    """Bytes that a device reserves for a tensor of ``nbytes``."""
    if not on_gpu:
        return -(-nbytes // HOST_ALIGNMENT) * HOST_ALIGNMENT
    block, size = BLOCKS.get(kind, (1, 4))
    if block > 1 and first_dim % ROW_PADDING:
        nbytes += (ROW_PADDING - first_dim % ROW_PADDING) // block * size
    return -(-nbytes // GPU_ALIGNMENT) * GPU_ALIGNMENT


def loaded(inspection: Inspection) -> list[TensorInfo]:
    """The tensors that the engine loads: those of speculative heads behind the trunk are left in the file,
    and those for eyes and ears are loaded apart (``Inspection.beside_bytes``)."""
    key = f"{inspection.architecture}.nextn_predict_layers"
    heads = inspection.metadata.get(key, 0)
    tensors = [t for t in inspection.tensors if not t.name.startswith((*BESIDE, *LEFT))]
    if not isinstance(heads, int) or heads <= 0:
        return tensors
    trunk = inspection.layers - heads
    return [t for t in tensors if not (m := _BLOCK.match(t.name)) or int(m[1]) < trunk]


def is_tied(inspection: Inspection) -> bool:
    """Whether the output matrix is the embedding, used twice."""
    return not any(tensor.name == "output.weight" for tensor in inspection.tensors)


def weight_bytes(inspection: Inspection, placement: Placement) -> tuple[int, int]:
    """Bytes of weights on the GPU and on the host."""
    on_gpu = on_host = 0
    for tensor in loaded(inspection):
        gpu = placement.on_gpu(tensor.name)
        size = padded_bytes(tensor.type_name, tensor.dims[0], tensor.nbytes, on_gpu=gpu)
        if gpu:
            on_gpu += size
        else:
            on_host += size
        if tensor.name == "token_embd.weight" and is_tied(inspection):
            if placement.on_gpu("output."):
                on_gpu += padded_bytes(tensor.type_name, tensor.dims[0], tensor.nbytes, on_gpu=True)
            elif inspection.architecture in TWICE:
                on_host += size
    return on_gpu, on_host


def gpu_weights(inspection: Inspection, cpu_moe: int = 0) -> list[int]:
    """Bytes of weights on the GPU for each number of GPU layers, from 0 to all and the output."""
    placement = place(inspection, inspection.layers + 1, cpu_moe)
    held = [0] * (inspection.layers + 1)
    for tensor in loaded(inspection):
        names = [tensor.name]
        if tensor.name == "token_embd.weight" and is_tied(inspection):
            names.append("token_embd.weight#output")
        for layer in map(placement.layer_of, names):
            if layer is not None:
                held[layer] += padded_bytes(tensor.type_name, tensor.dims[0], tensor.nbytes, on_gpu=True)
    return [0, *accumulate(reversed(held))]
