"""The engine's scheduler: work goes where its weights are, and what crosses over is copied."""

from __future__ import annotations

import pytest

from narthex.knobs import KnobValues
from narthex.memory.compute import build, compute_bytes, flash_kernel
from narthex.memory.graph import Graph, Tensor, like, mul_mat
from narthex.memory.kv_cache import setup_for
from narthex.memory.placement import GPU, Placed, Scheduler
from narthex.memory.weights import place

from .conftest import Model

HOST = 1


def weight(home: int, *ne: int) -> Tensor:
    tensor = Graph().input("F32", *ne)
    tensor.is_input, tensor.is_weight, tensor.home = False, True, home
    return tensor


def two_layers(tokens: int, *homes: int) -> tuple[Graph, Placed]:
    graph = Graph()
    x = graph.input("F32", 64, tokens)
    for home in homes:
        x = like("scale", mul_mat(weight(home, 64, 64), x))
    graph.expand(x)
    return graph, Scheduler(graph, gpu=True, gpu_supports=lambda node: True).place(None)


def test_each_layer_runs_where_its_weights_are_and_what_has_none_joins_the_gpu() -> None:
    graph, placed = two_layers(8, HOST, GPU)
    assert [node.device for node in graph.nodes] == [HOST, GPU, GPU, GPU]
    assert placed.splits == 2


def test_the_gpu_fetches_weights_for_batches_of_32_and_more() -> None:
    assert {node.device for node in two_layers(31, HOST, HOST)[0].nodes} == {HOST}
    assert {node.device for node in two_layers(32, HOST, HOST)[0].nodes} == {GPU}


def test_every_fetched_weight_opens_a_split_so_that_the_one_before_can_go() -> None:
    assert two_layers(32, HOST, HOST, HOST)[1].splits == 3


def test_without_a_gpu_everything_is_one_piece_on_the_host() -> None:
    graph = Graph()
    graph.expand(mul_mat(weight(0, 64, 64), graph.input("F32", 64, 8)))
    placed = Scheduler(graph, gpu=False, gpu_supports=lambda node: False).place(None)
    assert placed.splits == 1
    assert {device for _, device in placed.nodes} == {0}


@pytest.mark.parametrize("name", ["llama3.2-1b", "phi3-mini", "exaone3-8b"])
def test_a_layers_rope_factors_lie_on_its_own_device(shape: Model, name: str) -> None:
    model = shape(name)
    placement = place(model, model.layers // 2)
    built = build(model, setup_for(model, KnobValues(num_ctx=4096)), placement)
    turned = [node for node in built.graph.nodes if node.op == "rope" and len(node.src) > 2]
    homes = [node.src[2].home or GPU for node in turned]
    assert len(homes) == 2 * model.layers
    assert homes == sorted(homes, reverse=True)  # first the host's, then the GPU's
    assert set(homes) == {HOST, GPU}


def test_a_model_left_on_the_host_still_takes_gpu_memory_for_large_batches(shape: Model) -> None:
    model = shape("llama3.2-1b")
    for ubatch, takes in ((16, False), (512, True)):
        setup = setup_for(model, KnobValues(num_ctx=4096, ubatch=ubatch))
        assert bool(compute_bytes(model, setup, place(model, 0)).gpu) is takes


def test_head_sizes_that_cuda_has_a_kernel_for() -> None:
    assert flash_kernel(128, 128, 4, 4096)
    assert flash_kernel(80, 80, 1, 4096)
    assert flash_kernel(576, 512, 16, 4096)
    assert not flash_kernel(100, 100, 1, 4096)
