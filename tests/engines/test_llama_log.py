"""Load reports from logs of several years: captured ones in tests/data/engines, and single lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.engines._base import DeviceBuffers, LoadReport
from narthex.engines.llama_log import device_of, parse_load
from narthex.units import MIB

DATA = Path(__file__).resolve().parents[1] / "data" / "engines"


def captured(name: str) -> LoadReport:
    return parse_load((DATA / f"{name}.log").read_text().splitlines())


def mib(report: LoadReport) -> dict[str, tuple[int, int, int]]:
    """Device → model, context, compute in whole MiB."""
    return {
        row.device: (
            round(row.model_bytes / MIB),
            round(row.context_bytes / MIB),
            round(row.compute_bytes / MIB),
        )
        for row in report.buffers
    }


def test_a_split_over_a_device_and_main_memory() -> None:
    report = captured("load_rpc_split")
    assert mib(report) == {"RPC0": (235, 86, 140), "Host": (170, 0, 84)}
    assert (report.offloaded_layers, report.total_layers) == (19, 19)
    assert (report.num_ctx, report.ubatch, report.flash_attn) == (16384, 2048, True)
    assert report.fit is None


def test_both_caches_of_a_sliding_window_model_count() -> None:
    assert captured("load_rpc_split").buffers[0].context_bytes == round((48 + 37.5) * MIB)


def test_a_load_on_the_cpu_with_the_engines_own_placement() -> None:
    report = captured("load_cpu_fit")
    assert mib(report) == {"Host": (248, 27, 23)}
    assert report.num_ctx == 4096
    assert report.fit is not None
    assert "no changes needed" in report.fit


def test_a_build_of_early_2024() -> None:
    report = parse_load(
        [
            "llm_load_tensors: offloading 28 repeating layers to GPU",
            "llm_load_tensors: offloaded 28/33 layers to GPU",
            "llm_load_tensors:        CPU buffer size =   315.30 MiB",
            "llm_load_tensors:      CUDA0 buffer size =  3577.56 MiB",
            "llama_new_context_with_model: n_ctx      = 8192",
            "llama_new_context_with_model: n_ubatch   = 512",
            "llama_new_context_with_model: flash_attn = 0",
            "llama_kv_cache_init:      CUDA0 KV buffer size =   896.00 MiB",
            "llama_kv_cache_init:  CUDA_Host KV buffer size =   128.00 MiB",
            "llama_new_context_with_model: KV self size  = 1024.00 MiB, K (f16):  512.00 MiB",
            "llama_new_context_with_model:  CUDA_Host  output buffer size =     0.12 MiB",
            "llama_new_context_with_model:      CUDA0 compute buffer size =   560.00 MiB",
            "llama_new_context_with_model:  CUDA_Host compute buffer size =    24.01 MiB",
        ]
    )
    assert mib(report) == {"CUDA0": (3578, 896, 560), "Host": (315, 128, 24)}
    assert (report.offloaded_layers, report.total_layers) == (28, 33)
    assert (report.num_ctx, report.ubatch, report.flash_attn) == (8192, 512, False)


def test_a_build_of_2025_with_slots_and_a_recurrent_state() -> None:
    report = parse_load(
        [
            "load_tensors:        CUDA0 model buffer size =  1000.00 MiB",
            "load_tensors:        CUDA1 model buffer size =  2000.00 MiB",
            "llama_context: constructing llama_context",
            "llama_context: n_seq_max     = 4",
            "llama_context: n_ctx         = 16384",
            "llama_context: n_ctx_per_seq = 4096",
            "llama_kv_cache_unified:      CUDA0 KV buffer size =   100.00 MiB",
            "llama_memory_recurrent:      CUDA1 RS buffer size =    50.00 MiB",
            "llama_context: Flash Attention was auto, set to enabled",
            "llama_context:      CUDA0 compute buffer size =   10.00 MiB",
            "llama_context:      CUDA1 compute buffer size =   20.00 MiB",
        ]
    )
    assert mib(report) == {"CUDA0": (1000, 100, 10), "CUDA1": (2000, 50, 20)}
    assert report.num_ctx == 4096
    assert report.flash_attn is True


def test_the_context_of_a_slot_is_worked_out_where_it_is_not_told() -> None:
    lines = ["llama_init_from_model: n_seq_max     = 4", "llama_init_from_model: n_ctx         = 16384"]
    assert parse_load(lines).num_ctx == 4096


def test_a_dry_run_before_the_load_does_not_count() -> None:
    once = [
        "llama_model_loader: loaded meta data with 33 key-value pairs and 236 tensors from m.gguf",
        "load_tensors:        CUDA0 model buffer size =  1000.00 MiB",
        "llama_context: constructing llama_context",
        "llama_kv_cache:      CUDA0 KV buffer size =   100.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =   10.00 MiB",
    ]
    assert mib(parse_load([*once, *once])) == {"CUDA0": (1000, 100, 10)}
    second_context = [line.replace("100.00", "200.00") for line in once[2:]]
    assert mib(parse_load([*once, *second_context])) == {"CUDA0": (1000, 200, 10)}


def test_compute_buffers_that_were_reserved_again_count_once() -> None:
    lines = [f"sched_reserve:      CUDA0 compute buffer size =   {size}.00 MiB" for size in (900, 560)]
    assert mib(parse_load(lines)) == {"CUDA0": (0, 0, 560)}


def test_what_the_engines_own_placement_decided_is_kept_in_its_words() -> None:
    report = parse_load(
        [
            "common_params_fit_impl: cannot meet free memory target of 1024 MiB, need to reduce it by 9 MiB",
            "common_params_fit_impl: set ngl_per_device[0].n_layer=28",
            "common_params_fit_impl:   - CUDA0 (NVIDIA RTX): 28 layers,   9100 MiB used,   1050 MiB free",
            "common_fit_params: successfully fit params to free device memory",
        ]
    )
    assert report.fit is not None
    assert "28 layers" in report.fit
    assert "ngl_per_device" not in report.fit


def test_a_silent_build_gives_none_and_no_zeros() -> None:
    assert parse_load(["main: server is listening"]) == LoadReport()


@pytest.mark.parametrize(
    ("buffer", "device"),
    [
        ("CUDA0", "CUDA0"),
        ("RPC0[127.0.0.1:50052]", "RPC0"),
        ("CUDA0_Split", "CUDA0"),
        ("CPU", "Host"),
        ("CPU_Mapped", "Host"),
        ("CPU_REPACK", "Host"),
        ("CPU_AARCH64", "Host"),
        ("AMX", "Host"),
        ("CUDA_Host", "Host"),
        ("Vulkan_Host", "Host"),
        ("Metal_Mapped", "Metal"),
    ],
)
def test_every_kind_of_main_memory_is_the_host(buffer: str, device: str) -> None:
    assert device_of(buffer) == device


def loads_of(recording: Path) -> Iterator[list[str]]:
    """The log of each llama-server start in an Ollama recording that came to its compute buffers."""
    lines: list[str] = json.loads(recording.read_text())["server_log"]
    starts = [index for index, line in enumerate(lines) if 'msg="starting llama-server"' in line]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if any("graph splits" in line for line in lines[start:end]):
            yield lines[start:end]


def test_recorded_loads_agree_with_the_engines_own_memory_table(shared: Path) -> None:
    """The table is printed by the dry run and holds what the buffers then take."""
    seen = 0
    for recording in sorted((shared / "ollama-wire").glob("*.json")):
        if recording.name[:3] not in ("030", "061", "067", "147", "153"):
            continue
        for lines in loads_of(recording):
            report = parse_load(lines)
            host = next((row for row in report.buffers if row.device == "Host"), DeviceBuffers(device="Host"))
            table = [line for line in lines if "memory_breakdown_print: |   - Host" in line]
            numbers = [int(word) for word in table[0].replace("=", " ").split() if word.isdigit()]
            assert abs(numbers[2] - host.context_bytes / MIB) <= 1
            assert abs(numbers[3] - host.compute_bytes / MIB) <= 1
            seen += 1
    assert seen > 3


def test_a_healthy_recorded_load_is_read_whole(shared: Path) -> None:
    lines = (shared / "ollama-wire" / "server-healthy.log").read_text().splitlines()
    report = parse_load(lines)
    assert report.buffers
    assert report.num_ctx
    assert report.flash_attn is not None


def test_experts_that_the_engine_left_in_main_memory_are_seen() -> None:
    def splits(words: str) -> bool:
        line = f"common_params_fit_impl:   - CUDA0 (RTX): 49 layers{words},   9100 MiB used,   1050 MiB free"
        return parse_load([line]).splits_layers

    assert splits(" (30 overflowing)")
    assert not splits(" ( 0 overflowing)")
    assert not splits("")
