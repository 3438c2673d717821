"""What Ollama made of a load, by the recorded logs of a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.engines._base import LoadReport
from narthex.engines.ollama.applied import differences, settled_ctx
from narthex.engines.ollama.command import RunnerCommand
from narthex.engines.ollama.log import last_load_command, parse_load
from narthex.engines.ollama.records import Resident
from narthex.knobs import KnobValues

NEW = "0.33.0-rc2"


def setting(num_ctx: int = 4096, batch: int = 512, **more: Any) -> KnobValues:
    return KnobValues(num_ctx=num_ctx, batch=batch, ubatch=batch, **more)


def told(knobs: KnobValues, lines: list[str]) -> list[str]:
    """Of the last load in these lines."""
    command = last_load_command(lines)
    report = parse_load(lines, NEW)
    report = msgspec.structs.replace(report, num_ctx=settled_ctx(report, command, Resident(name="a")))
    return list(differences(knobs, report, command, lines, NEW))


def recorded(shared: Path, name: str, exchange: int | None = None) -> list[str]:
    found = json.loads((shared / "ollama-wire" / f"{name}.json").read_text())
    if exchange is not None:
        found = found["exchanges"][exchange]
    return [str(line) for line in found["server_log"]]


def test_a_load_as_asked_has_no_difference(shared: Path) -> None:
    assert told(setting(), recorded(shared, "030-load-only-generate")) == []


def test_a_context_beyond_the_training_is_told_with_ollamas_reason(shared: Path) -> None:
    (words, *_) = told(setting(131_072, 1024), recorded(shared, "067-num-ctx-over-train"))
    assert words == (
        "Context: 131072 tokens were asked for, Ollama loaded 32768; the model was trained for 32768."
    )


def test_a_context_that_ollama_lowered_for_memory_is_told(shared: Path) -> None:
    (words, *_) = told(setting(32_768), recorded(shared, "218-rpc-device-memory-auto-context"))
    assert "Ollama loaded 4096" in words
    assert "memory was too small" in words


def test_the_padding_of_a_small_context_is_no_difference(shared: Path) -> None:
    assert told(setting(64), recorded(shared, "069-num-ctx-small-padded")) == []


def test_slots_of_the_server_are_told(shared: Path) -> None:
    lines = recorded(shared, "147-num-parallel-4-load")
    assert told(setting(4096, 1024), lines) == ["Slots: 1 were meant, the runner has 4."]
    assert told(setting(4096, 1024, parallel=4), lines) == []


def test_layers_are_compared_with_what_the_engine_offloaded(shared: Path) -> None:
    lines = recorded(shared, "209-rpc-num-gpu-10")
    batch = last_load_command(lines)
    assert batch is not None
    assert batch.ubatch is not None
    asked = setting(batch.num_ctx or 0, batch.ubatch, gpu_layers=10)
    assert told(asked, lines) == []
    assert told(asked.with_(gpu_layers=12), lines) == ["Layers: 12 were asked for, 10 are on the GPU."]
    assert told(asked.with_(gpu_layers=None), lines) == [
        "Layers: Ollama's own placement was asked for, the runner was told 10."
    ]


def test_more_layers_than_there_are_are_all_of_them(shared: Path) -> None:
    lines = recorded(shared, "207-rpc-default-all-layers")
    report = parse_load(lines, NEW)
    assert report.offloaded_layers == report.total_layers == 19
    assert not [words for words in told(setting(32_768, 1024, gpu_layers=999), lines) if "Layers" in words]


@pytest.mark.parametrize(
    ("knobs", "command", "words"),
    [
        (setting(), RunnerCommand(ubatch=256), "Batch: 512 was meant, Ollama took 256."),
        (setting(), RunnerCommand(kv_type="q8_0"), "KV cache: f16 was meant, the runner has q8_0."),
        (setting(threads=4), RunnerCommand(threads=8), "Threads: 4 were asked for, the runner has 8."),
        (
            setting(mmap="on"),
            RunnerCommand(mmap=False),
            "Weights: mmap on was asked for, the runner has it off.",
        ),
    ],
)
def test_each_other_knob_is_compared(knobs: KnobValues, command: RunnerCommand, words: str) -> None:
    assert list(differences(knobs, LoadReport(num_ctx=4096), command, [], NEW)) == [words]


def test_what_nobody_tells_is_no_difference() -> None:
    assert list(differences(setting(threads=4, gpu_layers=3), LoadReport(), None, [], NEW)) == []


def test_layers_that_an_older_ollama_wrote_itself_are_its_own_placement() -> None:
    command = RunnerCommand(gpu_layers=20)
    assert list(differences(setting(), LoadReport(), command, [], "0.9.6")) == []


def test_the_context_is_settled_by_log_then_command_then_list() -> None:
    listed = Resident(name="a", context_length=1024)
    command = RunnerCommand(num_ctx=2048)
    assert settled_ctx(LoadReport(num_ctx=4096), command, listed) == 4096
    assert settled_ctx(LoadReport(), command, listed) == 2048
    assert settled_ctx(LoadReport(), None, listed) == 1024


def test_a_second_try_without_the_other_models_is_told(shared: Path) -> None:
    lines = recorded(shared, "171-fail-memory-evicts-others")
    assert any("unloaded every other model" in words for words in told(setting(), lines))
