"""What a server tells of a model plans as the file does; what it can't tell is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.engines.ollama.exchange import convert
from narthex.engines.ollama.records import Server, Show
from narthex.engines.ollama.shown import (
    check_generates,
    inspect_ollama,
    inspection_from_show,
    lists_missing,
    shown_blob,
)
from narthex.errors import ModelFileError, UsageError
from narthex.knobs import KnobValues
from narthex.memory.plan import Device, plan_memory
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.canned import Canned, canned
from narthex.testing.ollama.store_writer import StoreWriter

Fakes = Callable[..., FakeOllama]
BLOB = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GPU = (
    Device(name="GPU0", kind="gpu", free_bytes=2 * 10**9, total_bytes=2 * 10**9),
    Device(name="host", kind="host"),
)
ONLY_THE_FILE_TELLS = {"path", "files", "identity", "name", "file_bytes", "metadata", "tensors"}
LLAMA = {
    "general.architecture": "llama",
    "general.parameter_count": 4_000_000,
    "general.file_type": 15,
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}
TENSORS = [{"name": "token_embd.weight", "type": "Q4_K", "shape": [256, 1000]}]


@pytest.fixture
def ollama() -> Iterator[Canned]:
    with canned() as answers:
        yield answers


def recorded(shared: Path, number: str) -> dict[str, Any]:
    (path,) = (shared / "ollama-wire").glob(f"{number}-*.json")
    body: dict[str, Any] = json.loads(path.read_text())["body"]
    for key, value in body["model_info"].items():
        if isinstance(value, list) and "cut by the recorder" in str(value[-1]):
            count = int(value[-1].removeprefix("...(").partition(" ")[0])
            body["model_info"][key] = value[:1] * count
    return body


def plans(inspection: Inspection) -> list[Any]:
    """Bytes of each device under many settings."""
    return [
        plan_memory(
            inspection,
            KnobValues(num_ctx=ctx, gpu_layers=layers, batch=batch, ubatch=batch, kv_type=kv),
            GPU,
        ).devices
        for ctx in (2048, 32768)
        for layers in (None, 0, 1, 10, 19)
        for batch in (256, 1024)
        for kv in ("f16", "q8_0")
    ]


@pytest.mark.parametrize("number", ["016", "017", "235"])
def test_a_recorded_answer_plans_to_the_byte_as_the_file(shared: Path, gemma: Path, number: str) -> None:
    show = convert(recorded(shared, number), Show)
    told, read = inspection_from_show(show, "gemma3-270m:latest"), inspect_file(gemma)
    for field in set(read.__struct_fields__) - ONLY_THE_FILE_TELLS:
        assert getattr(told, field) == getattr(read, field), field
    assert plans(told) == plans(read)
    assert told.identity == f"ollama:{BLOB}"
    assert (told.path, told.files, told.gaps) == ("", (), ())


def test_names_over_one_blob_have_one_identity(shared: Path) -> None:
    shows = [convert(recorded(shared, number), Show) for number in ("016", "017")]
    first, second = (inspection_from_show(show, f"name{n}:latest") for n, show in enumerate(shows))
    assert first.identity == second.identity
    assert first.name != second.name


def test_a_recorded_mixture_of_experts_is_read(shared: Path) -> None:
    told = inspection_from_show(convert(recorded(shared, "018"), Show), "tinymoe:latest")
    assert (told.experts, told.experts_used, told.layers, told.vocabulary) == (8, 2, 3, 4000)
    assert told.group_bytes["experts"] > told.group_bytes["attention"] > 0
    assert told.gaps == ()


def test_the_first_of_several_files_in_a_modelfile_is_the_model() -> None:
    text = f"# FROM x\n\nFROM /m/blobs/sha256-{'1' * 64}\nFROM /m/blobs/sha256-{'2' * 64}\nTEMPLATE x\n"
    assert shown_blob(Show(modelfile=text)) == "1" * 64
    assert shown_blob(Show(modelfile="FROM llama3.2")) is None


def test_the_folder_of_the_store_may_hold_blanks() -> None:
    file = f"C:\\Users\\An Other\\.ollama\\models\\blobs\\sha256-{'1' * 64}"
    assert shown_blob(Show(modelfile=f"# FROM x\n\nFROM {file}\nPARAMETER num_ctx 8\n")) == "1" * 64


def shown(**more: Any) -> Show:
    return msgspec.convert({"model_info": LLAMA, "tensors": TENSORS, **more}, Show)


def test_a_list_that_was_left_out_is_a_gap() -> None:
    info = {**LLAMA, "llama.attention.head_count_kv": None, "tokenizer.ggml.tokens": None}
    show = shown(model_info=info)
    assert lists_missing(show) == ("llama.attention.head_count_kv",)
    told = inspection_from_show(show, "a:latest")
    assert told.kv_heads == 4  # as many as heads: rather too much
    assert any("llama.attention.head_count_kv" in gap for gap in told.gaps)


def test_lists_are_asked_for_where_they_matter(ollama: Canned) -> None:
    left_out = {**LLAMA, "llama.attention.head_count_kv": None}
    ollama.shows["a:latest"] = {"model_info": left_out, "tensors": TENSORS}
    whole = {**LLAMA, "llama.attention.head_count_kv": [2, 1]}
    ollama.verbose["a:latest"] = {"model_info": whole, "tensors": TENSORS}
    told, stored = inspect_ollama(ollama.server(), "a")
    assert [shape.kv_heads for shape in told.layer_shapes] == [2, 1]
    assert (told.gaps, stored) == ((), None)
    assert [body.get("verbose") for path, body in ollama.asked if path == "/api/show"] == [False, True]


def test_the_vocabulary_is_not_fetched_without_need(ollama: Canned) -> None:
    ollama.shows["a:latest"] = {"model_info": {**LLAMA, "tokenizer.ggml.tokens": None}, "tensors": TENSORS}
    inspect_ollama(ollama.server(), "a")
    assert [body.get("verbose") for path, body in ollama.asked if path == "/api/show"] == [False]


def test_a_server_that_lists_no_tensors_gives_a_guess_that_adds_up(ollama: Canned) -> None:
    ollama.version = "0.5.7"
    ollama.shows["a:latest"] = {"model_info": LLAMA, "details": {"quantization_level": "Q4_K_M"}}
    ollama.tags = [{"name": "a:latest", "size": 2_500_000, "digest": "d" * 64}]
    told, _ = inspect_ollama(ollama.server(), "a")
    assert told.layers == 2
    assert 0.99 * 2_500_000 < sum(told.group_bytes.values()) <= 2_500_000
    assert told.parameters == pytest.approx(4_000_000, rel=0.01)
    assert "is a guess" in told.gaps[0]
    assert told.identity == f"ollama:{'d' * 64}"
    assert plan_memory(told, KnobValues(gpu_layers=3), GPU).fits


def test_a_guess_is_near_the_truth(gemma: Path, shared: Path) -> None:
    read = inspect_file(gemma)
    show = convert({**recorded(shared, "235"), "tensors": None}, Show)
    told = inspection_from_show(show, "gemma3-270m:latest", file_bytes=read.file_bytes)
    assert told.parameters == pytest.approx(read.parameters, rel=0.001)
    assert told.layer_shapes[5].attention is read.layer_shapes[5].attention
    assert "output.weight" not in {tensor.name for tensor in told.tensors}


def test_a_type_that_is_not_known_shares_the_rest_of_the_file() -> None:
    more = {"name": "output.weight", "type": "Q9_Z", "shape": [256, 1000]}
    known = 256 * 1000 // 256 * 144
    told = inspection_from_show(shown(tensors=[*TENSORS, more]), "a:latest", file_bytes=known + 99_000)
    assert told.quantization_bytes == {"Q4_K": known, "Q9_Z": 99_000}
    assert any("Q9_Z" in gap for gap in told.gaps)


def test_a_projector_is_a_gap_and_takes_the_rest_of_the_size() -> None:
    show = shown(projector_info={"clip.has_vision_encoder": True})
    told = inspection_from_show(show, "a:latest")
    assert told.beside_bytes == 0
    assert any("projector" in gap and "not planned" in gap for gap in told.gaps)
    weights = sum(tensor.nbytes for tensor in told.tensors)
    told = inspection_from_show(show, "a:latest", file_bytes=weights + 4 * 2**20)
    assert told.beside_bytes == 4 * 2**20
    assert any("4 MiB" in gap for gap in told.gaps)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"remote_host": "https://ollama.com:443"}, "is a cloud model"),
        ({"details": {"format": "safetensors"}}, "is a safetensors model"),
        ({"model_info": {}}, "tells nothing of the shape"),
        ({"model_info": {"general.architecture": "clip"}}, "is a projector"),
    ],
)
def test_what_can_not_be_planned_is_refused_in_one_sentence(more: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, ModelFileError), match=words) as caught:
        inspection_from_show(shown(**more), "a:latest")
    assert caught.value.hint


def test_an_unknown_model_brings_the_nearest_names(ollama: Canned) -> None:
    ollama.tags = [{"name": name} for name in ("qwen3:30b", "mistral-nemo:latest", "llama3.2:1b")]
    with pytest.raises(UsageError, match="has no model «llama3:1b»") as caught:
        inspect_ollama(ollama.server(), "llama3:1b")
    assert caught.value.hint.startswith("It holds llama3.2:1b, ")
    assert "ollama pull llama3:1b" in caught.value.hint


def test_an_empty_server_says_how_to_get_a_model(ollama: Canned) -> None:
    with pytest.raises(UsageError) as caught:
        inspect_ollama(ollama.server(), "llama3.2")
    assert caught.value.hint == "It holds no model yet: `ollama pull llama3.2:latest` fetches one."


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"capabilities": ["embedding"]}, "an embedding model"),
        ({"capabilities": ["image"]}, "no completion model"),
        ({"model_info": {"general.architecture": "bert", "bert.pooling_type": 1}}, "an embedding model"),
        ({"remote_host": "https://ollama.com"}, "a cloud model"),
    ],
)
def test_a_model_that_makes_no_text_is_refused(ollama: Canned, answer: dict[str, Any], words: str) -> None:
    ollama.shows["a:latest"] = answer
    with pytest.raises(UsageError, match=words):
        check_generates(ollama.server(), "a")


@pytest.mark.parametrize("answer", [{"capabilities": ["completion", "tools"]}, {"model_info": LLAMA}, {}])
def test_a_model_that_makes_text_is_let_through(ollama: Canned, answer: dict[str, Any]) -> None:
    ollama.shows["a:latest"] = answer
    check_generates(ollama.server(), "a")


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    return StoreWriter(tmp_path / "models")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "general.name": "Whatever"}
    return write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])


def test_a_file_that_can_be_read_is_read(ollama: Canned, writer: StoreWriter, gguf: Path) -> None:
    digest = writer.add("a", gguf)
    told, stored = inspect_ollama(ollama.server(store=str(writer.folder)), "a")
    assert told.identity == inspect_file(gguf).identity
    assert told.path == str(writer.path(digest))
    assert told.name == "a:latest"
    assert stored is not None
    assert ollama.asked == []


def test_a_projector_beside_the_file_is_told_with_its_size(
    ollama: Canned, writer: StoreWriter, gguf: Path
) -> None:
    writer.add("a", gguf, projector=bytes(5 * 2**20))
    told, stored = inspect_ollama(ollama.server(store=str(writer.folder)), "a")
    assert stored is not None
    assert told.projector == stored.projectors[0]
    assert ", 5 MiB:" in told.gaps[-1]
    assert told.beside_bytes == 5 * 2**20


def test_a_file_that_is_gone_is_refused(ollama: Canned, writer: StoreWriter, gguf: Path) -> None:
    writer.path(writer.add("a", gguf)).unlink()
    ollama.shows["a:latest"] = {"model_info": LLAMA, "tensors": TENSORS}  # from a cache
    with pytest.raises(ModelFileError, match="is gone from Ollama's store") as caught:
        inspect_ollama(ollama.server(store=str(writer.folder)), "a")
    assert "ollama pull a:latest" in caught.value.hint


def test_a_damaged_manifest_leaves_what_the_server_says(
    ollama: Canned, writer: StoreWriter, gguf: Path
) -> None:
    writer.add("a", gguf)
    writer.manifest("a").write_text("{")
    ollama.shows["a:latest"] = {"model_info": LLAMA, "tensors": TENSORS}
    told, stored = inspect_ollama(ollama.server(store=str(writer.folder)), "a")
    assert stored is None
    assert any("damaged" in gap for gap in told.gaps)


def test_a_stored_cloud_model_is_refused(ollama: Canned, writer: StoreWriter) -> None:
    writer.add("big:cloud", None, config={"remote_host": "https://ollama.com:443"})
    with pytest.raises(UsageError, match="is a cloud model"):
        inspect_ollama(ollama.server(store=str(writer.folder)), "big:cloud")


class TestAServerWithoutItsStore:
    """The fake's answers, its store looked away from: what a tunnel leaves."""

    @staticmethod
    def told(fake: FakeOllama, name: str) -> Inspection:
        version = Server(
            url=fake.url, version=fake.version, era="F", source="flag", place="elsewhere", store=None
        )
        return inspect_ollama(version, name)[0]

    def test_a_real_model_plans_as_its_file(self, fake_ollama: Fakes, gemma: Path) -> None:
        fake = fake_ollama({"gemma": gemma})
        told = self.told(fake, "gemma")
        assert plans(told) == plans(inspect_file(gemma))
        assert told.gaps == ()

    def test_lists_of_unlike_layers_arrive(self, fake_ollama: Fakes, tmp_path: Path) -> None:
        info = {**LLAMA, "llama.attention.head_count_kv": [2, 1], "llama.feed_forward_length": [512, 256]}
        tensors = [
            (f"blk.{layer}.{name}.weight", dims, "Q4_K")
            for layer in range(2)
            for name, dims in (("attn_q", (256, 256)), ("ffn_up", (256, 512 >> layer)))
        ]
        path = write_gguf(tmp_path / "b.gguf", info, [("token_embd.weight", (256, 1000), "Q4_K"), *tensors])
        told = self.told(fake_ollama({"b": path}), "b")
        read = inspect_file(path)
        for field in set(read.__struct_fields__) - ONLY_THE_FILE_TELLS:
            assert getattr(told, field) == getattr(read, field), field
        assert [shape.kv_heads for shape in told.layer_shapes] == [2, 1]
