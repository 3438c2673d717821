"""The engine's allocator: best fit, joined neighbours, operations in place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from narthex.memory.arena import Arena, record
from narthex.memory.graph import Graph, Tensor, like, mul_mat, view


def peak(graph: Graph) -> int:
    for leaf in graph.leafs:
        leaf.device = 0
    tape = record(graph.leafs, [(node, 0) for node in graph.nodes], (32,), lambda tensor, _: tensor.nbytes)
    return tape.peaks()[0]


def weight(graph: Graph, *ne: int) -> Tensor:
    tensor = graph.input("F32", *ne)
    tensor.is_input = False
    tensor.home = 0
    return tensor


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    arena = Arena()
    big, wall, small, _ = (arena.take(size) for size in (320, 32, 64, 32))
    arena.give_back(big, 320)
    arena.give_back(small, 64)
    assert arena.take(64) == small
    assert arena.take(96) == big
    assert wall == 320


def test_freed_neighbours_become_one() -> None:
    arena = Arena()
    a, b, _ = arena.take(64), arena.take(64), arena.take(32)
    arena.give_back(a, 64)
    arena.give_back(b, 64)
    assert arena.take(128) == a
    assert arena.peak == 160


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=60))
def test_blocks_in_use_never_overlap(steps: list[tuple[int, bool]]) -> None:
    arena = Arena()
    used: list[tuple[int, int]] = []
    for size, free in steps:
        if free and used:
            arena.give_back(*used.pop(size % len(used)))
        offset = arena.take(size * 32)
        assert all(offset >= start + length or start >= offset + size * 32 for start, length in used)
        used.append((offset, size * 32))
    assert arena.peak >= sum(length for _, length in used)


def test_an_operation_writes_over_a_source_that_nobody_else_reads() -> None:
    graph = Graph()
    x = mul_mat(weight(graph, 64, 64), graph.input("F32", 64, 8))
    graph.expand(like("scale", like("scale", x)))
    assert peak(graph) == 2 * 64 * 8 * 4  # the input and one row of results


def test_what_is_read_later_is_not_written_over() -> None:
    graph = Graph()
    x = mul_mat(weight(graph, 64, 128), graph.input("F32", 64, 8))
    graph.expand(like("add", like("scale", x), x))
    assert peak(graph) == (64 * 8 + 2 * 128 * 8) * 4


def test_a_view_takes_no_memory_and_its_base_goes_with_it() -> None:
    graph = Graph()
    x = mul_mat(weight(graph, 64, 64), graph.input("F32", 64, 8))
    part = view(x, (32, 8), (x.nb[1],))
    y = mul_mat(weight(graph, 32, 64), part)  # where the input was
    graph.expand(mul_mat(weight(graph, 64, 64), y))  # where x was
    assert peak(graph) == 2 * 64 * 8 * 4
