"""How much memory a placed graph takes: ggml's graph allocator, walked without memory.

One arena a device. A tensor is placed when it is first needed and freed after its last use; a free block
is reused by best fit; an operation may write over a source that nobody needs any more. The largest
address ever used is what the engine will allocate (``ggml-alloc.c`` of llama.cpp b11434).

Who takes and frees what depends on the graph alone, so it is recorded once (:class:`Tape`) and can be played
again with other sizes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from narthex.memory.graph import IN_PLACE, Tensor

SizeOf = Callable[[Tensor, int], int]  # bytes that a device takes for a tensor


class Arena:
    """Free blocks of one device, in address order; the last one has no end."""

    __slots__ = ("ends", "peak", "starts")

    ENDLESS = 1 << 62

    def __init__(self) -> None:
        self.peak = 0
        self.starts = [0]
        self.ends = [self.ENDLESS]

    def take(self, size: int) -> int:
        """The offset of a block of ``size`` bytes (aligned): the best fit, else the end."""
        starts, ends = self.starts, self.ends
        best, best_size = len(starts) - 1, self.ENDLESS
        for i in range(len(starts) - 1):
            room = ends[i] - starts[i]
            if size <= room <= best_size:
                best, best_size = i, room
        offset = starts[best]
        starts[best] = offset + size
        if starts[best] == ends[best]:
            del starts[best], ends[best]
        self.peak = max(self.peak, offset + size)
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Free a block and join it with a free neighbour.

        Empty blocks are kept too, as the engine does: one in the middle of a later free block keeps that
        from being joined with what follows, which costs recurrent models up to a fifth.
        """
        starts, ends = self.starts, self.ends
        end = offset + size
        for i in range(len(starts)):
            if ends[i] == offset:
                ends[i] = end
                if i + 1 < len(starts) and starts[i + 1] == end:
                    ends[i] = ends[i + 1]
                    del starts[i + 1], ends[i + 1]
                return
            if starts[i] == end:
                starts[i] = offset
                if i and ends[i - 1] == offset:
                    ends[i - 1] = ends[i]
                    del starts[i], ends[i]
                return
        i = bisect_left(starts, offset)
        starts.insert(i, offset)
        ends.insert(i, end)


class Tape(NamedTuple):
    """What the allocator is asked for over one run of a graph: the same for every size of its tensors.

    ``steps`` names a block that is taken as its number n, and one that is given back as ~n.
    """

    alignments: tuple[int, ...]
    steps: list[int]
    devices: list[int]  # of each block
    sizes: list[int]  # bytes of each block

    def peaks(self) -> list[int]:
        """The peak of each device."""
        arenas = [Arena() for _ in self.alignments]
        rooms = [
            -(-size // self.alignments[device]) * self.alignments[device]
            for size, device in zip(self.sizes, self.devices, strict=True)
        ]
        offsets = [0] * len(rooms)
        for step in self.steps:
            if step >= 0:
                offsets[step] = arenas[self.devices[step]].take(rooms[step])
            else:
                arenas[self.devices[~step]].give_back(offsets[~step], rooms[~step])
        return [arena.peak for arena in arenas]

    def alike(self, other: Tape) -> bool:
        """Whether the two differ in sizes only."""
        return self[:3] == other[:3]

    def towards(self, other: Tape, part: int, whole: int) -> Tape:
        """The tape ``part`` of ``whole`` of the way to one that is alike, sizes growing evenly."""
        pairs = zip(self.sizes, other.sizes, strict=True)
        return self._replace(sizes=[here + (there - here) * part // whole for here, there in pairs])


def record(
    leafs: Sequence[Tensor],
    nodes: Sequence[tuple[Tensor, int]],
    alignments: tuple[int, ...],
    size_of: SizeOf,
) -> Tape:
    """One run of the graph. ``nodes`` are in running order, each with its device; leafs carry theirs."""
    walk = _Walk(size_of)
    for leaf in leafs:
        walk.allocate(leaf, leaf.device)
    for node, device in nodes:
        if node.base is not None and node.op != "none":
            node.base.views += 1
        if node.is_input:
            walk.allocate(node, device)
        for source in node.src:
            source.children += 1
            if source.is_input:
                walk.allocate(source, device)
    for node, device in nodes:
        for source in node.src:
            if not source.owned:
                walk.allocate(source, device)
        if not node.owned:
            walk.allocate(node, device)
        for source in node.src:
            source.children -= 1
            if source.children == 0 and source.views == 0:
                walk.release(source)
    return Tape(alignments, walk.steps, walk.devices, walk.sizes)


class _Walk:
    def __init__(self, size_of: SizeOf) -> None:
        self.size_of = size_of
        self.steps: list[int] = []
        self.devices: list[int] = []
        self.sizes: list[int] = []

    def allocate(self, tensor: Tensor, device: int) -> None:
        """Give a tensor memory of its own, or that of a source it may overwrite."""
        if tensor.owned or tensor.base is not None or tensor.home is not None:
            return
        tensor.owned = True
        if tensor.op in IN_PLACE and self._take_over(tensor):
            return
        tensor.block = len(self.sizes)
        self.steps.append(tensor.block)
        self.devices.append(device)
        self.sizes.append(self.size_of(tensor, device))

    def _take_over(self, tensor: Tensor) -> bool:
        # a view never counts as owned, so an operation on a view always gets memory of its own
        for parent in tensor.src:
            if not parent.owned or parent.is_output or parent.children != 1 or parent.views:
                continue
            if parent.kind != tensor.kind or parent.ne != tensor.ne or parent.nb != tensor.nb:
                continue
            parent.owned = False  # its memory now belongs to `tensor`
            tensor.block = parent.block
            return True
        return False

    def release(self, tensor: Tensor) -> None:
        """Nobody reads ``tensor`` any more: free it, or the tensor it is a view of."""
        root = tensor
        if tensor.base is not None:
            root = tensor.base
            root.views -= 1
            if root.views or root.children:
                return
        if root.owned and not root.is_output:
            self.steps.append(~root.block)
            root.owned = False
