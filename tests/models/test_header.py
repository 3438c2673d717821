"""The reader of GGUF headers: what it keeps, and that nothing a file holds can hurt it."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narthex.cli.commands.inspect import as_data, as_text
from narthex.errors import ModelFileError
from narthex.models.gguf import inspect_file
from narthex.models.header import read_header
from narthex.models.inspection import ArrayLength
from narthex.testing.gguf_writer import Tensor, Typed, header_bytes, write_gguf

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "small",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.attention.head_count": [4, 4],
    "llama.rope.freq_base": 1e4,
    "tokenizer.ggml.tokens": [f"token {number}" for number in range(100)],
    "tokenizer.ggml.scores": [0.5] * 2000,
}
TENSORS: list[Tensor] = [
    ("token_embd.weight", (64, 100), "Q8_0"),
    ("blk.0.attn_k.weight", (64, 64), "F16"),
    ("output_norm.weight", (64,), "F32"),
]


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[bytes], str]:
    """The sentence that a file of these bytes is refused with."""

    def refuse(content: bytes) -> str:
        path = tmp_path / "broken.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            inspect_file(path)
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value.message.replace(str(path), "FILE")

    return refuse


def whole(metadata: dict[str, Any] | None = None, tensors: list[Tensor] | None = None) -> bytes:
    """A valid file's bytes, weights included."""
    head, weights = header_bytes(
        METADATA if metadata is None else metadata, TENSORS if tensors is None else tensors
    )
    return head + bytes(weights)


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    values = {
        "u8": Typed("u8", 200),
        "i8": Typed("i8", -100),
        "u16": Typed("u16", 60000),
        "i16": Typed("i16", -30000),
        "u32": Typed("u32", 2**32 - 1),
        "i32": Typed("i32", -(2**31)),
        "u64": Typed("u64", 2**64 - 1),
        "i64": Typed("i64", -(2**63)),
        "f32": Typed("f32", 0.5),
        "f64": Typed("f64", 0.1),
        "bool": Typed("bool", True),
        "str": Typed("str", "ähm"),
        "list": Typed("i16", [1, -2, 3]),
        "words": ["a", "", "b"],
        "nothing": Typed("str", []),
    }
    read = read_header(write_gguf(tmp_path / "a.gguf", values)).metadata
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in values.items()}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in read.items()} == plain


def test_tensors_keep_name_shape_type_bytes_and_offset(tmp_path: Path) -> None:
    tensors = read_header(write_gguf(tmp_path / "a.gguf", METADATA, TENSORS)).tensors
    assert [(t.name, t.dims, t.type_name) for t in tensors] == TENSORS
    assert [t.nbytes for t in tensors] == [6800, 8192, 256]
    assert [t.offset for t in tensors] == [0, 6816, 15008]


def test_version_2_and_another_alignment_are_read(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf", METADATA, TENSORS, alignment=256, version=2))
    assert header.data_offset % 256 == 0
    assert header.tensors[1].offset == 6912


def test_long_arrays_and_texts_are_kept_as_their_length(tmp_path: Path) -> None:
    metadata = METADATA | {"template": "x" * 100_000}
    read = read_header(write_gguf(tmp_path / "a.gguf", metadata)).metadata
    assert read["tokenizer.ggml.tokens"] == ArrayLength(100, "string")
    assert read["tokenizer.ggml.scores"] == ArrayLength(2000, "f32")
    assert read["template"] == ArrayLength(100_000, "byte")


@pytest.mark.parametrize("lengths", [[0], [31], [32], [300], [5, 6, 400, 7], [70_000, 1]])
def test_strings_of_any_length_are_stepped_over(tmp_path: Path, lengths: list[int]) -> None:
    words = ["\0" * lengths[number % len(lengths)] for number in range(333)]
    metadata = {"words": words, "after": 7}
    assert read_header(write_gguf(tmp_path / "a.gguf", metadata)).metadata["after"] == 7


def test_text_that_is_no_utf_8_does_not_stop_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(whole().replace(b"small", b"sm\xff\xfel"))
    assert inspect_file(path).name == "sm\ufffd\ufffdl"


def test_weights_may_be_a_hole(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", METADATA, [("token_embd.weight", (8192, 10_000_000), "F16")])
    assert path.stat().st_blocks * 512 < 2**20
    assert inspect_file(path).parameters == 8192 * 10_000_000


def test_a_changed_header_or_size_is_another_digest(tmp_path: Path) -> None:
    first = read_header(write_gguf(tmp_path / "a.gguf", METADATA, TENSORS)).digest
    again = read_header(write_gguf(tmp_path / "b.gguf", METADATA, TENSORS)).digest
    other = read_header(write_gguf(tmp_path / "c.gguf", METADATA | {"general.name": "other"}, TENSORS)).digest
    longer = write_gguf(tmp_path / "d.gguf", METADATA, TENSORS)
    os.truncate(longer, longer.stat().st_size + 32)
    assert first == again
    assert len({first, other, read_header(longer).digest}) == 3


def test_a_file_that_is_missing_empty_a_folder_or_no_file_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, word in {"none": "There is no file", "empty": "empty", "pipe": "no regular file"}.items():
        with pytest.raises(ModelFileError, match=word):
            inspect_file(tmp_path / f"{name}.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        inspect_file(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", METADATA)
    path.chmod(0)
    with pytest.raises(ModelFileError, match="may not read"):
        inspect_file(path)


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b"PK\x03\x04" + bytes(20), "FILE is not a GGUF file."),
        (b"GGUF", "FILE ends inside its header."),
        (b"GGUF\x03", "FILE ends inside its header."),
        (b"GGUF" + struct.pack("<I", 1), "FILE is GGUF version 1, which engines no longer read."),
        (
            b"GGUF" + struct.pack(">I", 3),
            "FILE is a big-endian GGUF file, which this machine's engines can't read.",
        ),
        (b"GGUF" + struct.pack("<I", 9), "FILE is GGUF version 9; versions 2 and 3 can be read."),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), f"FILE is damaged: it claims {2**60:,} tensors."),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
            f"FILE is damaged: it claims {2**60:,} metadata entries.",
        ),
    ],
)
def test_a_wrong_start_is_told_in_one_sentence(
    refusal: Callable[[bytes], str], start: bytes, sentence: str
) -> None:
    assert refusal(start) == sentence


def test_every_truncation_is_told(refusal: Callable[[bytes], str]) -> None:
    content = whole()
    header = len(content) - 15_264
    for length in range(24, header - 32, 7):
        assert "FILE" in refusal(content[:length])
    assert refusal(content[:-1]) == f"FILE is cut off: 1 bytes of {len(content):,} are missing."


def test_padding_after_the_last_tensor_may_be_missing(tmp_path: Path) -> None:
    head, weights = header_bytes(METADATA, TENSORS[:1])
    path = tmp_path / "a.gguf"
    path.write_bytes(head + bytes(weights - 16))
    assert inspect_file(path).parameters == 6400


def claim(content: bytes, before: bytes, form: str, value: int, skip: int = 0) -> bytes:
    """The bytes with the number that follows ``before`` (and ``skip`` bytes) replaced."""
    at = content.index(before) + len(before) + skip
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


@pytest.mark.parametrize("count", [101, 2**20, 2**32, 2**60, 2**64 - 1])
def test_a_wrong_count_of_strings_costs_nothing(refusal: Callable[[bytes], str], count: int) -> None:
    assert refusal(claim(whole(), b"tokenizer.ggml.tokens", "<Q", count, skip=8))


@pytest.mark.parametrize("length", [2**20, 2**32, 2**63, 2**64 - 1])
def test_a_wrong_length_of_a_string_costs_nothing(refusal: Callable[[bytes], str], length: int) -> None:
    assert refusal(claim(whole(), b"tokenizer.ggml.tokens", "<Q", length, skip=16))
    assert refusal(claim(whole(), b"general.name", "<Q", length, skip=4))
    assert refusal(struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, length) + bytes(100))


def test_numbers_beyond_the_file_cost_nothing(refusal: Callable[[bytes], str]) -> None:
    message = refusal(claim(whole(), b"tokenizer.ggml.scores", "<Q", 2**61, skip=8))
    assert message == f"FILE is damaged: it claims {2**61:,} values in «tokenizer.ggml.scores»."


def test_huge_claims_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    claims = [
        struct.pack("<4sIQQ", b"GGUF", 3, 2**40, 2**40),
        claim(whole(), b"tokenizer.ggml.tokens", "<Q", 2**40, skip=8),
        claim(whole(), b"tokenizer.ggml.scores", "<Q", 2**40, skip=8),
        claim(whole(), b"general.name", "<Q", 2**34, skip=4),
    ]
    tracemalloc.start()
    try:
        for content in claims:
            path.write_bytes(content)
            os.truncate(path, 2**40)  # a hole, so that the file seems large enough for the claim
            with pytest.raises(ModelFileError):
                inspect_file(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_unknown_and_nested_types_are_refused(refusal: Callable[[bytes], str]) -> None:
    assert "unknown value type 13" in refusal(claim(whole(), b"llama.block_count", "<I", 13))
    assert "unknown type 77" in refusal(claim(whole(), b"llama.attention.head_count", "<I", 77, skip=4))
    assert "with arrays" in refusal(claim(whole(), b"llama.attention.head_count", "<I", 9, skip=4))


def test_a_key_or_a_tensor_twice_is_refused(refusal: Callable[[bytes], str]) -> None:
    twice = whole({"a.a": 1, "a.b": 2, **METADATA}).replace(b"a.b", b"a.a")
    assert refusal(twice) == "FILE is damaged: it holds the metadata key «a.a» twice."
    assert "two tensors of one name" in refusal(whole(tensors=[TENSORS[0], TENSORS[0]]))


def test_a_name_can_not_break_the_sentence(refusal: Callable[[bytes], str]) -> None:
    content = whole({"a\n\x1bb": 1, **METADATA})
    assert "«a��b»" in refusal(claim(content, b"a\n\x1bb", "<I", 99))


def test_names_that_are_no_text_are_refused(refusal: Callable[[bytes], str]) -> None:
    assert "metadata key that is no UTF-8" in refusal(whole().replace(b"general.name", b"general.n\xff\xfee"))
    assert "tensor name that is no UTF-8" in refusal(whole().replace(b"output_norm", b"output\xffnorm"))


@pytest.mark.parametrize("alignment", [Typed("u32", 0), Typed("u32", 33), Typed("i32", -32), "32"])
def test_an_alignment_that_is_no_power_of_two_is_refused(
    refusal: Callable[[bytes], str], alignment: Any
) -> None:
    assert "alignment" in refusal(whole(METADATA | {"general.alignment": alignment}))


EMBEDDING = b"token_embd.weight"


@pytest.mark.parametrize(
    ("form", "value", "skip", "words"),
    [
        ("<I", 5, 0, "5 dimensions"),
        ("<I", 2**32 - 1, 0, "dimensions"),
        ("<Q", 2**62, 4, "impossible size"),
        ("<Q", 2**64 - 32, 12, "impossible size"),
        ("<Q", 63, 4, "inside a Q8_0 block"),
        ("<I", 4, 20, "type this program does not know"),
        ("<I", 2**31, 20, "type this program does not know"),
        ("<Q", 1, 24, "not aligned"),
        ("<Q", 6816, 24, "overlap"),
        ("<Q", 2**64 - 32, 24, "missing"),
    ],
)
def test_a_tensor_that_can_not_be_is_refused(
    refusal: Callable[[bytes], str], form: str, value: int, skip: int, words: str
) -> None:
    assert words in refusal(claim(whole(), EMBEDDING, form, value, skip))


def one_sentence_or_an_inspection(path: Path) -> None:
    """What must hold for any bytes whatever."""
    try:
        inspection = inspect_file(path)
    except ModelFileError as error:
        answer = error
    else:
        assert as_text(inspection)
        assert msgspec.json.encode(as_data(inspection))
        return
    assert answer.hint
    assert re.fullmatch(r"[^\n]+\.", answer.message)


WHOLE = whole()
INTERESTING = [0, 1, 2**8, 2**16, 2**31, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1]
fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(
    spots=st.lists(st.tuples(st.integers(0, 4400), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(WHOLE)), st.integers(0, len(WHOLE))),
)
def test_flipped_bytes_and_cuts_never_surprise(
    tmp_path: Path, spots: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(WHOLE)
    for at, byte in spots:
        content[at] = byte
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(content[:length])
    one_sentence_or_an_inspection(path)


@fuzz
@given(spots=st.lists(st.tuples(st.integers(0, 4400), st.sampled_from(INTERESTING)), min_size=1, max_size=3))
def test_numbers_out_of_range_never_surprise(tmp_path: Path, spots: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for at, value in spots:
        content[at : at + 8] = struct.pack("<Q", value)
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(content)
    one_sentence_or_an_inspection(path)


@fuzz
@given(tail=st.binary(max_size=400))
def test_random_bytes_behind_a_right_start_never_surprise(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, 2) + tail)
    one_sentence_or_an_inspection(path)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**64 - 1),
    st.floats(width=32),
    st.text(max_size=8),
    st.lists(st.integers(0, 2**31), max_size=6),
    st.lists(st.booleans(), min_size=1, max_size=6),
)
KEYS = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "full_attention_interval",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.shared_kv_layers",
    "attention.recurrent_layers",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.group_count",
    "wkv.head_size",
    "kda.head_dim",
]


@fuzz
@given(
    architecture=st.sampled_from(["llama", "gemma3", "gemma4", "qwen35", "nemotron_h", "rwkv7", "novel"]),
    values=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8),
)
def test_metadata_of_the_wrong_type_or_size_never_surprises(
    tmp_path: Path, architecture: str, values: dict[str, Any]
) -> None:
    metadata = {"general.architecture": architecture, f"{architecture}.block_count": 3}
    metadata |= {f"{architecture}.{key}": value for key, value in values.items()}
    one_sentence_or_an_inspection(write_gguf(tmp_path / "fuzz.gguf", metadata, TENSORS))
