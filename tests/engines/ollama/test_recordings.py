"""What a real Ollama 0.33.0-rc2 answered and wrote: recorded, and read here again.

Only era F was recorded. Lines of the other eras are in test_log and test_failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.engines._base import LoadReport
from narthex.engines.ollama.entries import access_lines, entries, raw_lines
from narthex.engines.ollama.exchange import convert
from narthex.engines.ollama.failures import explain
from narthex.engines.ollama.log import (
    compute_devices,
    default_ctx_line,
    last_load_command,
    parse_load,
    server_config,
)
from narthex.engines.ollama.names import is_cloud, same
from narthex.engines.ollama.records import ApiError, Resident, Show, Tag
from narthex.outcomes import Outcome
from narthex.units import GIB, MIB

VERSION = "0.33.0-rc2"
START = 'msg="starting llama-server"'
# «|   - Host | 272 = 222 + 27 + 22 |» or «|   - RPC0 (…) | 24105 = 24105 + (1016 = 235 + 118 + 663) + … |»
TABLE = re.compile(r"breakdown_print: \|\s+- (\S+).*?\d+ =\s+(\d+) \+\s+(\d+) \+\s+(\d+)[ )]")

Exchange = dict[str, Any]


@pytest.fixture(scope="session")
def wire(shared: Path) -> Path:
    folder = shared / "ollama-wire"
    if not folder.is_dir():
        pytest.skip("no ../shared/ollama-wire beside this clone: the recordings are absent")
    return folder


def recording(wire: Path, number: int) -> dict[str, Any]:
    (path,) = wire.glob(f"{number:03}-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def exchanges(whole: dict[str, Any]) -> list[Exchange]:
    """With the log of each; of parallel ones, and where there is only one, the log of all."""
    found = whole.get("exchanges", [whole])
    return [{**one, "server_log": one.get("server_log") or whole.get("server_log") or []} for one in found]


def every_exchange(wire: Path) -> Iterator[tuple[str, Exchange]]:
    for path in sorted(wire.glob("*.json")):
        for exchange in exchanges(json.loads(path.read_text())):
            yield path.stem, exchange


def loads(wire: Path) -> Iterator[tuple[str, list[str]]]:
    """Each log slice in which a runner was started."""
    for name, exchange in every_exchange(wire):
        if any(START in line for line in exchange["server_log"]):
            yield name, exchange["server_log"]


def error_of(exchange: Exchange) -> ApiError | None:
    """As the API client raises it."""
    lines = [exchange.get("body_text") or "", *(row["line"] for row in exchange.get("stream") or [])]
    text = next((line for line in lines if line.startswith('{"error"')), None)
    if text is None:
        return None
    error = json.loads(text)["error"]
    if isinstance(error, dict):
        error = error["message"]
    if error.startswith("{"):
        error = json.loads(error)["error"]["message"]
    return ApiError(error, status=exchange["status"])


def test_every_load_names_its_buffers_as_the_engines_own_table_does(wire: Path) -> None:
    checked = 0
    for name, lines in loads(wire):
        report = parse_load(lines, VERSION)
        begin = max(index for index, line in enumerate(lines) if START in line)
        table: dict[str, list[int]] = {}
        for row in (found for line in lines[begin:] if (found := TABLE.search(line))):
            device = row[1] if row[1].startswith("RPC") else "Host"
            sums = table.setdefault(device, [0, 0, 0])
            table[device] = [total + int(part) for total, part in zip(sums, row.groups()[1:], strict=True)]
        if not table or not any(buffers.compute_bytes for buffers in report.buffers):
            continue  # it failed before, or the placement was given
        if any("CPU_Mapped model" in line for line in lines[begin:]):
            continue  # the file is mapped whole, with the parts that were copied out of it
        for buffers in report.buffers:
            parts = (buffers.model_bytes, buffers.context_bytes, buffers.compute_bytes)
            for part, told in zip(parts, table[buffers.device], strict=True):
                assert abs(part / MIB - told) < 3, (name, buffers, table)
        checked += 1
    assert checked > 40


def test_every_load_has_the_context_and_batch_that_its_command_asks_for(wire: Path) -> None:
    for name, lines in loads(wire):
        report, command = parse_load(lines, VERSION), last_load_command(lines)
        assert command is not None, name
        assert command.blob, name
        assert command.num_ctx, name
        assert report.num_ctx is not None, name
        assert command.num_ctx <= report.num_ctx < command.num_ctx + 256, name
        if command.batch and "llama_context: n_ubatch" in "\n".join(lines):
            assert report.ubatch == min(command.batch, command.num_ctx), name


@pytest.mark.parametrize(
    ("number", "index", "devices", "layers"),
    [
        (207, 0, {"RPC0": (235, 118, 663), "Host": (170, 0, 143)}, (19, 19)),
        (209, 0, {"RPC0": (202, 15, 50), "Host": (210, 12, 52)}, (10, 19)),
        (211, 0, {"Host": (235, 27, 23)}, (0, 19)),
        (212, 0, {"RPC0": (170, 0, 1), "Host": (248, 27, 52)}, (1, 19)),
        (212, 6, {"RPC0": (235, 27, 50), "Host": (170, 0, 15)}, (19, 19)),
        (214, 1, {"RPC0": (157, 96, 1171), "Host": (2, 0, 138)}, (4, 4)),
        (214, 3, {"RPC0": (59, 4, 82), "Host": (181, 8, 83)}, (2, 4)),
        (218, 0, {"RPC0": (235, 27, 50), "Host": (170, 0, 15)}, (19, 19)),
    ],
)
def test_where_the_layers_and_bytes_are(
    wire: Path,
    number: int,
    index: int,
    devices: dict[str, tuple[int, int, int]],
    layers: tuple[int, int],
) -> None:
    report = parse_load(exchanges(recording(wire, number))[index]["server_log"], VERSION)
    found = {
        row.device: (row.model_bytes / MIB, row.context_bytes / MIB, row.compute_bytes / MIB)
        for row in report.buffers
    }
    assert found.keys() == devices.keys()
    for device, told in devices.items():
        assert found[device] == pytest.approx(told, abs=1)
    assert (report.offloaded_layers, report.total_layers) == layers
    assert report.gaps == ()


@pytest.mark.parametrize("number", [216, 233])
def test_a_gpu_that_is_not_there_is_not_believed(wire: Path, number: int) -> None:
    report = parse_load(exchanges(recording(wire, number))[0]["server_log"], VERSION)
    assert (report.offloaded_layers, report.total_layers) == (0, 19)
    assert [row.device for row in report.buffers] == ["Host"]
    assert any("every buffer lies in main memory" in gap for gap in report.gaps)


def test_a_context_that_ollama_lowered_by_itself_is_the_one_that_counts(wire: Path) -> None:
    report = parse_load(recording(wire, 218)["server_log"], VERSION)
    assert report.num_ctx == 4096
    assert report.ubatch == 512


def test_the_whole_log_of_a_server_holds_every_load(wire: Path) -> None:
    lines = (wire / "server-healthy.log").read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if START in line]
    assert len(starts) == len([entry for entry in entries(lines) if entry.msg == "starting llama-server"])
    reports: list[LoadReport] = []
    for begin, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        whole = parse_load(lines[:end], VERSION)
        assert whole == parse_load(lines[begin:end], VERSION)
        reports.append(whole)
    started = [entry for entry in entries(lines) if entry.msg == "loaded runners"]
    complete = [report for report in reports if any(row.compute_bytes for row in report.buffers)]
    assert len(complete) == len(started)
    assert len(access_lines(lines)) > 200
    assert not any(line.startswith("time=") or "[GIN]" in line for line in raw_lines(lines))


def test_what_a_start_tells_of_itself(wire: Path) -> None:
    plain, remote = recording(wire, 1)["server_log"], recording(wire, 206)["server_log"]
    config = server_config(plain)
    assert config["OLLAMA_KEEP_ALIVE"] == "5m0s"
    assert config["OLLAMA_ORIGINS"].startswith("http://localhost,https://localhost")
    assert (config["OLLAMA_KV_CACHE_TYPE"], config["OLLAMA_NUM_PARALLEL"]) == ("", "1")
    assert compute_devices(plain) == ()
    assert default_ctx_line(plain) == 4096
    (device,) = compute_devices(remote)
    assert (device.name, device.total_bytes) == ("RPC0", round(23.5 * GIB))
    assert default_ctx_line(remote) == 32768


OUT = Outcome.OUT_OF_MEMORY
# Recording → the outcome of each exchange that is no list and no success; «None» where it was a success.
FAILURES: dict[int, tuple[Outcome | None, ...]] = {
    84: (Outcome.MODEL_UNKNOWN,),
    85: (Outcome.MODEL_UNKNOWN,),
    87: (Outcome.REQUEST_FAILED,) * 5,
    88: (
        Outcome.REQUEST_FAILED,
        Outcome.MODEL_UNKNOWN,
        Outcome.FILE_MISSING,
        None,
        None,
        Outcome.REQUEST_FAILED,
        Outcome.MODEL_UNKNOWN,
        Outcome.REQUEST_FAILED,
        None,
        None,
        Outcome.UNSUPPORTED_SETTING,
        Outcome.UNSUPPORTED_SETTING,
        None,
    ),
    102: (Outcome.PROMPT_TRUNCATED,),
    103: (Outcome.PROMPT_TRUNCATED,),
    104: (Outcome.PROMPT_TRUNCATED,),
    106: (Outcome.PROMPT_TRUNCATED,),
    107: (Outcome.PROMPT_TRUNCATED,),
    150: (None, *(Outcome.QUEUE_FULL,) * 2, None, *(Outcome.QUEUE_FULL,) * 4),
    151: (None,) * 8,
    152: (None, *(Outcome.QUEUE_FULL,) * 2, None, *(Outcome.QUEUE_FULL,) * 2),
    154: (Outcome.UNSUPPORTED_SETTING, None),
    155: (Outcome.UNSUPPORTED_SETTING, None),
    166: (OUT, None, OUT),
    167: (OUT, None),
    168: (None, OUT, None, None),
    171: (None, None, OUT, None),
    172: (Outcome.KILLED_BY_KERNEL, None),
    175: (Outcome.FAILED,),
    176: (Outcome.CRASHED,),
    177: (Outcome.LOAD_TIMEOUT, None),
    179: (None, None, None),
    180: (Outcome.RUNNER_DIED,),
    184: (Outcome.CORRUPT_FILE, Outcome.CORRUPT_FILE, None),
    185: (Outcome.CORRUPT_FILE, Outcome.CORRUPT_FILE),
    186: (Outcome.UNSUPPORTED_ARCHITECTURE, None),
    187: (Outcome.UNSUPPORTED_ARCHITECTURE,),
    188: (Outcome.CORRUPT_FILE,),
    189: (Outcome.CORRUPT_FILE,),
    190: (None,),
    191: (None, None, Outcome.FILE_MISSING, None, Outcome.MODEL_UNKNOWN, None),
    192: (Outcome.CORRUPT_FILE, None, Outcome.CORRUPT_FILE),
    215: (Outcome.RUNNER_DIED,),
    217: (None, Outcome.LOAD_TIMEOUT, None, None),
    218: (None, None),
}


@pytest.mark.parametrize("number", sorted(FAILURES))
def test_every_failure_has_its_outcome_and_a_line(wire: Path, number: int) -> None:
    for exchange, expected in zip(exchanges(recording(wire, number)), FAILURES[number], strict=True):
        error = error_of(exchange)
        if expected is None:
            assert error is None
            continue
        assert error is not None
        loaded = bool(exchange.get("stream")) and exchange["path"] == "/api/generate"
        failure = explain(error, exchange["server_log"], loaded=loaded)
        assert failure.outcome is expected, failure
        assert failure.line


@pytest.mark.parametrize("number", [84, 88, 102, 150, 154, 155, 166, 168, 171, 172, 177, 180, 184, 186, 217])
def test_a_server_whose_log_cant_be_read_is_understood_as_far_as_its_words_go(
    wire: Path, number: int
) -> None:
    needs_log = {88: {Outcome.FILE_MISSING}, 155: {Outcome.UNSUPPORTED_SETTING}}.get(number, set())
    for exchange, expected in zip(exchanges(recording(wire, number)), FAILURES[number], strict=True):
        error = error_of(exchange)
        if expected is None or error is None or expected in needs_log:
            continue
        loaded = exchange.get("stream") is not None and exchange["path"] == "/api/generate"
        assert explain(error, [], loaded=loaded).outcome is expected


def test_the_size_of_the_failed_allocation_is_known(wire: Path) -> None:
    first = exchanges(recording(wire, 166))[0]
    assert explain(error_of(first), first["server_log"], loaded=False).requested_bytes == 233316864


def test_a_lost_device_is_named(wire: Path) -> None:
    (exchange,) = exchanges(recording(wire, 215))
    assert (
        "Remote RPC server crashed" in explain(error_of(exchange), exchange["server_log"], loaded=True).line
    )


def test_a_client_that_left_during_the_load(wire: Path) -> None:
    (exchange,) = exchanges(recording(wire, 116))
    failure = explain(None, exchange["server_log"], loaded=False)
    assert failure.outcome is Outcome.CLIENT_GONE
    assert "client connection closed" in failure.line


@pytest.mark.parametrize("number", [101, 109])
def test_a_prompt_that_was_cut_without_a_word_in_the_answer(wire: Path, number: int) -> None:
    (exchange,) = exchanges(recording(wire, number))
    assert error_of(exchange) is None
    failure = explain(None, exchange["server_log"], loaded=True, outcome=Outcome.PROMPT_TRUNCATED)
    assert "truncating input prompt" in failure.line


def test_every_list_and_every_model_decodes(wire: Path) -> None:
    counts = dict.fromkeys(("/api/tags", "/api/ps", "/api/show"), 0)
    for name, exchange in every_exchange(wire):
        path, body = exchange.get("path"), exchange.get("body")
        if path not in counts or exchange.get("status") != 200 or not isinstance(body, dict):
            continue
        counts[path] += 1
        if path == "/api/show":
            shown = convert(body, Show)
            assert shown.model_info["general.architecture"], name
            assert shown.tensors, name
            assert shown.capabilities is not None, name
            continue
        for model in body["models"] or ():
            found: Tag | Resident = convert(model, Tag) if path == "/api/tags" else convert(model, Resident)
            assert len(found.digest) == 64, name
            assert same(found.name, found.model), name
            assert found.details.family in ("gemma3", "llama", "zlama"), name
            if isinstance(found, Tag):
                assert not is_cloud(found), name
            else:
                assert found.expires is not None, name
                assert found.context_length, name
                assert found.size_vram is not None, name
    assert all(count > 5 for count in counts.values()), counts


# Real failures of other people's machines, labelled by hand: those in which an Ollama or its runner fails.
# (Outcomes that the evidence allows, whether the model was loaded.)
CAUSES: dict[str, tuple[set[Outcome], bool]] = {
    "vram_oom_on_load": ({OUT}, False),
    "compute_buffer_oom": ({OUT}, False),
    "rocm_host_fault": ({OUT}, False),
    "vram_oom_in_generation": ({Outcome.OUT_OF_MEMORY_COMPUTE}, True),
    "host_ram_insufficient": ({Outcome.HOST_OUT_OF_MEMORY}, False),
    "num_parallel_multiplies_kv": ({Outcome.HOST_OUT_OF_MEMORY}, False),
    "host_oom_kill": ({Outcome.KILLED_BY_KERNEL}, False),
    "model_needs_newer_runtime": ({Outcome.UNSUPPORTED_ARCHITECTURE}, False),
    "gguf_invalid_or_corrupt": ({Outcome.CORRUPT_FILE, Outcome.UNSUPPORTED_ARCHITECTURE}, False),
    "runner_missing_library": ({Outcome.FAILED}, False),
    "runner_crash_bug": ({Outcome.RUNNER_DIED}, True),
    "gpu_arch_not_in_build": ({Outcome.RUNNER_DIED}, True),
    "model_load_timeout": ({Outcome.LOAD_TIMEOUT}, False),
    "client_timeout_aborts_load": ({Outcome.CLIENT_GONE}, False),
    "client_timeout_generation": ({Outcome.REQUEST_FAILED}, True),
    "context_truncated": ({Outcome.PROMPT_TRUNCATED}, True),
    "model_not_found": ({Outcome.MODEL_UNKNOWN}, False),
    "disk_full": ({Outcome.DISK_FULL}, False),
    "queue_full": ({Outcome.QUEUE_FULL}, False),
}
# Its runner died without a word; that the kernel did it is in another log.
BEYOND = {"runner-vanish-codespace-8gb": Outcome.RUNNER_DIED}


def test_real_failures_of_others_are_named_as_people_named_them(shared: Path) -> None:
    path = shared / "corpus" / "cases.jsonl"
    if not path.is_file():
        pytest.skip("no ../shared/corpus beside this clone: the labelled cases are absent")
    checked = 0
    for case in map(json.loads, path.read_text().splitlines()):
        if case["root_cause"] not in CAUSES:
            continue
        outcomes, loaded = CAUSES[case["root_cause"]]
        evidence = case["evidence"]
        logs = [evidence.get(key, "") for key in ("ollama_log", "llama_server_log", "docker_log")]
        words = [evidence.get(key, "") for key in ("client_error", "commands", "openwebui_log")]
        lines = [line for log in logs for line in log.splitlines()]
        failure = explain(None, lines, loaded=loaded, words="\n".join(words))
        expected = {BEYOND[case["id"]]} if case["id"] in BEYOND else outcomes
        assert failure.outcome in expected, (case["id"], failure)
        checked += 1
    assert checked > 30
