"""A compute graph without data: shapes, strides, sources and views, in the order the engine would run it.

The engine sizes its compute buffers by building its real graph and letting an allocator walk over it. To
predict that to the byte, the same graph is built here. Rules for shapes, views and order are ggml's
(``ggml.c`` of llama.cpp b11434); nothing is computed.
"""

from __future__ import annotations

from math import prod

from narthex.models.quants import TENSOR_TYPES

Shape = tuple[int, int, int, int]

BLOCKS: dict[str, tuple[int, int]] = {t.name: (t.block, t.nbytes) for t in TENSOR_TYPES.values()}
PLAIN = frozenset({"F32", "F16", "BF16", "I32", "I64", "I16", "I8", "F64"})

VIEW_OPS = frozenset({"view", "reshape", "permute", "transpose"})
# ops whose result may take over the memory of a source that has the same layout (ggml_op_can_inplace)
IN_PLACE = frozenset({"fill", "scale", "add", "add_id", "sub", "mul", "div", "sqr", "sqrt", "log", "unary"})
IN_PLACE |= {"rope", "rms_norm", "clamp", "soft_max"}


class Tensor:
    """One node or leaf. ``base`` is set on views; ``home`` is the device of memory that exists beforehand."""

    __slots__ = (
        "base",
        "block",
        "children",
        "copies",
        "device",
        "home",
        "is_input",
        "is_output",
        "is_weight",
        "kind",
        "nb",
        "ne",
        "op",
        "owned",
        "seen",
        "src",
        "views",
    )

    def __init__(  # noqa: PLR0917 - made a thousand times a plan: positional is quicker
        self, op: str, kind: str, ne: Shape, nb: Shape, src: tuple[Tensor, ...], base: Tensor | None = None
    ) -> None:
        self.op, self.kind, self.ne, self.nb, self.base = op, kind, ne, nb, base
        self.src: list[Tensor] = list(src)
        self.home: int | None = None
        self.is_weight = self.is_input = self.is_output = self.seen = False
        self.device = -1
        self.copies: dict[int, Tensor] = {}
        self.children = self.views = 0
        self.owned = False
        self.block = -1  # number of the block that holds it, once allocated

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element, strides counted (ggml_nbytes)."""
        block, size = BLOCKS[self.kind]
        ne, nb = self.ne, self.nb
        if min(ne) <= 0:
            return 0
        count = size if block == 1 else ne[0] * nb[0] // block
        for i in range(0 if block == 1 else 1, 4):
            count += (ne[i] - 1) * nb[i]
        return count

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.ne)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.ne[1] * self.ne[2] * self.ne[3]


def strides(kind: str, ne: Shape) -> Shape:
    """Strides in bytes of a contiguous tensor."""
    block, size = BLOCKS[kind]
    row = ne[0] // block * size
    return size, row, row * ne[1], row * ne[1] * ne[2]


def fresh(op: str, kind: str, ne: Shape, *src: Tensor) -> Tensor:
    """A new contiguous tensor."""
    return Tensor(op, kind, ne, strides(kind, ne), src)


def leaf(kind: str, *ne: int) -> Tensor:
    """A tensor that no operation makes."""
    full = (*ne, 1, 1, 1)[:4]
    return Tensor("none", kind, full, strides(kind, full), ())  # type: ignore[arg-type]


def like(op: str, a: Tensor, *more: Tensor) -> Tensor:
    """The result of an operation that keeps the shape of its first source: always contiguous."""
    return Tensor(op, a.kind, a.ne, strides(a.kind, a.ne), (a, *more))


def _alias(op: str, a: Tensor, ne: Shape, nb: Shape, *src: Tensor) -> Tensor:
    return Tensor(op, a.kind, ne, nb, src or (a,), a.base or a)


def reshape(a: Tensor, *ne: int) -> Tensor:
    """A contiguous tensor seen in another shape."""
    full: Shape = (*ne, 1, 1, 1)[:4]  # type: ignore[assignment]
    return _alias("reshape", a, full, strides(a.kind, full))


def view(a: Tensor, ne: tuple[int, ...], nb: tuple[int, ...] = ()) -> Tensor:
    """A part of ``a``: ``nb`` are the strides of dimensions 1, 2, 3; those not given are contiguous."""
    full = (*ne, 1, 1, 1)[:4]
    size = BLOCKS[a.kind][1]
    steps = [size, *nb]
    while len(steps) < 4:
        i = len(steps)
        below = steps[i - 1] if i > 1 else size
        if i == 1:
            steps.append(strides(a.kind, full)[1])  # type: ignore[arg-type]
        else:
            steps.append(below * full[i - 1])
    return _alias("view", a, full, tuple(steps))  # type: ignore[arg-type]


def permute(a: Tensor, *axes: int) -> Tensor:
    """Axis i of ``a`` becomes axis ``axes[i]``."""
    ne, nb = [0] * 4, [0] * 4
    for i, axis in enumerate(axes):
        ne[axis], nb[axis] = a.ne[i], a.nb[i]
    return _alias("permute", a, tuple(ne), tuple(nb))  # type: ignore[arg-type]


def transpose(a: Tensor) -> Tensor:
    """The first two axes exchanged."""
    ne, nb = a.ne, a.nb
    return _alias("transpose", a, (ne[1], ne[0], ne[2], ne[3]), (nb[1], nb[0], nb[2], nb[3]))


def overwrite(op: str, target: Tensor, *src: Tensor) -> Tensor:
    """An operation that writes into ``target`` and returns it (``set_rows``, ``cpy``, in-place ``scale``)."""
    return _alias(op, target, target.ne, target.nb, *src)


def set_rows(target: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """Rows written into ``target``."""
    return overwrite("set_rows", target, rows, ids, target)


def copy_into(a: Tensor, target: Tensor) -> Tensor:
    """``a`` copied over ``target``."""
    return overwrite("cpy", target, a, target)


def mul_mat(a: Tensor, b: Tensor) -> Tensor:
    """``a`` of (k, m), ``b`` of (k, n): an F32 matrix of (m, n)."""
    return fresh("mul_mat", "F32", (a.ne[1], b.ne[1], b.ne[2], b.ne[3]), a, b)


def mul_mat_id(experts: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    """Each token through the experts chosen for it."""
    return fresh("mul_mat_id", "F32", (experts.ne[1], ids.ne[0], b.ne[2], 1), experts, b, ids)


def get_rows(a: Tensor, ids: Tensor) -> Tensor:
    """Rows picked out of ``a``, as F32 (I32 stays I32)."""
    kind = "I32" if a.kind == "I32" else "F32"
    return fresh("get_rows", kind, (a.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), a, ids)


def cont(a: Tensor, *ne: int) -> Tensor:
    """A contiguous copy, in another shape if one is given."""
    full: Shape = (*ne, 1, 1, 1)[:4] if ne else a.ne  # type: ignore[assignment]
    return Tensor("cont", a.kind, full, strides(a.kind, full), (a,))


def cast(a: Tensor, kind: str) -> Tensor:
    """A copy in another element type."""
    return Tensor("cpy", kind, a.ne, strides(kind, a.ne), (a,))


def repeat(a: Tensor, *ne: int) -> Tensor:
    """``a`` repeated to a larger shape."""
    full: Shape = (*ne, 1, 1, 1)[:4]  # type: ignore[assignment]
    return fresh("repeat", a.kind, full, a)


def concat(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """``b`` behind ``a`` along an axis."""
    ne = list(a.ne)
    ne[axis] += b.ne[axis]
    return fresh("concat", a.kind, (ne[0], ne[1], ne[2], ne[3]), a, b)


def sum_rows(a: Tensor) -> Tensor:
    """One sum a row."""
    return fresh("sum_rows", a.kind, (1, a.ne[1], a.ne[2], a.ne[3]), a)


def top_k(a: Tensor, count: int) -> Tensor:
    """Indices of the largest ``count`` of each row: a view of a full sort, as the engine does it."""
    order = fresh("argsort", "I32", a.ne, a)
    return view(order, (count, a.ne[1], a.ne[2], a.ne[3]), order.nb[1:])


def is_contiguous(a: Tensor) -> bool:
    """Whether the elements lie one behind the other."""
    return a.nb == strides(a.kind, a.ne)


class Graph:
    """Nodes and leaves in the order in which the engine visits them."""

    __slots__ = ("leafs", "nodes")

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leafs: list[Tensor] = []

    def expand(self, tensor: Tensor) -> Tensor:
        """Add a tensor behind everything that it needs (ggml_build_forward_expand). Returns it."""
        if not tensor.seen:
            tensor.seen = True
            for source in tensor.src:
                if not source.seen:
                    self.expand(source)
            (self.leafs if tensor.op == "none" else self.nodes).append(tensor)
        return tensor

    def input(self, kind: str, *ne: int) -> Tensor:
        """A tensor that the host fills before each run."""
        tensor = leaf(kind, *ne)
        tensor.is_input = True
        return tensor
