"""The fake ComfyUI speaks as the real one: routes, error bodies, events in their order, memory that stays."""

from __future__ import annotations

import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from narthex.testing.fake_comfyui import FakeComfyUI, portrait


@pytest.fixture
def comfyui() -> Iterator[FakeComfyUI]:
    with FakeComfyUI(work_s=0.2) as fake:
        yield fake


def ask(fake: FakeComfyUI, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(fake.url.removeprefix("http://"), timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    return response.status, json.loads(raw) if raw.startswith((b"{", b"[")) else raw


def submit(fake: FakeComfyUI, graph: dict[str, Any], **more: Any) -> str:
    status, answer = ask(fake, "POST", "/prompt", {"prompt": graph, **more})
    assert status == 200, answer
    assert answer["node_errors"] == {}
    return str(answer["prompt_id"])


def end_of(fake: FakeComfyUI, prompt_id: str) -> dict[str, Any]:
    while True:
        found = ask(fake, "GET", f"/history/{prompt_id}")[1]
        if found:
            entry: dict[str, Any] = found[prompt_id]
            return entry
        time.sleep(0.02)


def test_a_prompt_runs_and_is_kept_in_the_history(comfyui: FakeComfyUI) -> None:
    prompt_id = submit(comfyui, portrait())
    assert ask(comfyui, "GET", "/prompt")[1] == {"exec_info": {"queue_remaining": 1}}
    entry = end_of(comfyui, prompt_id)
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert [row[0] for row in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert entry["prompt"][1:3] == [prompt_id, portrait()]
    image = entry["outputs"]["6"]["images"][0]
    status, picture = ask(comfyui, "GET", f"/view?filename={image['filename']}&type={image['type']}")
    assert (status, picture[:4]) == (200, b"\x89PNG")


def test_every_route_is_there_below_api_too(comfyui: FakeComfyUI) -> None:
    assert ask(comfyui, "GET", "/api/queue")[1] == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    ("graph", "kind", "details"),
    [
        ({"1": {"class_type": "Nonsense", "inputs": {}}}, "missing_node_type", "Node ID '#1'"),
        (
            {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}},
            "prompt_no_outputs",
            "",
        ),
        (
            {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "t"}}},
            "prompt_outputs_failed_validation",
            "",
        ),
    ],
)
def test_a_graph_that_cannot_run_is_refused(
    comfyui: FakeComfyUI, graph: dict[str, Any], kind: str, details: str
) -> None:
    status, answer = ask(comfyui, "POST", "/prompt", {"prompt": graph})
    assert status == 400
    assert (answer["error"]["type"], answer["error"]["details"]) == (kind, details)


def test_a_missing_checkpoint_is_a_node_error(comfyui: FakeComfyUI) -> None:
    graph = portrait()
    graph["1"]["inputs"]["ckpt_name"] = "gone.safetensors"
    answer = ask(comfyui, "POST", "/prompt", {"prompt": graph})[1]
    told = answer["node_errors"]["1"]
    assert told["class_type"] == "CheckpointLoaderSimple"
    assert told["errors"][0]["type"] == "value_not_in_list"
    assert told["dependent_outputs"] == ["6"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [({}, "no_prompt"), ({"prompt": portrait(), "prompt_id": "mine"}, "invalid_prompt_id")],
)
def test_a_body_without_sense_is_refused(comfyui: FakeComfyUI, body: Any, kind: str) -> None:
    status, answer = ask(comfyui, "POST", "/prompt", body)
    assert (status, answer["error"]["type"]) == (400, kind)


def test_what_did_not_change_comes_from_the_cache(comfyui: FakeComfyUI) -> None:
    end_of(comfyui, submit(comfyui, portrait()))
    again = end_of(comfyui, submit(comfyui, portrait()))
    assert set(again["status"]["messages"][1][1]["nodes"]) == set(portrait())
    other = end_of(comfyui, submit(comfyui, portrait(seed=8)))
    assert set(other["status"]["messages"][1][1]["nodes"]) == {"1", "2", "3"}


def test_an_error_of_a_node_ends_the_prompt_and_not_the_server() -> None:
    with FakeComfyUI(work_s=0.1, fail="CUDA out of memory.") as comfyui:
        entry = end_of(comfyui, submit(comfyui, portrait()))
        assert entry["status"]["status_str"] == "error"
        event, data = entry["status"]["messages"][-1]
        assert event == "execution_error"
        assert (data["node_type"], data["exception_message"]) == ("KSampler", "CUDA out of memory.\n")
        assert ask(comfyui, "GET", "/prompt")[0] == 200


def test_deleting_from_the_queue_leaves_the_running_prompt_alone(comfyui: FakeComfyUI) -> None:
    running, waiting, later = (submit(comfyui, portrait(seed)) for seed in range(3))
    ask(comfyui, "POST", "/queue", {"delete": [waiting, running]})
    assert end_of(comfyui, later)["status"]["completed"]
    assert end_of(comfyui, running)["status"]["completed"]
    assert ask(comfyui, "GET", f"/history/{waiting}")[1] == {}


def test_an_interrupt_for_another_prompt_stops_nothing() -> None:
    with FakeComfyUI(work_s=0.6) as comfyui:
        running = submit(comfyui, portrait())
        ask(comfyui, "POST", "/interrupt", {"prompt_id": str(uuid.uuid4())})
        assert end_of(comfyui, running)["status"]["completed"]
        second = submit(comfyui, portrait(seed=8))
        while comfyui.executor.running is None:
            time.sleep(0.01)
        ask(comfyui, "POST", "/interrupt", {})
        entry = end_of(comfyui, second)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"


def test_models_stay_loaded_until_free_which_waits_for_the_running_prompt(comfyui: FakeComfyUI) -> None:
    first = submit(comfyui, portrait())
    ask(comfyui, "POST", "/free", {"unload_models": True})
    assert end_of(comfyui, first)["status"]["completed"]
    end_of(comfyui, submit(comfyui, portrait(seed=8)))
    assert ask(comfyui, "GET", "/system_stats")[1]["devices"][0]["torch_vram_total"] == 64 * 2**20
    ask(comfyui, "POST", "/free", {"unload_models": True})
    while ask(comfyui, "GET", "/system_stats")[1]["devices"][0]["torch_vram_total"]:
        time.sleep(0.02)


def test_history_can_be_cut_and_cleared(comfyui: FakeComfyUI) -> None:
    first, second = submit(comfyui, portrait(1)), submit(comfyui, portrait(2))
    end_of(comfyui, second)
    assert list(ask(comfyui, "GET", "/history?max_items=1")[1]) == [second]
    ask(comfyui, "POST", "/history", {"delete": [second]})
    assert list(ask(comfyui, "GET", "/history")[1]) == [first]
    ask(comfyui, "POST", "/history", {"clear": True})
    assert ask(comfyui, "GET", "/history")[1] == {}


class Listener:
    """A WebSocket client, by hand: text frames of a server are never masked."""

    def __init__(self, fake: FakeComfyUI, client: str) -> None:
        host, _, port = fake.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        head = f"GET /ws?clientId={client} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\n\r\n"
        self._socket.sendall((head + key).encode())
        self._file = self._socket.makefile("rb")
        assert b"101" in self._file.readline()
        headers = b"".join(iter(self._file.readline, b"\r\n"))
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in headers  # the example of RFC 6455

    def next(self) -> dict[str, Any]:
        size = self._file.read(2)[1]
        count = int.from_bytes(self._file.read(2)) if size == 126 else size
        found: dict[str, Any] = json.loads(self._file.read(count))
        return found

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_events_come_in_comfyuis_order(comfyui: FakeComfyUI) -> None:
    mine, other = Listener(comfyui, "me"), Listener(comfyui, "else")
    assert mine.next()["data"]["sid"] == "me"
    submit(comfyui, portrait(), client_id="me")
    heard: list[dict[str, Any]] = []
    while not heard or (heard[-1]["type"], heard[-1]["data"].get("node", "")) != ("executing", None):
        heard.append(mine.next())
    words = [row["type"] for row in heard if row["type"] not in ("progress", "status")]
    assert words[:2] == ["execution_start", "execution_cached"]
    assert words[-3:] == ["executed", "execution_success", "executing"]
    assert heard[-2]["type"] == "status"
    assert [row["type"] for row in (other.next(), other.next(), other.next())] == ["status"] * 3
    mine.close()
    other.close()
