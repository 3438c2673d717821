"""``narthex tune`` on models in Ollama: whole studies on a fake one, in front of a real llama-server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.bench import host_of
from narthex.cli.target import find_target
from narthex.engines.ollama.discovery import find_server
from narthex.engines.ollama.hand import hand_for
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.memory.calibrate import calibrate
from narthex.memory.plan import plan_memory
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile
from narthex.studies.live import devices_of
from narthex.testing.command_line import Said, narthex
from narthex.testing.docker.container import Command, FakeContainer
from narthex.testing.docker.forward import Forward
from narthex.testing.fake_comfyui import FakeComfyUI, portrait
from narthex.testing.fake_docker import FakeDocker
from narthex.testing.fake_ollama import FakeOllama, add_model
from narthex.testing.residents import FOREVER, listed, load, stays_forever, unload
from narthex.units import MIB
from narthex.views.report.source import stored as stored_result

pytestmark = [pytest.mark.engine, pytest.mark.slow]
Start = Callable[..., FakeOllama]
TURN = ("--depth", "32", "--prompt-tokens", "16", "--generate", "8", "--plain")
SMALL = ("--demo", "--ctx", "512", "--max-loads", "5", *TURN)


def tune(model: str, url: str, *words: str) -> Said:
    return narthex("tune", model, "--ollama", url, *SMALL, *words)


def stored(name: str) -> Profile:
    with Journal.open() as journal:
        return load_profile(journal, name)


def baselines(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in answer["baselines"]}


def test_a_study_ends_in_a_profile_that_apply_takes_and_leaves_everything_as_it_was(
    served: FakeOllama,
) -> None:
    load(served, "small", FOREVER, num_ctx=768)
    said = tune("small-set", served.url, "--soak", "2s")
    after = listed(served)
    unload(served)
    assert said.code == 0, said.err
    assert "Loaded in Ollama: small:latest" in said.err
    assert "Put back: small:latest" in said.err
    assert list(after) == ["small:latest"]
    assert after["small:latest"]["context_length"] == 768
    assert stays_forever(after["small:latest"])

    text = " ".join(said.out.split())
    for words in ("what you have now", "engine's own placement", "house defaults", "» narthex"):
        assert words in text
    assert "What settings of the whole server should bring" in text
    assert "OLLAMA_KEEP_ALIVE=-1" in text
    (name,) = [line.split()[-1] for line in said.out.splitlines() if line.startswith("use it")]
    assert f"narthex apply {name}" in text

    profile = stored(name)
    assert profile.model.served_as == "small-set:latest"
    assert (profile.engine_kind, profile.demo, profile.proven) == ("ollama", True, True)
    assert profile.server_url == served.url
    assert profile.base_parameters == {"num_ctx": 512, "num_thread": 1}
    assert profile.soak_s >= 2

    with Journal.open() as journal:
        (row,) = journal.studies()
    assert row.result is not None
    result = stored_result(row.result, row.id)
    have = {baseline.name: baseline.knobs for baseline in result.baselines}
    assert set(have) == {"current", "engine", "house"}
    # What the user has is what the model's own PARAMETERs make of it.
    assert (have["current"].num_ctx, have["current"].threads) == (512, 1)
    assert have["engine"].gpu_layers is None
    assert all(record.trial.knobs.batch == record.trial.knobs.ubatch for record in result.trials)
    assert {record.trial.knobs.kv_type for record in result.trials} == {"f16"}


def test_real_memory_runs_out_and_the_study_backs_off_to_what_works(fake_ollama: Start, gemma: Path) -> None:
    """The «card» is an RPC device whose process may have 600 MiB: too little for a long context there."""
    fake = fake_ollama(models={"small": gemma}, rpc=True, limit_mib=600)
    words = ("--ctx", "32768", "--goal", "fastest", "--soak", "0", "--max-loads", "8", "--json")
    said = tune("small", fake.url, *words)
    assert said.code == 0, said.err
    answer = said.data
    assert baselines(answer)["engine"]["outcome"] == "out_of_memory"
    failed = [row for row in answer["trials"] if row["outcome"] == "out_of_memory"]
    assert len(failed) >= 2
    assert all("failed to allocate" in row["reason"] for row in failed)  # the engine's own line
    backed_off = [row for row in answer["decisions"] if row["kind"] == "backoff"]
    assert backed_off
    assert "failed to allocate" in backed_off[0]["evidence"]
    chosen = answer["profile"]["knobs"]
    assert (chosen["num_ctx"], chosen["kv_type"]) == (32768, "f16")
    assert any(row["knobs"] == chosen and row["outcome"] == "done" for row in answer["trials"])
    assert listed(fake) == {}


@pytest.mark.long
def test_the_context_grows_only_after_a_soak_at_what_it_has(served: FakeOllama) -> None:
    pins = ("--set", "ubatch=256", "--set", "threads=1")
    words = (*pins, "--goal", "fastest", "--max-loads", "7", "--soak", "1s", "--grow", "ctx", "--json")
    said = tune("small", served.url, *words)
    assert said.code == 0, said.err
    grown = [row["text"] for row in said.data["decisions"] if row["kind"] == "grow"]
    assert grown
    (*_, (ctx, outcome)) = [(row["knobs"]["num_ctx"], row["outcome"]) for row in said.data["soaks"]]
    assert (said.data["profile"]["knobs"]["num_ctx"] == ctx) or outcome != "done"
    soaked = {row["knobs"]["num_ctx"] for row in said.data["soaks"] if row["outcome"] == "done"}
    assert said.data["profile"]["knobs"]["num_ctx"] in soaked
    assert said.data["profile"]["proven"] is True


@pytest.mark.long
def test_beside_a_tenant_its_peak_stays_free_and_its_jobs_run_while_it_soaks(
    served: FakeOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeComfyUI(work_s=0.3) as comfyui:
        (tmp_path / "portrait.json").write_text(json.dumps(portrait()))
        policy = tmp_path / "narthex.toml"
        policy.write_text(f'[beside.comfyui]\nurl = "{comfyui.url}"\nworkflow = "portrait.json"\n')
        monkeypatch.setenv("NARTHEX_CONFIG", str(policy))
        words = ("--max-loads", "2", "--set", "num_ctx=512", "--soak", "3s", "--beside", "comfyui")
        said = tune("small", served.url, *words)
        prompts = [row for row in comfyui.requests if row[:2] == ("POST", "/prompt")]
    assert said.code == 0, said.err
    assert "comfyui takes up to" in said.err
    assert len(prompts) >= 2  # one to measure its peak, more while it soaked
    text = " ".join(said.out.split())
    assert "comfyui" in text
    with Journal.open() as journal:
        (soak,) = journal.soaks()
    assert soak.report.beside == "comfyui"
    assert soak.report.jobs is not None
    assert soak.report.jobs >= 1


@pytest.mark.long
class TestAnOllamaBehindATunnel:
    """Nothing of this machine says anything about it: neither its cards nor its processes."""

    @pytest.fixture
    def url(self, served: FakeOllama) -> Iterator[str]:
        tunnel = Forward("127.0.0.1", 0, served.port)
        yield f"http://127.0.0.1:{tunnel.port}"
        tunnel.close()

    @pytest.mark.parametrize("card", [(), ("--vram", "4GB")])
    def test_a_study_runs_there(self, card: tuple[str, ...], url: str, served: FakeOllama) -> None:
        said = tune("small", url, "--max-loads", "2", "--soak", "0", "--json", *card)
        assert said.code == 0, said.err
        assert "GPU memory of its machine can't be read from here" in said.err
        answer = said.data
        assert answer["host"] == f"elsewhere {url}"
        assert {row["outcome"] for row in answer["trials"]} == {"done"}
        for row in answer["trials"]:
            assert (row["vram_bytes"], row["ram_bytes"], row["bandwidth_share"]) == (None, None, None)
        assert listed(served) == {}

    def test_the_plan_says_what_it_does_not_know(self, url: str) -> None:
        said = narthex("plan", "small", "--ollama", url)
        assert said.code == 0, said.err
        text = " ".join(said.out.split())
        assert "Whether it fits is not known" in text
        assert "give --vram" in text


@pytest.mark.long
class TestAnOllamaInAContainer:
    """Its program is the fake, computing on an RPC device, so that a context has to fit."""

    @pytest.fixture
    def docker(
        self,
        engine_binary: Path,
        rpc_server_binary: Path,
        gemma: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[FakeDocker]:
        store = tmp_path / "volume" / "models"
        add_model(store, "small", gemma)
        words = [sys.executable, "-m", "narthex.testing.fake_ollama", "--recovery", "0"]
        words += ["--store", str(store), "--engine", str(engine_binary)]
        with (
            device(rpc_server_binary) as address,
            FakeDocker(lambda facts: Command(words, {"LLAMA_ARG_RPC": address})) as fake,
        ):
            monkeypatch.setenv("DOCKER_HOST", fake.host)
            fake.add(container(tmp_path / "volume"))
            yield fake

    def test_a_restart_has_to_be_allowed_and_the_own_container_comes_back(
        self, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NARTHEX_REPEATS", "1")
        own = docker.find("ollama")
        url = url_of(own)
        pins = ("--set", "gpu_layers=19", "--set", "ubatch=128")
        for _ in range(2):  # so that one load of another size does not change what was learned
            settings = (*pins, "--set", "num_ctx=512", "--many")
            lesson = narthex("trial", "small", "--ollama", url, *settings, *TURN)
            assert lesson.code == 0, lesson.err
        asked = ("--goal", "longest", "--min-tps", "1", "--reserve", str(room_for_q8_0(url)), *pins)
        limits = ("--ctx", "512", "--max-loads", "2", "--soak", "0", "--json")
        words = ("tune", "small", "--ollama", url, *asked, *limits, *TURN)

        # Each run teaches the planner: both begin with the same lesson.
        copy = Path(os.environ["NARTHEX_DATA"]).with_name("copy")
        shutil.copytree(os.environ["NARTHEX_DATA"], copy)
        alone = narthex(*words, env={"NARTHEX_DATA": str(copy)})
        assert alone.code == 0, alone.err
        assert docker.events == []  # nothing was started anew
        best = alone.data["server_level"][0]
        assert best["env"]["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
        assert best["gain_of"] == "context"

        said = narthex(*words, "--restart-container")
        assert said.code == 0, said.err
        before, after = said.data, said.data["under_server_settings"]
        assert after["profile"]["name"].endswith("-q8_0")  # beside the other, not in its place
        assert before["profile"]["knobs"]["kv_type"] == "f16"
        assert after["profile"]["knobs"]["kv_type"] == "q8_0"
        assert after["profile"]["knobs"]["num_ctx"] > before["profile"]["knobs"]["num_ctx"]
        assert "kv=q8_0" in after["engine"]
        assert {row["outcome"] for row in after["trials"]} == {"done"}
        assert docker.containers.keys() == {own.id}
        assert docker.find("ollama").running
        assert "OLLAMA_KV_CACHE_TYPE" not in docker.find("ollama").env

    def test_what_a_killed_run_left_is_said_and_put_right_where_a_restart_is_allowed(
        self, docker: FakeDocker
    ) -> None:
        own = docker.find("ollama")
        url = url_of(own)
        hand = hand_for(find_server(url))
        assert hand is not None
        hand.set_env({"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"})
        assert docker.find("ollama").id != own.id
        once = ("tune", "small", "--ollama", url, "--demo", "--ctx", "512", "--max-loads", "1", "--soak", "0")

        alone = narthex(*once, *TURN, "--json")
        assert alone.code == 0, alone.err
        assert "It has settings that narthex gave it" in alone.err
        assert "kv=q8_0" in alone.data["engine"]
        assert docker.find("ollama").id != own.id

        allowed = narthex(*once, *TURN, "--restart-container", "--json")
        assert allowed.code == 0, allowed.err
        assert "yours are put back" in allowed.err
        assert "kv=q8_0" not in allowed.data["engine"]
        assert docker.containers.keys() == {own.id}


def room_for_q8_0(url: str) -> int:
    """How much to reserve so that all layers and the longest context fit with a q8_0 cache, and with an f16
    one they don't: by the plan, with what a load has taught it."""
    target = find_target("small", ollama=url)
    with Journal.open() as journal:
        learned = calibrate(journal.predictions(target.inspection.identity, target.engine.key))
    devices = devices_of(target.engine, host_of(target), learned)
    longest = KnobValues(num_ctx=32768, gpu_layers=19, batch=128, ubatch=128, kv_type="q8_0", flash_attn="on")
    needs = [
        plan_memory(target.inspection, knobs, devices, calibration=learned).devices[0].need_bytes
        for knobs in (longest, longest.with_(kv_type="f16"))
    ]
    assert needs[1] - needs[0] > 15 * MIB
    assert devices[0].free_bytes is not None
    return devices[0].free_bytes - needs[0] - 5 * MIB


def container(folder: Path) -> dict[str, Any]:
    """What inspect tells of a container with its store in that folder."""
    binding = {"HostIp": "127.0.0.1", "HostPort": str(free_port())}
    return {
        "Id": "ab" * 32,
        "Name": "/ollama",
        "Image": "sha256:one",
        "Config": {
            "Image": "ollama/ollama:latest",
            "Env": ["OLLAMA_HOST=0.0.0.0:11434", "HOME=/root"],
            "Tty": False,
            "ExposedPorts": {"11434/tcp": {}},
        },
        "HostConfig": {"PortBindings": {"11434/tcp": [binding]}, "Binds": [f"{folder}:/root/.ollama"]},
        "Mounts": [{"Type": "bind", "Source": str(folder), "Destination": "/root/.ollama", "RW": True}],
    }


def url_of(running: FakeContainer) -> str:
    """Its published address, once it answers there."""
    (binding,) = running.facts()["NetworkSettings"]["Ports"]["11434/tcp"]
    url = f"http://127.0.0.1:{binding['HostPort']}"
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


@contextmanager
def device(binary: Path) -> Iterator[str]:
    """A ggml-rpc-server: the address of an offload device without a GPU."""
    port = free_port()
    words = [str(binary), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
