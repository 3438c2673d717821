"""What happened, by the logs of every era: starts with their devices, loads with their end, requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.doctor.story import loads, requests, starts
from narthex.testing.evidence import evidence_of
from narthex.units import GIB, MIB

BLOB = "sha256-" + "87048bcd" * 8
ERAS = Path(__file__).parents[1] / "data/doctor/eras"


def _log(name: str) -> str:
    return (ERAS / f"{name}.log").read_text()


def test_era_a_has_only_the_engines_own_lines() -> None:
    (load,) = loads(evidence_of(ollama_log=_log("a")))
    assert (load.layers_on, load.layers_of, load.num_ctx, load.end) == (33, 33, 2048, "ready")
    assert load.kv_bytes == {"CUDA0": 1024 * MIB}
    assert load.weights_bytes["CUDA0"] == round(3577.56 * MIB)


def test_era_b_divides_the_context_by_its_slots() -> None:
    (load,) = loads(evidence_of(ollama_log=_log("b")))
    assert (load.model, load.num_ctx, load.parallel, load.batch) == (BLOB, 2048, 4, 512)
    assert (load.layers_on, load.layers_of, load.end, load.seconds) == (33, 33, "ready", 3.51)
    assert load.required_bytes == round(5.6 * GIB)
    assert load.available_bytes == 11 * GIB


def test_era_c_in_a_journal_whose_runner_has_its_own_number() -> None:
    (load,) = loads(evidence_of(ollama_log=_log("c")))
    assert (load.layers_on, load.layers_of, load.is_full, load.end) == (20, 29, False, "failed")
    assert load.error == "llama runner process has terminated: exit status 2"
    assert load.available_bytes == 15 * GIB
    assert load.entry.line == 2


def test_era_d_reads_the_model_twice_and_is_one_load() -> None:
    (load,) = loads(evidence_of(docker_log=_log("d")))
    assert (load.num_ctx, load.layers_on, load.end, load.seconds) == (4096, 29, "ready", 2.01)
    assert load.weights_bytes == {"CUDA0": round(4155.99 * MIB)}
    assert load.is_full


def test_era_e_tells_its_options_as_a_request() -> None:
    (load,) = loads(evidence_of(ollama_log=_log("e")))
    assert (load.model, load.num_ctx, load.parallel, load.gpu_layers) == (BLOB, 8192, 2, 25)
    assert load.weights_bytes == {"CUDA0": round(11.7 * GIB), "Host": round(1.1 * GIB)}
    assert load.kv_bytes == {"CUDA0": 300 * MIB}
    assert load.available_bytes == round(22.7 * GIB)
    assert load.command is not None
    assert load.command.kv_type == "q8_0"


def test_era_f_adds_both_caches_of_a_sliding_window_and_counts_discovery_as_no_load() -> None:
    (load,) = loads(evidence_of(ollama_log=_log("f")))
    assert (load.num_ctx, load.parallel, load.layers_on, load.seconds) == (8192, 2, 33, 2.31)
    assert load.kv_bytes == {"CUDA0": 612 * MIB}
    assert load.compute_bytes == {"CUDA0": 560 * MIB}


def test_a_llama_server_of_its_own_has_a_load_for_each_start() -> None:
    good, bad = loads(evidence_of(llama_server_log=_log("llama_server")))
    assert (good.model, good.layers_on, good.num_ctx, good.end) == ("/models/qwen.gguf", 10, 4096, "ready")
    assert (bad.model, bad.end) == ("/models/other.gguf", "failed")
    assert "deci" in bad.error


def test_loads_of_two_eras_one_after_the_other_stay_apart() -> None:
    evidence = evidence_of(ollama_log=_log("b") + _log("f") + _log("e"))
    assert [load.seconds for load in loads(evidence)] == [3.51, 2.31, 3.18]


def test_lines_of_loads_alone_still_tell_loads() -> None:
    """Of a long log only hits are kept; people paste only some lines."""
    ends = "\n".join(line for line in (_log("b") + _log("d")).splitlines() if "started in" in line)
    assert [load.end for load in loads(evidence_of(ollama_log=ends))] == ["ready", "ready"]
    layers = "load_tensors: offloaded 5/33 layers to GPU\nload_tensors: offloaded 33/33 layers to GPU\n"
    assert [load.layers_on for load in loads(evidence_of(ollama_log=layers))] == [5, 33]


def test_a_client_that_leaves_aborts_its_load() -> None:
    start = _log("e").splitlines()[1]
    text = f"""
    {start}
    level=WARN msg="client connection closed before server finished loading, aborting load"
    msg="Load failed" model={BLOB} error="timed out waiting for llama runner to start: context canceled"
    """
    (load,) = loads(evidence_of(ollama_log=text))
    assert (load.end, load.model) == ("aborted", BLOB)
    assert "context canceled" in load.error


def test_a_second_try_is_a_second_load() -> None:
    start = _log("f").splitlines()[1]
    text = f"""
    {start}
    llama_model_load: error loading model: unable to allocate CUDA0 buffer
    llama_model_load_from_file_impl: failed to load model
    level=WARN msg="llama-server load failed; reducing automatic context and retrying once"
    {start}
    level=INFO source=llama_server.go:1362 msg="llama-server started in 2.31 seconds"
    """
    assert [load.end for load in loads(evidence_of(ollama_log=text))] == ["failed", "ready"]


def test_each_start_has_its_devices_and_settings() -> None:
    first, second = starts(evidence_of(ollama_log=_log("starts")))
    assert first.version == "0.14.2"
    assert first.env["OLLAMA_KEEP_ALIVE"] == "10m0s"
    assert [(gpu.library, gpu.integrated) for gpu in first.gpus] == [("cuda", False), ("vulkan", True)]
    assert first.gpus[0].total_bytes == round(11.7 * GIB)
    assert second.only_cpu


def test_old_starts_name_the_card_otherwise() -> None:
    line = (
        'msg="inference compute" id=GPU-1 library=cuda variant=v12 compute=8.0 driver=12.4 '
        'name="NVIDIA A100-PCIE-40GB" total="39.4 GiB" available="2.3 GiB"'
    )
    (start,) = starts(evidence_of(ollama_log=f"level=INFO source=types.go:130 {line}"))
    assert (start.gpus[0].name, start.gpus[0].available_bytes) == ("NVIDIA A100-PCIE-40GB", round(2.3 * GIB))


def test_requests_are_read_with_their_durations() -> None:
    one, other = requests(
        evidence_of(
            ollama_log="""
            [GIN] 2026/08/21 - 18:50:01 | 200 |  2.345678901s |       127.0.0.1 | POST     "/api/chat"
            [GIN] 2026/08/21 - 18:55:01 | 404 |      152.3µs |      172.18.0.3 | GET      "/api/tags?x=1"
            """
        )
    )
    assert (one.status, one.client, one.path, one.works) == (200, "127.0.0.1", "/api/chat", True)
    assert one.seconds == pytest.approx(2.345678901)
    assert (other.path, other.works) == ("/api/tags", False)


def test_a_real_log_of_a_whole_session(shared: Path) -> None:
    """One start, and a load for each «starting llama-server» with a model."""
    text = (shared / "ollama-wire/server-healthy.log").read_text()
    evidence = evidence_of(ollama_log=text)
    rows = loads(evidence)
    assert len(rows) == text.count('msg="starting llama-server" cmd="/usr/lib/ollama/llama-server --model')
    assert {load.end for load in rows} == {"ready", "aborted"}
    assert all(load.num_ctx for load in rows)
    assert len(starts(evidence)) == 1
    assert len(requests(evidence)) == text.count("[GIN]")
