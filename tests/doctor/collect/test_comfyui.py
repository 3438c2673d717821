"""ComfyUI as the collector sees it: a real server before it, strangers at its port, a killed one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.doctor.collect import comfyui
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.gather import gather
from narthex.doctor.collect.programs import is_comfyui
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.testing.fake_comfyui import FakeComfyUI, portrait
from narthex.units import GIB

from .strangers import closed_port, dripping, silent, web_page


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_docker: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def look(house: Path) -> Callable[[str], Collected]:
    """The collector's answer where narthex.toml names that address."""

    def collect(url: str) -> Collected:
        (house / "narthex.toml").write_text(f'[beside.comfyui]\nurl = "{url}"\n')
        return gather(Scope(), collectors=(comfyui,))

    return collect


def readings(found: Collected, name: str) -> list[Reading]:
    return [row for row in found.readings if row.name == name]


def test_version_memory_and_queue_are_read(look: Callable[[str], Collected]) -> None:
    with FakeComfyUI() as fake:
        found = look(fake.url)
        assert [row.value for row in readings(found, "comfyui.answers")] == [True]
        stats = readings(found, "comfyui.stats")[0]
        assert stats.value["version"] == "0.13.0"
        assert stats.value["argv"] == ["main.py"]
        assert stats.value["vram_total_bytes"] == stats.value["vram_free_bytes"] == 20 * GIB
        assert "20.0 GiB of 20.0 GiB free" in stats.text
        assert readings(found, "comfyui.queue")[0].value == {"running": 0, "pending": 0}
        assert not readings(found, "comfyui.last_job")
        assert {method for method, _, _ in fake.requests} == {"GET"}


def test_the_error_of_the_last_job_is_told(look: Callable[[str], Collected]) -> None:
    with FakeComfyUI(work_s=0.01, fail="Allocation on device 0 would exceed\nallowed memory") as fake:
        fake.executor.put(str(uuid.uuid4()), portrait(), {}, front=False)
        while fake.executor.remaining():
            pass
        job = readings(look(fake.url), "comfyui.last_job")[0]
    assert job.value["status"] == "error"
    assert job.value["node"].startswith("KSampler")
    assert "would exceed allowed memory" in job.text
    assert "\n" not in job.text


def test_nobody_there_is_told_with_the_reason(look: Callable[[str], Collected]) -> None:
    found = look(f"http://127.0.0.1:{closed_port()}")
    answer = readings(found, "comfyui.answers")[0]
    assert answer.value is False
    assert answer.text.endswith("(narthex.toml): the connection was refused")


def test_a_web_page_is_no_comfyui(look: Callable[[str], Collected]) -> None:
    with web_page() as port:
        answer = readings(look(f"http://127.0.0.1:{port}"), "comfyui.answers")[0]
    assert answer.value is False
    assert "no ComfyUI" in answer.text


@pytest.mark.parametrize("stranger", [silent, dripping])
def test_a_server_that_hangs_is_left_in_time(
    look: Callable[[str], Collected], stranger: Callable[[], object]
) -> None:
    with stranger() as port:  # type: ignore[attr-defined]
        found = look(f"http://127.0.0.1:{port}")
    assert not found.skipped, "the collector itself was not late"
    answer = readings(found, "comfyui.answers")[0]
    assert "no answer within" in answer.text


def test_where_there_is_none_nothing_is_said(house: Path) -> None:
    assert comfyui.collect(Scope()) == Collected()


def test_a_recorded_machine_has_no_service_of_this_one(tmp_path: Path) -> None:
    assert comfyui.collect(Scope(root=tmp_path)) == Collected()


@pytest.mark.parametrize(
    ("words", "folder", "expected"),
    [
        (["python", "main.py", "--listen"], "/home/me/ComfyUI", True),
        (["/venv/bin/python", "/opt/ComfyUI/main.py"], "/", True),
        (["/home/me/.local/bin/comfyui"], "/", True),
        (["python", "main.py"], "/srv/shop", False),
        (["vim", "/opt/ComfyUI/README.md"], "/", False),
    ],
)
def test_comfyui_is_known_by_its_command_line(words: list[str], folder: str, expected: bool) -> None:
    assert is_comfyui(words, folder) is expected
