"""Which device runs which node, and what is copied between them: the engine's scheduler, without running.

Two devices at most: the GPU is 0 and the host comes last (without a GPU the host is 0 and alone). The rules
are those of ``ggml_backend_sched_split_graph`` (``ggml-backend.cpp`` of llama.cpp b11434): work goes where
its weights lie, the GPU's share grows over neighbouring operations, operations on large batches whose
weights lie on the host are taken over by the GPU, and every tensor that crosses over is copied at the start
of a split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narthex.memory.graph import VIEW_OPS, Graph, Tensor

GPU = 0
# smallest batch that makes the GPU fetch weights from the host (GGML_OP_OFFLOAD_MIN_BATCH's default)
OFFLOAD_BATCH = 32
MAX_SOURCES = 10  # GGML_MAX_SRC

Supports = Callable[[Tensor], bool]


class Split(NamedTuple):
    """Nodes that run on one device in one go, and the tensors copied to it before."""

    device: int
    start: int
    end: int
    inputs: list[Tensor]


class Placed(NamedTuple):
    """A graph ready for the allocator: nodes in running order with their devices."""

    leafs: list[Tensor]
    nodes: list[tuple[Tensor, int]]
    splits: int


def _holder(tensor: Tensor) -> int | None:
    root = tensor.base or tensor
    return root.home


def _batch_size(node: Tensor) -> int:
    """What the GPU compares with OFFLOAD_BATCH (get_op_batch_size of the CUDA backend)."""
    if node.op == "get_rows":
        return 0
    if node.op == "mul_mat":
        return node.ne[1]
    if node.op in ("mul_mat_id", "rope"):
        return node.ne[2]
    return node.rows


class Scheduler:
    """Assigns and splits one graph. ``gpu_supports`` answers whether the GPU can run a node at all."""

    def __init__(self, graph: Graph, *, gpu: bool, gpu_supports: Supports, offload: bool = True) -> None:
        self.graph = graph
        self.host = 1 if gpu else 0
        self.gpu_supports = gpu_supports
        self.offload = offload and gpu

    def place(self, keep: Callable[[list[Tensor], list[Split]], dict[Tensor, list[Tensor]]] | None) -> Placed:
        """Assign devices and insert copies. ``keep`` may reorder GPU nodes and name tensors to hold on to."""
        nodes = self.graph.nodes
        for tensor in self.graph.leafs:
            if tensor.device < 0:
                tensor.device = self._first_guess(tensor)
        if not self.host:
            for tensor in (*self.graph.leafs, *nodes):
                tensor.device = 0
            return Placed(self.graph.leafs, [(node, 0) for node in nodes], 1)
        for node in nodes:
            if node.device < 0:
                node.device = self._first_guess(node)
        self._spread()
        self._settle()
        splits = self._split()
        held = keep(nodes, splits) if keep else {}
        return Placed(self.graph.leafs, self._with_copies(splits, held), len(splits))

    def _supports(self, device: int, node: Tensor) -> bool:
        return device == self.host or self.gpu_supports(node)

    def _first_guess(self, node: Tensor) -> int:
        home = _holder(node)
        if home is not None:
            return home
        if node.is_input:
            return self.host
        if node.op in ("rope", "flash_attn"):
            return -1
        for source in node.src:
            if source.is_weight and source.home is not None:
                place = source.home
                fetched = self.offload and place == self.host and _batch_size(node) >= OFFLOAD_BATCH
                if fetched and self.gpu_supports(node):
                    return GPU
                return place if self._supports(place, node) else -1
        return -1

    def _spread(self) -> None:
        """Neighbours without an opinion join the GPU first, down and up, then whoever is next."""
        workers = [node for node in self.graph.nodes if node.op not in VIEW_OPS]
        backwards = workers[::-1]
        for order, host_too in ((workers, False), (backwards, False), (workers, True), (backwards, True)):
            current = -1
            for node in order:
                if node.device >= 0:
                    current = node.device if host_too or node.device != self.host else -1
                elif current >= 0 and self._supports(current, node):
                    node.device = current

    def _on(self, tensor: Tensor, device: int) -> bool:
        """Whether a device can read a tensor where it lies."""
        home = _holder(tensor)
        if home is None:
            home = tensor.device
            if home < 0 and tensor.base is not None:
                home = tensor.base.device
        return home == device

    def _settle(self) -> None:
        for node in self.graph.nodes:
            if node.op in VIEW_OPS or node.device >= 0:
                continue
            best = -1
            for device in (GPU, self.host):
                if not self._supports(device, node):
                    continue
                count = sum(self._on(source, device) for source in node.src)
                if count > best:
                    best, node.device = count, device
        for node in self.graph.nodes:
            if node.base is not None and node.device < 0:
                node.device = node.base.device
            for source in node.src:
                if source.device < 0:
                    source.device = source.base.device if source.base is not None else node.device
            if node.device < 0:
                node.device = GPU if self.gpu_supports(node) else self.host

    def _split(self) -> list[Split]:
        nodes = self.graph.nodes
        first = next((node for node in nodes if node.op not in VIEW_OPS), nodes[0])
        splits: list[Split] = []
        start, current = 0, first.device
        inputs: list[Tensor] = []
        for i, node in enumerate(nodes):
            if node.op in VIEW_OPS:
                continue
            # a second weight from elsewhere opens a new split, so that the first one's copy can be freed
            fetches = inputs and any(
                source.is_weight and source.device != current and not self._on(source, current)
                for source in node.src
            )
            if node.device != current or fetches:
                splits.append(Split(current, start, i, inputs))
                start, current, inputs = i, node.device, []
            for j, source in enumerate(node.src):
                if source.device == current or self._on(source, current):
                    continue
                if current not in source.copies:
                    source.copies[current] = Tensor("none", source.kind, source.ne, source.nb, ())
                    inputs.append(source)
                node.src[j] = source.copies[current]
        splits.append(Split(current, start, len(nodes), inputs))
        return splits

    def _with_copies(self, splits: list[Split], held: dict[Tensor, list[Tensor]]) -> list[tuple[Tensor, int]]:
        order: list[tuple[Tensor, int]] = []
        for split in splits:
            for source in split.inputs:
                order.append((_hold([source]), source.device))
                order.append((source.copies[split.device], split.device))
            for node in self.graph.nodes[split.start : split.end]:
                order.append((node, node.device))
                kept = held.get(node)
                if kept:
                    for k in range(0, len(kept), MAX_SOURCES):
                        order.append((_hold(kept[k : k + MAX_SOURCES]), split.device))
        return order


def _hold(tensors: list[Tensor]) -> Tensor:
    """A node that does nothing but keep tensors from being freed before it."""
    first = tensors[0]
    return Tensor("none", first.kind, first.ne, first.nb, tuple(tensors), first.base or first)
