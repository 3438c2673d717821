"""Engines that the user has come first, and one that does not run is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.engines.llama_find import find_engine, find_engines, survey
from narthex.errors import EngineNotFound, ExitCode

Script = Callable[[str], Path]
WORKS = 'case "$*" in --version) echo "version: NUMBER (abc)";; --help) echo "-m, --model FNAME";; esac'


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NARTHEX_LLAMA_SERVER", raising=False)


def works(number: int) -> str:
    return WORKS.replace("NUMBER", str(number))


def place(binary: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return binary.rename(folder / "llama-server")


def on_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setenv("PATH", ":".join([*map(str, folders), "/usr/bin", "/bin"]))


def test_the_flag_wins(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(script(works(2000))))
    engine = find_engine(str(script(works(3000))))
    assert (engine.build, engine.source) == ("b3000", "flag")


def test_the_environment_wins_over_path(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path(monkeypatch, place(script(works(1000)), tmp_path / "a").parent)
    monkeypatch.setenv("NARTHEX_LLAMA_SERVER", str(script(works(2000))))
    assert [engine.source for engine in find_engines()] == ["environment"]


def test_path_wins_over_ollama_and_ollama_over_the_wheel(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path(monkeypatch, place(script(works(1000)), tmp_path / "a").parent)
    place(script(works(2000)), Path.home() / ".ollama/lib/ollama")
    found = [(engine.build, engine.source) for engine in find_engines()]
    assert found[0] == ("b1000", "PATH")
    assert ("b2000", "ollama") in found
    assert [source for _, source in found] == sorted(
        (source for _, source in found), key=["PATH", "ollama", "wheel"].index
    )


def test_every_folder_of_path_is_looked_at(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = place(script("exit 1"), tmp_path / "a")
    on_path(monkeypatch, broken.parent, place(script(works(1000)), tmp_path / "b").parent)
    engine = find_engine()
    assert engine.build == "b1000"
    assert any(str(broken) in gap for gap in engine.gaps)


def test_a_folder_or_a_bare_name_will_do(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = place(script(works(1000)), tmp_path / "a")
    assert find_engine(str(path.parent)).path == str(path)
    on_path(monkeypatch, path.parent)
    assert find_engine("llama-server").path == str(path)


def test_one_binary_under_two_names_is_one_engine(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = place(script(works(1000)), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "llama-server").symlink_to(path)
    on_path(monkeypatch, path.parent, tmp_path / "b")
    assert [engine.path for engine in find_engines() if engine.source == "PATH"] == [str(path)]


def test_a_survey_names_what_does_not_run(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path(monkeypatch, place(script("echo no GPU; exit 3"), tmp_path / "a").parent)
    _, skipped = survey()
    assert skipped[0].source == "PATH"
    assert "ended with 3: no GPU" in skipped[0].why


def test_no_engine_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFound) as caught:
        find_engine(str(tmp_path / "nowhere"))
    assert caught.value.exit_code is ExitCode.NO_ENGINE
    assert "--engine-path" in caught.value.hint
    assert "No such file" in caught.value.message


def test_an_ollama_install_gets_the_gpu_backend_that_works(script: Script) -> None:
    """Its backends lie in folders below; the newest here does not load on this machine."""
    listing = 'echo "  CUDA0: NVIDIA RTX (20475 MiB, 19950 MiB free)"'
    flags = '--help) printf -- "--list-devices  list\\n-m, --model FNAME\\n";;'
    answer = works(2000).replace('--help) echo "-m, --model FNAME";;', flags)
    devices = f'*--list-devices) [[ "$GGML_BACKEND_PATH" == */cuda_v12/* ]] && {listing}; true;; esac'
    folder = place(script(answer.replace("esac", devices)), Path.home() / ".ollama/lib/ollama").parent
    for variant in ("cuda_v13", "cuda_v12", "vulkan"):
        (folder / variant).mkdir()
        kind = variant.partition("_")[0]
        (folder / variant / f"libggml-{kind}.so").touch()
    engine = find_engine(str(folder))
    assert [device.name for device in engine.devices] == ["CUDA0"]
    assert engine.env["GGML_BACKEND_PATH"] == str(folder / "cuda_v12" / "libggml-cuda.so")
    assert engine.env["LD_LIBRARY_PATH"].startswith(f"{folder / 'cuda_v12'}:{folder}")


def test_the_wheel_is_found(engine_binary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engines()[-1].path == str(engine_binary)
