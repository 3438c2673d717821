"""A bundle holds what a diagnosis needs, and nothing private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.bundle import (
    MOST,
    SMALL,
    Bundle,
    Examined,
    make_bundle,
    shortened,
)
from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Diagnosis, Skipped
from narthex.doctor.private_names import PrivateNames
from narthex.doctor.reading.case import load_case
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.redact import Redactor
from narthex.doctor.rules import RULES, SIGNS

QUEUE = "Error: 503 server busy, please try again.  maximum pending requests exceeded"
NAMES = PrivateNames(people=("lovelace",), hosts=("babbage",))
PRIVATE = (
    "Nov 22 10:00:00 babbage ollama[12]: time=2026-11-22T10:00:00Z level=DEBUG source=routes.go:1 "
    'msg="chat request" prompt="my diary: dear lovelace"',
    '[GIN] 2026/11/22 - 10:00:00 | 503 |  12.3ms |     203.0.113.77 | POST     "/api/chat"',
    "curl -H 'Authorization: Bearer abcdef123456' http://10.0.0.8:11434 # /home/lovelace/x",
    QUEUE,
)
SECRETS = ("babbage", "diary", "lovelace", "203.0.113.77", "abcdef123456", "10.0.0.8")


def examined(*texts: Text, readings: tuple[Reading, ...] = (), skipped: tuple[Skipped, ...] = ()) -> Examined:
    evidence = read_evidence(texts, SIGNS, readings=readings, skipped=skipped, live=bool(readings))
    return Examined(texts=texts, evidence=evidence, diagnosis=diagnose(evidence, RULES))


def text(*lines: str, kind: str = "ollama_log", name: str = "journalctl -u ollama") -> Text:
    return Text(kind=kind, name=name, data="\n".join(lines).encode())


def bundled(what: Examined) -> Bundle:
    return make_bundle(what, RULES, SIGNS, Redactor(NAMES))


def data(bundle: Bundle, name: str) -> Any:
    return json.loads(bundle.files[name])


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings]


def diagnosed_again(bundle: Bundle, folder: Path) -> Diagnosis:
    """As whoever gets it does: ``narthex doctor --evidence evidence.json``."""
    path = folder / "evidence.json"
    path.write_bytes(bundle.files["evidence.json"])
    return diagnose(load_case(path).evidence(SIGNS), RULES)


def test_nothing_private_is_in_any_file() -> None:
    readings = (
        Reading(
            name="proxy", about="this shell", value={"http_proxy": "http://lovelace:pw123456@10.0.0.8:1"}
        ),
        Reading(name="ollama.env", value={"OLLAMA_API_KEY": "abcdef123456", "OLLAMA_DEBUG": "1"}),
    )
    bundle = bundled(examined(text(*PRIVATE), readings=readings))
    for name, content in bundle.files.items():
        for secret in (*SECRETS, "pw123456"):
            assert secret not in content.decode(), (name, secret)
    assert any("network addresses" in words for words in bundle.left_out)
    assert "OLLAMA_DEBUG" in bundle.files["evidence.json"].decode()


def test_it_is_diagnosed_again_with_the_same_causes(tmp_path: Path) -> None:
    what = examined(text(*PRIVATE))
    assert causes(what.diagnosis)
    bundle = bundled(what)
    again = diagnosed_again(bundle, tmp_path)
    assert causes(again) == causes(what.diagnosis)
    assert not bundle.differs
    told = data(bundle, "diagnosis.json")
    assert [row["cause"] for row in told["findings"]] == causes(again)
    assert [row["cause"] for row in told["on_the_machine"]] == causes(what.diagnosis)
    quoted = again.findings[0].evidence[0]
    (source,) = data(bundle, "evidence.json")["sources"]
    assert source["text"].splitlines()[quoted.line - 1] == quoted.text


CASES = {
    "out of memory": (
        "ollama_log",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: "
        "out of memory\nalloc_tensor_range: failed to allocate CUDA0 buffer of size 9437184000\n"
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    ),
    "a name that is not known": (
        "ollama_log",
        'pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3/manifests/latest": dial tcp: '
        "lookup registry.ollama.ai on 192.168.178.1:53: no such host",
    ),
    "a port that is taken": (
        "commands",
        "lovelace@babbage:~$ ollama serve\nError: listen tcp 127.0.0.1:11434: bind: address already in use",
    ),
    "a container that is refused": (
        "commands",
        "lovelace@babbage:~$ docker run --gpus all ollama/ollama\ndocker: Error response from daemon: could "
        'not select device driver "" with capabilities: [[gpu]].',
    ),
    "a client that left": (
        "ollama_log",
        "time=2026-11-22T10:00:00.000Z level=WARN source=server.go:1357 "
        'msg="client connection closed before server finished loading, aborting load"\n'
        '[GIN] 2026/11/22 - 10:00:00 | 499 | 36.850129839s |   203.0.113.9 | POST     "/api/generate"',
    ),
    "OpenWebUI alone": (
        "openwebui_log",
        "2026-11-22 10:00:00.845 | ERROR | open_webui.routers.ollama:send_get_request:106 - "
        "Connection error: Cannot connect to host babbage.fritz.box:11434 ssl:default "
        "[Name or service not known]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_diagnosis_needs_what_is_private(name: str, tmp_path: Path) -> None:
    kind, lines = CASES[name]
    what = examined(text(*lines.split("\n"), kind=kind, name=kind))
    assert causes(what.diagnosis)
    bundle = bundled(what)
    assert causes(diagnosed_again(bundle, tmp_path)) == causes(what.diagnosis)
    assert not any(
        word in bundle.files["evidence.json"].decode() for word in ("lovelace", "babbage", "203.0")
    )


def test_several_logs_of_a_kind_readings_and_gaps_come_back(tmp_path: Path) -> None:
    what = examined(
        text("one", kind="docker_log", name="docker logs a"),
        text("two", kind="docker_log", name="docker logs b"),
        readings=(Reading(name="docker.engine", value="ok", text="Docker answers"),),
        skipped=(Skipped(what="NVML", why="can't tell, because it took longer than 2 s"),),
    )
    path = tmp_path / "evidence.json"
    path.write_bytes(bundled(what).files["evidence.json"])
    case = load_case(path)
    evidence = case.evidence(SIGNS)
    assert [source.name for source in evidence.sources[:2]] == ["docker logs a", "docker logs b"]
    assert evidence.value("docker.engine") == "ok"
    assert evidence.live
    assert evidence.skipped == what.evidence.skipped


def test_a_long_log_is_cut_and_keeps_what_was_quoted_and_its_end(tmp_path: Path) -> None:
    noise = [
        f'time=2026-11-22T10:00:00Z level=INFO msg="a line of no importance" n={n}' for n in range(40_000)
    ]
    noise[20_000] = QUEUE
    what = examined(text(*noise))
    kept = shortened(what.texts[0], what.evidence, what.diagnosis)
    assert len("\n".join(noise)) > SMALL
    assert len(kept.text) < MOST + 1000
    rows = kept.text.splitlines()
    assert QUEUE in rows
    assert rows[0] == noise[0]
    assert rows[-1] == noise[-1]
    left_out = sum(int(row.split()[1]) for row in rows if row.endswith("left out …"))
    assert left_out == kept.dropped == 40_000 - len([row for row in rows if not row.startswith("…")])
    bundle = bundled(what)
    assert any("of 40000 of journalctl -u ollama" in words for words in bundle.left_out)
    assert causes(diagnosed_again(bundle, tmp_path)) == causes(what.diagnosis)


def test_a_short_log_stays_whole() -> None:
    what = examined(text("one", "", "three"))
    assert shortened(what.texts[0], what.evidence, what.diagnosis).text == "one\n\nthree"


def test_versions_are_told() -> None:
    readings = (Reading(name="ollama.version", value="0.12.3"), Reading(name="docker.version", gap="absent"))
    told = data(bundled(examined(readings=readings)), "versions.json")
    assert told["ollama.version"] == "0.12.3"
    assert told["narthex"]
    assert "docker.version" not in told
