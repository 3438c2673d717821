"""``narthex models`` as a person and as a program read it, of servers of every age."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.commands.models import as_data, as_text
from narthex.cli.failure import run
from narthex.cli.holdings import Holdings, holdings
from narthex.cli.main import command
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.records import Server
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.profiles.profile import Profile
from narthex.profiles.store import save_profile
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.gguf_writer import write_gguf
from narthex.testing.ollama.canned import Canned, canned
from narthex.testing.ollama.store_writer import StoreWriter
from narthex.trials.trial import ModelRef, Turn

SHARED_BLOB = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@pytest.fixture
def ollama() -> Iterator[Canned]:
    with canned() as answers:
        yield answers


@pytest.fixture
def recorded(ollama: Canned, shared: Path) -> Canned:
    """The recorded server: four models, three of them over one file."""

    def body(number: str) -> Any:
        (path,) = (shared / "ollama-wire").glob(f"{number}-*.json")
        return json.loads(path.read_text())["body"]

    ollama.tags = body("013")["models"]
    ollama.ps = body("031")["models"]
    plain = body("016")
    ollama.shows = {
        "gemma3-270m:latest": plain,
        "gemma3-big:latest": plain,
        "gemma3-tuned:latest": body("017"),
        "tinymoe:latest": body("018"),
    }
    return ollama


def row(found: Holdings, name: str) -> Any:
    (model,) = [model for model in found.models if model.name == name]
    return model


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(command, ["models", *words])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def profile(name: str, *, model: ModelRef, proven: bool, engine_kind: str = "ollama") -> None:
    with Journal.open() as journal:
        save_profile(
            journal,
            Profile(
                name=name,
                model=model,
                engine_kind=engine_kind,
                engine_key="ollama 0.33.0",
                engine_build="0.33.0",
                host_key="h",
                gpu=None,
                driver=None,
                goal="balanced",
                knobs=KnobValues(),
                turn=Turn(),
                turn_s=1.0,
                decode_tps=1.0,
                prompt_tps=1.0,
                proven=proven,
            ),
        )


def test_a_recorded_server_is_listed(recorded: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "--ollama", recorded.url)
    assert code == 0
    assert f"0.33.0-rc2 at {recorded.url} (found by: flag)" in out
    assert "F: Ollama 0.30.0 and later" in out
    (line,) = [line for line in out.splitlines() if line.startswith("tinymoe:latest")]
    assert "280.33M Q4_K_M" in line
    assert "completion" in line


def test_names_over_one_file_are_known_as_one(recorded: Canned) -> None:
    found = holdings(recorded.server())
    assert [model.name for model in found.models][1:] == [
        "gemma3-270m:latest",
        "gemma3-big:latest",
        "gemma3-tuned:latest",
    ]
    assert {model.same_blob_as for model in found.models[2:]} == {"gemma3-270m:latest"}
    assert {model.made_from for model in found.models[2:]} == {"gemma3-270m:latest"}
    assert row(found, "gemma3-270m:latest").blob == SHARED_BLOB
    assert row(found, "tinymoe:latest").same_blob_as is None


def test_all_names_over_a_loaded_file_are_loaded(recorded: Canned) -> None:
    found = holdings(recorded.server())
    for name in ("gemma3-270m:latest", "gemma3-big:latest", "gemma3-tuned:latest"):
        loaded = row(found, name).loaded
        assert (loaded.name, loaded.processor, loaded.context) == ("gemma3-270m:latest", "100% CPU", 4096)
    assert row(found, "tinymoe:latest").loaded is None


def test_the_json_fields_are_those_promised(recorded: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "--ollama", recorded.url, "--json")
    assert code == 0
    data = json.loads(out)
    assert {"server", "other_servers", "models", "loaded_but_not_listed", "gaps"} <= set(data)
    assert {"url", "version", "era", "source", "place", "unit", "container", "store", "log"} <= set(
        data["server"]
    )
    promised = (
        "name size_bytes quantization family parameters capabilities format cloud modified_at blob blob_gone "
        "same_blob_as made_from loaded profile profile_proven role note removal"
    )
    for model in data["models"]:
        assert set(promised.split()) <= set(model)
    loaded = data["models"][1]["loaded"]
    assert set(loaded) == {"name", "processor", "context", "size_bytes", "vram_bytes", "expires_at"}


def test_an_empty_server_says_how_to_get_a_model(ollama: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "--ollama", ollama.url)
    assert code == 0
    assert "It holds no model yet. `ollama pull llama3.2` fetches one." in out
    code, out, _ = printed(capsys, "--ollama", ollama.url, "--json")
    assert json.loads(out)["models"] == []


def test_a_server_of_early_2024_is_listed_with_what_it_tells(
    ollama: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    ollama.version = "0.1.27"
    ollama.tags = [
        {
            "name": "llama2:latest",
            "modified_at": "2024-02-01T10:00:00Z",
            "size": 3_826_793_677,
            "digest": "7" * 64,
            "details": {"family": "llama", "families": None, "format": "gguf", "quantization_level": "Q4_0"},
        }
    ]
    ollama.shows["llama2:latest"] = {"modelfile": f"FROM /m/blobs/sha256:{'8' * 64}\n"}
    code, out, _ = printed(capsys, "--ollama", ollama.url)
    assert code == 0
    assert "888888888888" in out
    assert "Ollama tells it since 0.1.38" in " ".join(out.split())


def test_capabilities_are_asked_for_where_the_list_has_none(ollama: Canned) -> None:
    ollama.version = "0.12.3"
    ollama.tags = [{"name": "nomic-embed-text:latest", "size": 5}]
    ollama.shows["nomic-embed-text:latest"] = {"capabilities": ["embedding"]}
    assert row(holdings(ollama.server()), "nomic-embed-text:latest").capabilities == ("embedding",)


def test_a_model_that_can_not_be_shown_is_a_gap_and_a_row(ollama: Canned) -> None:
    ollama.tags = [{"name": "odd:latest", "size": 5}]
    found = holdings(ollama.server())
    assert row(found, "odd:latest").blob is None
    assert found.gaps == ("Ollama can't show odd:latest (model 'odd:latest' not found).",)


def test_a_cloud_model_is_marked_and_not_asked_for(ollama: Canned) -> None:
    ollama.tags = [{"name": "gpt-oss:120b-cloud", "size": 300, "remote_host": "https://ollama.com:443"}]
    found = holdings(ollama.server())
    assert row(found, "gpt-oss:120b-cloud").cloud
    assert "/api/show" not in [path for path, _ in ollama.asked]
    text = as_text(ollama.server(), [], found)
    (line,) = [line for line in text.splitlines() if line.startswith("gpt-oss")]
    assert "cloud" in line


def test_a_loaded_model_that_was_deleted_is_told(ollama: Canned) -> None:
    ollama.ps = [{"name": "gone:latest", "size": 100, "size_vram": 25, "expires_at": "2319-03-04T00:00:00Z"}]
    found = holdings(ollama.server())
    assert [each.name for each in found.unlisted] == ["gone:latest"]
    text = " ".join(as_text(ollama.server(), [], found).split())
    assert "gone:latest is loaded but no longer in the list (75%/25% CPU/GPU, for ever)." in text


def test_another_server_is_named_with_its_option(ollama: Canned) -> None:
    other = Server(url="http://127.0.0.1:9", version="0.12.0", era="E", source="container", place="container")
    text = " ".join(as_text(ollama.server(), [other], holdings(ollama.server())).split())
    assert "Another Ollama answers at http://127.0.0.1:9 (0.12.0); --ollama http://127.0.0.1:9" in text
    assert as_data(ollama.server(), [other], Holdings(models=()))["other_servers"][0]["place"] == "container"


class TestWithItsStore:
    @pytest.fixture
    def writer(self, tmp_path: Path) -> StoreWriter:
        return StoreWriter(tmp_path / "models")

    @pytest.fixture
    def server(self, ollama: Canned, writer: StoreWriter, tmp_path: Path) -> Server:
        metadata = {"general.architecture": "llama", "llama.block_count": 1}
        gguf = write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])
        for name in ("a:latest", "b:latest"):
            writer.add(name, gguf)
        ollama.tags = [
            {"name": name, "size": 99, "capabilities": ["completion"]} for name in ("a:latest", "b:latest")
        ]
        return ollama.server(store=str(writer.folder))

    def test_blobs_are_read_from_it_and_nothing_is_asked(self, ollama: Canned, server: Server) -> None:
        found = holdings(server)
        assert row(found, "b:latest").same_blob_as == "a:latest"
        assert row(found, "a:latest").blob_gone is False
        assert "/api/show" not in [path for path, _ in ollama.asked]

    def test_a_file_that_is_gone_is_told(self, server: Server, writer: StoreWriter) -> None:
        blob = row(holdings(server), "a:latest").blob
        writer.path(blob).unlink()
        found = holdings(server)
        assert row(found, "a:latest").blob_gone is True
        text = as_text(server, [], found)
        assert f"{blob[:12]} (gone)" in text
        assert "`ollama pull a:latest` fetches it again" in " ".join(text.split())

    def test_a_damaged_manifest_is_a_gap(self, server: Server, writer: StoreWriter) -> None:
        writer.add("c", None)
        writer.manifest("c").write_text("{")
        assert "manifest of c:latest is damaged" in holdings(server).gaps[0]

    def test_the_newest_profile_of_a_model_is_shown(self, server: Server, writer: StoreWriter) -> None:
        blob = row(holdings(server), "a:latest").blob
        by_name = ModelRef(path="", identity="x", name="a:latest", served_as="a:latest")
        profile("old", model=by_name, proven=False)
        profile("new", model=by_name, proven=True)
        found = holdings(server)
        assert (row(found, "a:latest").profile, row(found, "a:latest").profile_proven) == ("new", True)
        assert row(found, "b:latest").profile is None
        by_file = ModelRef(path=str(writer.path(blob)), identity="y", name="a", served_as="")
        profile("file", model=by_file, proven=False)
        assert row(holdings(server), "b:latest").profile == "file"
        assert "file (not proven)" in as_text(server, [], holdings(server))

    def test_a_proven_profile_goes_before_a_newer_one_that_is_not(self, server: Server) -> None:
        model = ModelRef(path="", identity="x", name="a:latest", served_as="a:latest")
        profile("proven", model=model, proven=True)
        profile("newer", model=model, proven=False)
        assert row(holdings(server), "a:latest").profile == "proven"

    def test_a_profile_for_another_engine_is_shown_only_where_there_is_no_other_and_marked(
        self, server: Server, writer: StoreWriter
    ) -> None:
        blob = row(holdings(server), "a:latest").blob
        by_file = ModelRef(path=str(writer.path(blob)), identity="y", name="a")
        profile("elsewhere", model=by_file, proven=True, engine_kind="llama-server")
        found = holdings(server)
        assert row(found, "a:latest").profile_engine == "llama-server"
        assert "elsewhere (for llama-server, proven)" in as_text(server, [], found)
        profile("here", model=by_file, proven=False)
        assert row(holdings(server), "a:latest").profile == "here"

    def test_a_profile_made_from_afar_is_known_by_the_blob(self, server: Server) -> None:
        blob = row(holdings(server), "a:latest").blob
        profile("far", model=ModelRef(path="", identity=f"ollama:{blob}", name="z"), proven=True)
        assert row(holdings(server), "b:latest").profile == "far"

    def test_the_house_policy_is_shown(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = tmp_path / "narthex.toml"
        policy.write_text(
            '[roles]\nquality = "a"\n\n[models.a]\nnote = "the best one"\n\n'
            '[models.b]\nnote = "Slow."\nremove = "Never used."\n'
        )
        monkeypatch.setenv("NARTHEX_CONFIG", str(policy))
        found = holdings(server)
        assert (row(found, "a:latest").role, row(found, "a:latest").note) == ("quality", "the best one")
        text = " ".join(as_text(server, [], found).split())
        assert "a:latest: role quality; the best one." in text
        assert "b:latest: Slow. b:latest is a candidate for removal: Never used." in text
        assert ".." not in text

    def test_a_policy_with_nonsense_is_a_gap(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "narthex.toml").write_text("[rules")
        monkeypatch.setenv("NARTHEX_CONFIG", str(tmp_path / "narthex.toml"))
        assert any("house policy can't be read" in gap for gap in holdings(server).gaps)


@pytest.mark.engine
def test_a_model_that_is_really_loaded_is_shown(
    fake_ollama: Callable[..., FakeOllama], gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_ollama({"gemma": gemma})
    Api(fake.url).preload("gemma", {"num_ctx": 512, "num_thread": 1}, keep_alive=-1, timeout_s=120)
    code, out, _ = printed(capsys, "--ollama", fake.url)
    assert code == 0
    assert "a process on this machine" in out
    (line,) = [line for line in out.splitlines() if line.startswith("gemma:latest")]
    assert "100% CPU, ctx 512, for ever" in line


def test_every_field_is_documented(recorded: Canned) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
    section = page.read_text().split("## models --json")[1].split("\n## ")[0]
    data = as_data(recorded.server(), [], holdings(recorded.server()))
    (loaded,) = [model["loaded"] for model in data["models"] if model["name"] == "gemma3-270m:latest"]
    for name in (*data, *data["server"], *data["models"][0], *loaded):
        assert f"`{name}`" in section, name


def test_a_name_can_not_write_to_the_terminal(ollama: Canned) -> None:
    ollama.tags = [{"name": "a\x1b[2J:latest", "size": 5, "details": {"family": "x\x07"}}]
    text = as_text(ollama.server(), [], holdings(ollama.server()))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_no_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, "--ollama", "http://127.0.0.1:9")
    assert (code, out) == (4, "")
    assert "can't be reached" in err
    assert "Traceback" not in err
