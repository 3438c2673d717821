"""Which weight goes where, and what it takes there."""

from __future__ import annotations

from narthex.memory.weights import is_tied, padded_bytes, place, weight_bytes
from narthex.models.inspection import Inspection

from .conftest import Model


def largest(inspection: Inspection, name: str) -> int:
    return next(tensor.nbytes for tensor in inspection.tensors if tensor.name == name)


def test_the_output_layer_goes_to_the_gpu_first_and_the_first_layers_last(shape: Model) -> None:
    model = shape("mistral3-24b")
    one, two = place(model, 1), place(model, 2)
    assert one.on_gpu("output.weight")
    assert one.on_gpu("output_norm.weight")
    assert not one.on_gpu("blk.39.attn_q.weight")
    assert two.on_gpu("blk.39.attn_q.weight")
    assert not two.on_gpu("blk.38.attn_q.weight")


def test_the_input_embedding_stays_on_the_host(shape: Model) -> None:
    model = shape("mistral3-24b")
    gpu, host = weight_bytes(model, place(model, 999))
    assert host == largest(model, "token_embd.weight")
    assert gpu > 0


def test_more_layers_than_there_are_is_all_of_them(shape: Model) -> None:
    model = shape("mistral3-24b")
    assert place(model, 999) == place(model, 41)
    assert place(model, -3) == place(model, 0)


def test_a_tied_output_is_a_second_copy_on_the_gpu(shape: Model) -> None:
    model = shape("llama3.2-1b")
    assert is_tied(model)
    embedding = largest(model, "token_embd.weight")
    at_home = weight_bytes(model, place(model, 0))[1]
    gpu, host = weight_bytes(model, place(model, 999))
    assert host == embedding
    assert gpu - at_home < 64 * 1024  # all of it once more: only padding differs
    assert gpu >= at_home


def test_experts_of_the_first_layers_can_stay_behind(shape: Model) -> None:
    model = shape("olmoe-7b")
    whole, spared = place(model, 999), place(model, 999, cpu_moe=4)
    assert not spared.on_gpu("blk.3.ffn_up_exps.weight")
    assert spared.on_gpu("blk.3.attn_q.weight")
    assert spared.on_gpu("blk.4.ffn_up_exps.weight")
    experts = sum(row.expert_bytes for row in model.layer_shapes[:4])
    assert weight_bytes(model, whole)[0] - weight_bytes(model, spared)[0] == experts


def test_cuda_pads_the_last_row_of_quantised_weights() -> None:
    # a row of 5120 needs none; one of 2880 is filled up to 3072: six more blocks of 34 bytes
    assert padded_bytes("Q8_0", 5120, 5440, on_gpu=True) == 5504
    assert padded_bytes("Q8_0", 2880, 3060, on_gpu=True) == 3328
    assert padded_bytes("Q8_0", 2880, 3060, on_gpu=False) == 3072
    assert padded_bytes("F16", 2880, 5760, on_gpu=True) == 5760


def test_heads_that_predict_ahead_are_left_in_the_file(shape: Model) -> None:
    model = shape("glm4.5-air")
    held = sum(tensor.nbytes for tensor in model.tensors if tensor.name.startswith("blk.46."))
    everything = sum(tensor.nbytes for tensor in model.tensors)
    assert held > 0
    assert sum(weight_bytes(model, place(model, 0))) <= everything - held + 64 * len(model.tensors)


def test_without_a_gpu_all_is_on_the_host(shape: Model) -> None:
    model = shape("mistral3-24b")
    assert weight_bytes(model, place(model, 999, gpu=False))[0] == 0
