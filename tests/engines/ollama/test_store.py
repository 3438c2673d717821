"""From a model's name to its file in Ollama's store, and back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from narthex.engines.ollama.store import StoredModel, find_stored, stored_models
from narthex.errors import ModelFileError, UsageError
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.store_writer import StoreWriter


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    return StoreWriter(tmp_path / "models")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    metadata = {"general.architecture": "llama", "llama.block_count": 1}
    return write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])


def found(writer: StoreWriter, name: str) -> StoredModel:
    model = find_stored(writer.folder, name)
    assert model is not None
    return model


def test_a_name_leads_to_the_file_of_the_model(writer: StoreWriter, gguf: Path) -> None:
    digest = writer.add("llama3.2", gguf)
    model = found(writer, "llama3.2")
    assert model.name == "llama3.2:latest"
    assert model.blob == digest == hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert model.path == str(writer.path(digest))
    assert model.blob_bytes == gguf.stat().st_size
    assert model.layers_bytes > model.blob_bytes
    assert model.format == "gguf"
    assert model.gaps == ()


def test_the_digest_of_a_model_is_that_of_its_manifest(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    assert found(writer, "a").digest == hashlib.sha256(writer.manifest("a").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["hf.co/someone/Model-GGUF:Q4_K_M", "someone/model:7b", "localhost:5000/a/b:c"]
)
def test_a_name_with_host_or_namespace_is_found(writer: StoreWriter, gguf: Path, name: str) -> None:
    writer.add(name, gguf)
    assert found(writer, name).name == name


def test_the_case_of_a_name_does_not_matter(writer: StoreWriter, gguf: Path) -> None:
    writer.add("hf.co/u/R:Q4_K_M", gguf)
    assert found(writer, "HF.co/U/r:q4_k_m").name == "hf.co/u/R:Q4_K_M"


def test_parameters_keep_their_types(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf, parameters=b'{"num_ctx": 1048576, "temperature": 0.2, "stop": ["<x>", "<y>"]}')
    assert found(writer, "a").parameters == {"num_ctx": 1048576, "temperature": 0.2, "stop": ["<x>", "<y>"]}


def test_a_model_without_parameters_has_none(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    assert found(writer, "a").parameters == {}


def test_projector_adapter_and_draft_are_found(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf, projector=b"p", adapter=b"a", draft=b"d")
    model = found(writer, "a")
    for (path,), content in zip(
        (model.projectors, model.adapters, model.drafts), (b"p", b"a", b"d"), strict=True
    ):
        assert Path(path).read_bytes() == content


def test_a_model_that_is_not_there_is_none(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    assert find_stored(writer.folder, "b") is None
    assert find_stored(writer.folder, "a:other") is None
    assert find_stored(writer.folder / "nowhere", "a") is None


def test_an_impossible_name_is_refused(writer: StoreWriter) -> None:
    with pytest.raises(UsageError, match="can't be the name"):
        find_stored(writer.folder, "../../etc/passwd")


def test_a_file_that_is_gone_is_said_to_be_gone(writer: StoreWriter, gguf: Path) -> None:
    digest = writer.add("a", gguf)
    writer.path(digest).unlink()
    model = found(writer, "a")
    assert (model.blob, model.path) == (digest, None)
    assert model.gaps == (f"The file of a:latest can't be read: blob {digest[:12]} is gone.",)


def test_parameters_that_are_gone_are_unknown_not_empty(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf, parameters=b'{"num_ctx": 7}')
    writer.path(hashlib.sha256(b'{"num_ctx": 7}').hexdigest()).unlink()
    model = found(writer, "a")
    assert model.parameters is None
    assert "parameters" in model.gaps[0]


def test_a_damaged_manifest_is_one_sentence(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    writer.add("b", gguf)
    writer.manifest("a").write_text('{"layers": [{"dig')
    with pytest.raises(ModelFileError, match="manifest of a:latest is damaged") as caught:
        find_stored(writer.folder, "a")
    assert "ollama pull a:latest" in caught.value.hint
    models, gaps = stored_models(writer.folder)
    assert [model.name for model in models] == ["b:latest"]
    assert gaps == ("Ollama's manifest of a:latest is damaged, so Ollama does not list the model either.",)


def test_a_manifest_can_not_name_a_file_outside_the_store(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    text = writer.manifest("a").read_text()
    digest = found(writer, "a").blob
    assert digest is not None
    writer.manifest("a").write_text(text.replace(f"sha256:{digest}", "sha256:../../../secret"))
    model = found(writer, "a")
    assert (model.blob, model.path) == (None, None)
    assert "its digest is no digest" in model.gaps[0]


def test_a_cloud_model_has_no_file(writer: StoreWriter) -> None:
    writer.add("gpt-oss:120b-cloud", None, config={"remote_host": "https://ollama.com:443"})
    model = found(writer, "gpt-oss:120b-cloud")
    assert (model.path, model.format, model.remote_host) == (None, "", "https://ollama.com:443")
    assert model.gaps == ()


def test_a_blob_of_before_0_1_30_has_a_colon_in_its_name(writer: StoreWriter, gguf: Path) -> None:
    digest = writer.add("a", gguf)
    old = writer.folder / "blobs" / f"sha256:{digest}"
    writer.path(digest).rename(old)
    assert found(writer, "a").path == str(old)


def test_hidden_files_and_other_depths_are_no_models(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    (writer.folder / "manifests" / ".DS_Store").write_bytes(b"x")
    (writer.folder / "manifests" / "stray").write_bytes(b"x")
    assert [model.name for model in stored_models(writer.folder)[0]] == ["a:latest"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_store_that_may_not_be_read_is_one_sentence(writer: StoreWriter, gguf: Path) -> None:
    writer.add("a", gguf)
    (writer.folder / "manifests").chmod(0)
    try:
        with pytest.raises(ModelFileError, match="store can't be read"):
            find_stored(writer.folder, "a")
    finally:
        (writer.folder / "manifests").chmod(0o755)
