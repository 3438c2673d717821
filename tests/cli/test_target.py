"""What MODEL, --engine and --ollama mean, with a server that holds models and with none."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.cli.target import LLAMA, OLLAMA, find_subject, find_target, identities
from narthex.engines.llama_loader import LlamaLoader
from narthex.engines.ollama.loading import OllamaLoader
from narthex.errors import EngineError, EngineNotFound, ModelFileError, UsageError
from narthex.models.gguf import inspect_file
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.canned import Canned, canned
from narthex.trials.trial import ModelRef

NOBODY = "http://127.0.0.1:9"


def small(path: Path, layers: int = 2, architecture: str = "llama") -> Path:
    sizes = {f"{architecture}.block_count": layers, f"{architecture}.embedding_length": 64}
    tensors = [("token_embd.weight", (64, 10), "F16")]
    return write_gguf(path, {"general.architecture": architecture, **sizes}, tensors)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("model") / "small.gguf")


@pytest.fixture(scope="module")
def served(engine_binary: Path, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeOllama]:
    folder = tmp_path_factory.mktemp("ollama")
    with FakeOllama(folder / "models", engine=engine_binary) as fake:
        fake.add_model("small", gguf)
        fake.add_model("small-8k", gguf, {"num_ctx": 8192})
        embedding = {"bert.block_count": 1, "bert.pooling_type": 1, "bert.embedding_length": 64}
        values = {"general.architecture": "bert", **embedding}
        path = write_gguf(folder / "bert.gguf", values, [("token_embd.weight", (64, 10), "F16")])
        fake.add_model("embedder", path)
        fake.add_model("eyes", small(folder / "eyes.gguf", architecture="qwen25vl"))
        yield fake


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ollama is to be found, whatever else this machine runs."""
    monkeypatch.setenv("OLLAMA_HOST", NOBODY)


class TestAFile:
    def test_it_is_for_llama_server(self, gguf: Path) -> None:
        subject = find_subject(str(gguf))
        assert (subject.kind, subject.server) == (LLAMA, None)
        assert (subject.model.path, subject.model.served_as) == (str(gguf), "")

    def test_nothing_of_ollama_is_imported_for_it(self, gguf: Path) -> None:
        code = (
            f"from narthex.cli.target import find_subject\nfind_subject({str(gguf)!r})\n"
            "import sys\nprint([name for name in sys.modules if 'ollama' in name or name == 'http.client'])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out == "[]\n"

    def test_it_is_loaded_by_llama_server(self, gguf: Path, engine_binary: Path) -> None:
        target = find_target(str(gguf), engine_path=str(engine_binary))
        assert target.engine.kind == LLAMA
        assert isinstance(target.loader(), LlamaLoader)

    def test_ollama_runs_it_under_the_name_it_has_there(self, served: FakeOllama, gguf: Path) -> None:
        subject = find_subject(str(gguf), engine=OLLAMA, ollama=served.url)
        assert subject.kind == OLLAMA
        assert subject.model.served_as in ("small:latest", "small-8k:latest")
        assert subject.model.identity == inspect_file(gguf).identity

    def test_whoever_names_a_server_means_it(self, served: FakeOllama, gguf: Path) -> None:
        assert find_subject(str(gguf), ollama=served.url).kind == OLLAMA

    def test_one_that_ollama_does_not_hold_brings_the_way_to_make_it(
        self, served: FakeOllama, tmp_path: Path
    ) -> None:
        other = small(tmp_path / "other.gguf", layers=3)
        with pytest.raises(UsageError, match="holds no model with the content of") as caught:
            find_subject(str(other), engine=OLLAMA, ollama=served.url)
        assert f"«FROM {other}»" in caught.value.hint
        assert "ollama create" in caught.value.hint

    @pytest.mark.parametrize("name", ["./nosuch", "nosuch.gguf", "/nowhere/model", "~/nosuch"])
    def test_what_can_only_be_a_path_is_never_asked_for(self, name: str) -> None:
        with pytest.raises(ModelFileError, match="There is no model file"):
            find_subject(name, ollama=NOBODY)


class TestAFileAndAServerFromAfar:
    @pytest.fixture
    def afar(self) -> Iterator[Canned]:
        with canned() as answers:
            yield answers

    def test_it_is_found_by_its_digest(
        self, afar: Canned, gguf: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
        info = {"general.architecture": "llama", "llama.block_count": 2}
        tensors = [{"name": "token_embd.weight", "type": "F16", "shape": [64, 10]}]
        answer = {"model_info": info, "tensors": tensors, "capabilities": ["completion"]}
        afar.shows["other:latest"] = {**answer, "modelfile": f"FROM /m/blobs/sha256-{'0' * 64}\n"}
        afar.shows["twin:latest"] = {**answer, "modelfile": f"FROM /m/blobs/sha256-{digest}\n"}
        size = gguf.stat().st_size + 300
        afar.tags = [{"name": "other:latest", "size": size}, {"name": "twin:latest", "size": size}]
        subject = find_subject(str(gguf), ollama=afar.url)
        assert subject.model.served_as == "twin:latest"
        assert subject.model.path == ""
        assert "Comparing" in capsys.readouterr().err

    def test_sizes_that_differ_are_not_compared(self, afar: Canned, gguf: Path) -> None:
        afar.tags = [{"name": "large:latest", "size": 10**10}]
        with pytest.raises(UsageError, match="holds no model"):
            find_subject(str(gguf), ollama=afar.url)
        assert "/api/show" not in [path for path, _ in afar.asked]


class TestAName:
    def test_it_is_a_model_of_ollama(self, served: FakeOllama, gguf: Path) -> None:
        subject = find_subject("SMALL", ollama=served.url)
        assert subject.kind == OLLAMA
        assert subject.server is not None
        assert subject.server.url == served.url
        assert subject.model.served_as == subject.model.name == subject.inspection.name == "small:latest"
        assert subject.model.identity == inspect_file(gguf).identity
        assert Path(subject.model.path).read_bytes() == gguf.read_bytes()

    def test_a_server_that_is_set_is_used(self, served: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OLLAMA_HOST", served.url)
        assert find_subject("small").kind == OLLAMA

    def test_it_is_loaded_through_ollama(self, served: FakeOllama) -> None:
        target = find_target("small", ollama=served.url)
        assert (target.engine.kind, target.engine.path) == (OLLAMA, served.url)
        assert target.engine.limits.one_batch
        assert isinstance(target.loader(), OllamaLoader)

    def test_its_own_file_can_go_to_llama_server(self, served: FakeOllama, engine_binary: Path) -> None:
        target = find_target("small", engine=LLAMA, engine_path=str(engine_binary), ollama=served.url)
        assert (target.engine.kind, target.server) == (LLAMA, None)
        assert "blobs/sha256-" in target.model.path
        assert (target.model.name, target.model.served_as) == ("small:latest", "")
        assert isinstance(target.loader(), LlamaLoader)

    @pytest.mark.parametrize(("name", "warned"), [("eyes", True), ("small", False)])
    def test_a_file_that_llama_server_may_refuse_is_told(
        self, served: FakeOllama, name: str, warned: bool
    ) -> None:
        gaps = find_subject(name, engine=LLAMA, ollama=served.url).inspection.gaps
        assert any("Ollama's own format" in gap for gap in gaps) is warned

    def test_a_program_that_is_named_means_llama_server(
        self, served: FakeOllama, engine_binary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OLLAMA_HOST", served.url)
        assert find_target("small", engine_path=str(engine_binary)).engine.kind == LLAMA

    def test_a_program_for_ollama_is_refused(self, served: FakeOllama) -> None:
        with pytest.raises(UsageError, match="Ollama starts its own"):
            find_target("small", engine=OLLAMA, engine_path="/usr/bin/llama-server", ollama=served.url)

    def test_llama_server_needs_the_file(self) -> None:
        with canned() as afar:
            info = {"general.architecture": "llama", "llama.block_count": 2}
            tensors = [{"name": "token_embd.weight", "type": "F16", "shape": [64, 10]}]
            afar.shows["a:latest"] = {"model_info": info, "tensors": tensors}
            with pytest.raises(EngineError, match="llama-server needs the file of a:latest"):
                find_subject("a", engine=LLAMA, ollama=afar.url)

    def test_a_folder_of_that_name_does_not_hide_it(
        self, served: FakeOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("small").mkdir()
        assert find_subject("small", ollama=served.url).kind == OLLAMA

    def test_an_embedding_model_is_described_but_never_tried(self, served: FakeOllama) -> None:
        assert find_subject("embedder", ollama=served.url).inspection.architecture == "bert"
        with pytest.raises(UsageError, match="an embedding model: it has no text to generate"):
            find_target("embedder", ollama=served.url)

    def test_one_that_is_not_there_brings_the_nearest(self, served: FakeOllama) -> None:
        with pytest.raises(UsageError, match="has no model «smal:latest»") as caught:
            find_subject("smal", ollama=served.url)
        assert caught.value.hint.startswith("It holds small:latest, ")

    @pytest.mark.parametrize("name", ["a b", "we$ird", "a/b/c/d", "x:y:z", "-rf", "né"])
    def test_odd_characters_are_one_sentence(self, name: str) -> None:
        with pytest.raises(UsageError, match="and it can't be the name of a model") as caught:
            find_subject(name)
        assert "model:tag" in caught.value.hint

    @pytest.mark.usefixtures("alone")
    def test_without_file_and_server_both_ways_are_told(self) -> None:
        with pytest.raises(ModelFileError, match="no file «llama3», and no Ollama was found") as caught:
            find_subject("llama3")
        assert ".gguf file" in caught.value.hint
        assert "--ollama URL" in caught.value.hint

    def test_a_server_that_was_named_and_is_not_there_is_the_error(self) -> None:
        with pytest.raises(EngineNotFound, match="can't be reached"):
            find_subject("llama3", ollama=NOBODY)


def test_a_model_is_the_same_from_near_and_from_afar(served: FakeOllama) -> None:
    near = find_subject("small", ollama=served.url)
    assert near.stored is not None
    afar = ModelRef(path="", identity=f"ollama:{near.stored.blob}", name="small:latest")
    assert identities(near.model) & identities(afar)
    other = ModelRef(path="", identity=f"ollama:{'0' * 64}", name="small:latest")
    assert not identities(near.model) & identities(other)


def test_an_empty_name_is_said_to_be_empty() -> None:
    with pytest.raises(ModelFileError, match="name is empty"):
        find_subject(" ")
