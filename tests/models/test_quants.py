"""The table of tensor types."""

from __future__ import annotations

import pytest

from narthex.models.quants import MIXES, TENSOR_TYPES, TYPE_IDS, tensor_bytes

BITS = {
    "F32": 32,
    "BF16": 16,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q4_K": 4.5,
    "IQ4_XS": 4.25,
    "MXFP4": 4.25,
    "NVFP4": 4.5,
    "IQ1_S": 1.5625,
    "TQ2_0": 2.0625,
}


@pytest.mark.parametrize(("name", "bits"), BITS.items())
def test_a_type_takes_the_bits_a_weight_it_is_known_for(name: str, bits: float) -> None:
    kind = TENSOR_TYPES[TYPE_IDS[name]]
    assert kind.nbytes * 8 / kind.block == bits


def test_bytes_of_a_matrix_are_rows_of_blocks() -> None:
    assert tensor_bytes((5120, 1024), TENSOR_TYPES[TYPE_IDS["Q4_K"]]) == 5120 * 1024 // 256 * 144


def test_the_table_agrees_with_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind in constants.GGMLQuantizationType:
        if kind.name == "Q8_1":  # never in a file; the package counts its two f16 scales as f32
            continue
        assert TENSOR_TYPES[kind.value] == (kind.name, *constants.GGML_QUANT_SIZES[kind])


def test_the_mixes_agree_with_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    theirs = {kind.value: kind.name for kind in constants.LlamaFileType if kind.name != "GUESSED"}
    for number, name in MIXES.items():
        assert name in theirs.get(number, name)
