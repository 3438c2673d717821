"""ComfyUI beside a soak: its jobs really run, only ours are touched, and what it held stays."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.errors import TenantError
from narthex.policy import read_policy
from narthex.tenants._base import Tenant
from narthex.tenants.comfyui import ComfyTenant
from narthex.tenants.comfyui_api import ComfyApi, ComfyError
from narthex.tenants.find import find_tenant
from narthex.testing.fake_comfyui import FakeComfyUI, portrait

NEVER = ("/free", "/interrupt")


def quiet(stage: str, share: float | None) -> None:
    """Nobody watches."""


def interrupting(stage: str, share: float | None) -> None:
    raise KeyboardInterrupt


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


@pytest.fixture
def comfyui() -> Iterator[FakeComfyUI]:
    with FakeComfyUI(work_s=0.3) as fake:
        yield fake


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "portrait.json"
    path.write_text(json.dumps(portrait()))
    return path


def run_one(fake: FakeComfyUI, graph: dict[str, Any] | None = None) -> str:
    """A user's own prompt, to its end."""
    api = ComfyApi(fake.url)
    prompt_id = api.submit(graph or portrait(), "00000000-0000-4000-8000-000000000001")
    until(lambda: api.finished(prompt_id) is not None)
    return prompt_id


def sent(fake: FakeComfyUI, path: str) -> list[Any]:
    return [body for method, asked, body in fake.requests if method == "POST" and asked == path]


def test_its_peak_is_that_of_one_job(comfyui: FakeComfyUI, workflow: Path) -> None:
    peak = ComfyTenant("comfyui", comfyui.url, workflow).measure(quiet)
    assert peak.jobs == 1
    assert peak.bytes is not None
    assert peak.bytes >= 64 * 2**20


def test_without_nvml_its_own_figures_count_and_say_what_they_lack(
    comfyui: FakeComfyUI, workflow: Path
) -> None:
    peak = ComfyTenant("comfyui", comfyui.url, workflow).measure(quiet)
    if peak.source == "NVML, by process":
        pytest.skip("this machine has NVML")
    assert peak.source == "ComfyUI's own figures"
    assert peak.bytes == 96 * 2**20  # models and the work on top
    assert any("CUDA context" in gap for gap in peak.gaps)


def test_one_that_computes_on_the_cpu_holds_nothing_of_a_card(workflow: Path) -> None:
    with FakeComfyUI(work_s=0.1, device="cpu") as fake:
        assert ComfyTenant("comfyui", fake.url, workflow).measure(quiet).bytes == 0


def test_without_a_file_the_newest_finished_workflow_is_run_again(comfyui: FakeComfyUI) -> None:
    theirs = run_one(comfyui)
    ComfyTenant("comfyui", comfyui.url).measure(quiet)
    (_, ours) = sent(comfyui, "/prompt")
    assert ours["prompt"]["4"]["inputs"]["seed"] != 7
    assert list(comfyui.executor.history) == [theirs]


def test_a_job_leaves_no_picture_among_the_users_own(comfyui: FakeComfyUI, workflow: Path) -> None:
    ComfyTenant("comfyui", comfyui.url, workflow).measure(quiet)
    assert not (comfyui.folder / "output").exists()
    assert len(list((comfyui.folder / "temp").iterdir())) == 1


def test_jobs_run_one_after_the_other_until_they_are_left(comfyui: FakeComfyUI, workflow: Path) -> None:
    with ComfyTenant("comfyui", comfyui.url, workflow).job() as work:
        until(lambda: work.report().done >= 2)
    report = work.report()
    assert (report.failed, report.words, report.ended) == (0, (), "")
    assert comfyui.executor.remaining() == 0
    assert comfyui.executor.history == {}
    seeds = {body["prompt"]["4"]["inputs"]["seed"] for body in sent(comfyui, "/prompt")}
    assert len(seeds) == len(sent(comfyui, "/prompt"))


def test_a_job_really_runs_once_the_context_is_entered(workflow: Path) -> None:
    with FakeComfyUI(work_s=2.0) as fake, ComfyTenant("comfyui", fake.url, workflow).job():
        assert fake.executor.running is not None


def test_nothing_is_unloaded_cleared_or_interrupted(comfyui: FakeComfyUI, workflow: Path) -> None:
    theirs = run_one(comfyui)
    with ComfyTenant("comfyui", comfyui.url, workflow).job() as work:
        until(lambda: work.report().done >= 1)
    assert not [path for _, path, _ in comfyui.requests if path.removeprefix("/api") in NEVER]
    assert all("clear" not in body for body in (*sent(comfyui, "/queue"), *sent(comfyui, "/history")))
    assert theirs in comfyui.executor.history
    assert comfyui.executor.held_bytes == 64 * 2**20  # its models are where they were


def test_work_of_others_goes_on_and_is_waited_for(workflow: Path) -> None:
    with FakeComfyUI(work_s=1.0) as fake:
        api = ComfyApi(fake.url)
        theirs = api.submit(portrait(seed=99), "00000000-0000-4000-8000-000000000002")
        said: list[str] = []
        peak = ComfyTenant("comfyui", fake.url, workflow).measure(lambda words, _: said.append(words))
        assert peak.jobs == 1
        assert "one job of «comfyui»: 1 of other people before it" in said
        entry = api.finished(theirs)
        assert entry is not None
        assert entry["status"]["completed"]


def test_a_waiting_job_of_ours_is_withdrawn_and_theirs_stays(workflow: Path) -> None:
    with FakeComfyUI(work_s=1.0) as fake:
        api = ComfyApi(fake.url)
        theirs = [api.submit(portrait(seed=n), f"00000000-0000-4000-8000-00000000000{n}") for n in range(3)]
        ours = ComfyTenant("comfyui", fake.url, workflow)._begin()
        assert ours.prompt_id in api.queue()[1]
        ours.leave()
        assert {row[1] for row in fake.executor.queue()["queue_pending"]} <= set(theirs)
        until(lambda: fake.executor.remaining() == 0)
        assert set(fake.executor.history) == set(theirs)


def test_after_ctrl_c_nothing_of_ours_waits_and_what_runs_ends_by_itself(workflow: Path) -> None:
    with FakeComfyUI(work_s=1.5) as fake:
        tenant = ComfyTenant("comfyui", fake.url, workflow)
        with pytest.raises(KeyboardInterrupt), tenant.job():
            raise KeyboardInterrupt
        assert fake.executor.running is not None
        assert fake.executor.waiting == []
        with pytest.raises(KeyboardInterrupt):
            tenant.measure(interrupting)
        assert fake.executor.waiting == []
        until(lambda: fake.executor.remaining() == 0)
        assert all(entry["status"]["completed"] for entry in fake.executor.history.values())


def test_a_job_that_comfyui_refuses_is_told_with_its_words(comfyui: FakeComfyUI, tmp_path: Path) -> None:
    graph = portrait()
    graph["1"]["inputs"]["ckpt_name"] = "gone.safetensors"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(graph))
    tenant = ComfyTenant("comfyui", comfyui.url, path)
    with pytest.raises(TenantError, match=r"CheckpointLoaderSimple \(node 1\): Value not in list"):
        tenant.measure(quiet)
    with pytest.raises(TenantError, match="Prompt outputs failed validation"), tenant.job():
        pytest.fail("no job runs")


def test_jobs_that_fail_are_counted_and_given_up(workflow: Path) -> None:
    with FakeComfyUI(work_s=0.3, fail="CUDA out of memory.") as fake:
        tenant = ComfyTenant("comfyui", fake.url, workflow)
        with tenant.job() as work:
            until(lambda: bool(work.report().ended))
        report = work.report()
        assert (report.done, report.failed) == (0, 3)
        assert report.words == ("KSampler (node 4): CUDA out of memory.",)
        assert report.ended == report.words[0]
        with pytest.raises(TenantError, match=r"KSampler \(node 4\): CUDA out of memory\.$"):
            tenant.measure(quiet)


def test_a_workflow_without_a_seed_computes_once_and_then_says_so(
    comfyui: FakeComfyUI, tmp_path: Path
) -> None:
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(portrait(seed=None)))
    tenant = ComfyTenant("comfyui", comfyui.url, path)
    assert tenant.measure(quiet).jobs == 1
    with pytest.raises(TenantError, match="answered from its cache"):
        tenant.measure(quiet)
    with pytest.raises(TenantError, match="answered from its cache"), tenant.job():
        pytest.fail("no job runs")


def test_no_finished_workflow_is_no_job(comfyui: FakeComfyUI) -> None:
    with pytest.raises(TenantError, match="has finished no workflow") as caught:
        ComfyTenant("comfyui", comfyui.url).measure(quiet)
    assert "workflow =" in caught.value.hint


def test_whether_it_is_ready_is_known_without_a_job(
    comfyui: FakeComfyUI, workflow: Path, tmp_path: Path
) -> None:
    ComfyTenant("comfyui", comfyui.url, workflow).must_be_ready()
    with pytest.raises(TenantError, match="has finished no workflow"):
        ComfyTenant("comfyui", comfyui.url).must_be_ready()
    with pytest.raises(TenantError, match="There is no workflow"):
        ComfyTenant("comfyui", comfyui.url, tmp_path / "gone.json").must_be_ready()
    assert not sent(comfyui, "/prompt")


def test_a_failed_workflow_is_not_run_again() -> None:
    with FakeComfyUI(work_s=0.1, fail="no") as fake:
        run_one(fake)
        with pytest.raises(TenantError, match="has finished no workflow"):
            ComfyTenant("comfyui", fake.url).measure(quiet)


def test_no_comfyui_there() -> None:
    with FakeComfyUI() as fake:
        fake.vanish()
        with pytest.raises(TenantError, match=r"can't be asked at .*: nothing answers there") as caught:
            ComfyTenant("comfyui", fake.url).describe()
        assert "[beside.comfyui]" in caught.value.hint


def test_a_comfyui_that_is_killed_ends_the_jobs_with_a_word(workflow: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "narthex.testing.fake_comfyui", "--work", "20"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        tenant = ComfyTenant("comfyui", server.stdout.readline().strip(), workflow)
        with tenant.job() as work:
            server.kill()
            server.wait()
            until(lambda: bool(work.report().ended))
        assert work.report().ended.startswith("ComfyUI is gone: ")
        assert work.report().done == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_job_that_someone_cleared_away_is_noticed(workflow: Path) -> None:
    with FakeComfyUI(work_s=1.0) as fake:
        api = ComfyApi(fake.url)
        api.submit(portrait(seed=1), "00000000-0000-4000-8000-000000000001")
        ours = ComfyTenant("comfyui", fake.url, workflow)._begin()
        fake.executor.drop(None)
        end = ours.poll()
        assert end is not None
        assert "cleared" in end.words


def test_it_is_described_by_version_place_and_job(comfyui: FakeComfyUI, workflow: Path) -> None:
    words = ComfyTenant("comfyui", comfyui.url, workflow).describe()
    assert words == f"ComfyUI 0.13.0 at {comfyui.url}, workflow portrait.json"
    assert ComfyTenant("comfyui", comfyui.url).describe().endswith("its newest finished workflow")


def test_what_it_holds_now_is_known(comfyui: FakeComfyUI) -> None:
    tenant: Tenant = ComfyTenant("comfyui", comfyui.url)
    run_one(comfyui)
    assert tenant.held_bytes() is not None


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_an_address_without_sense_is_refused(url: str) -> None:
    with pytest.raises(TenantError, match="no address of a ComfyUI"):
        ComfyApi(url)


def test_an_address_needs_no_scheme(comfyui: FakeComfyUI) -> None:
    assert ComfyApi(comfyui.url.removeprefix("http://")).stats().version == "0.13.0"


def test_another_server_is_no_comfyui() -> None:
    from narthex.testing.completions import CompletionServer

    with CompletionServer([]) as other, pytest.raises(ComfyError, match="HTTP 501"):
        ComfyApi(other.url).stats()


def test_a_workflow_of_the_policy_counts_from_its_folder(workflow: Path, comfyui: FakeComfyUI) -> None:
    text = f'[beside.comfyui]\nurl = "{comfyui.url}"\nworkflow = "portrait.json"\n'
    tenant = find_tenant("comfyui", read_policy(text, workflow.parent / "narthex.toml"))
    assert tenant.measure(quiet).jobs == 1
