"""How much memory a placed graph takes: ggml's graph allocator, walked without memory.

One arena a device. A tensor is placed when it is first needed and freed after its last use; a free block
is reused by best fit; an operation may write over a source that nobody needs any more. The largest
address ever used is what the engine will allocate (``ggml-alloc.c`` of llama.cpp b11434).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from narthex.memory.graph import IN_PLACE, Tensor

SizeOf = Callable[[Tensor, int], int]  # bytes that a device takes for a tensor


class Arena:
    """Free blocks of one device, in address order; the last one has no end."""

    __slots__ = ("alignment", "ends", "peak", "starts")

    ENDLESS = 1 << 62

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
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


def peak_bytes(
    leafs: Sequence[Tensor],
    nodes: Sequence[tuple[Tensor, int]],
    alignments: Sequence[int],
    size_of: SizeOf,
) -> list[int]:
    """The peak of each device over one run of the graph.

    ``nodes`` are in running order, each with its device; leafs carry theirs in ``device``.
    """
    walk = _Walk(alignments, size_of)
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
    return [arena.peak for arena in walk.arenas]


class _Walk:
    def __init__(self, alignments: Sequence[int], size_of: SizeOf) -> None:
        self.arenas = [Arena(alignment) for alignment in alignments]
        self.size_of = size_of

    def allocate(self, tensor: Tensor, device: int) -> None:
        """Give a tensor memory of its own, or that of a source it may overwrite."""
        if tensor.owned or tensor.base is not None or tensor.home is not None:
            return
        tensor.owned = True
        if tensor.op in IN_PLACE and self._take_over(tensor):
            return
        tensor.room = self._padded(tensor, device)
        tensor.place = (device, self.arenas[device].take(tensor.room))

    def _padded(self, tensor: Tensor, device: int) -> int:
        alignment = self.arenas[device].alignment
        return -(-self.size_of(tensor, device) // alignment) * alignment

    def _take_over(self, tensor: Tensor) -> bool:
        # a view never counts as owned, so an operation on a view always gets memory of its own
        for parent in tensor.src:
            if not parent.owned or parent.is_output or parent.children != 1 or parent.views:
                continue
            if parent.kind != tensor.kind or parent.ne != tensor.ne or parent.nb != tensor.nb:
                continue
            parent.owned = False  # its memory now belongs to `tensor`
            tensor.place = parent.place
            tensor.room = parent.room  # same layout, so the same size
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
            device, offset = root.place
            self.arenas[device].give_back(offset, root.room)
            root.owned = False
