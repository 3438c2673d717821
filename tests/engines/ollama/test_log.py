"""Ollama's log in its own words: lines of every era, written after its sources; torn lines, carriers."""

from __future__ import annotations

import pytest

from narthex.engines._base import DeviceBuffers, EngineDevice, LoadReport
from narthex.engines.ollama.entries import entries
from narthex.engines.ollama.log import (
    access_lines,
    compute_devices,
    default_ctx_line,
    is_start,
    last_load_command,
    parse_load,
    raw_lines,
    runner_command,
    server_config,
)
from narthex.units import GIB, MIB

BLOB = "5ff0abeeac1d2dbdd5455c0b49ba3b29a9ce3c1fb181b2eef2e948689d55d046"
PATH = f"/root/.ollama/models/blobs/sha256-{BLOB}"
TIME = "time=2026-08-21T18:48:22.123Z level=INFO source=server.go:1"


def own(msg: str, rest: str = "") -> str:
    return f'{TIME} msg="{msg}" {rest}'.rstrip()


F_START = own(
    "starting llama-server",
    f'cmd="/usr/lib/ollama/llama-server --model {PATH} --port 40123 --host 127.0.0.1 -c 8192 -np 2 '
    '--flash-attn auto --cache-type-k q8_0 --cache-type-v q8_0 -b 512 -ub 512 -ngl 33 -t 8"',
)
F_LOAD = [
    F_START,
    "llama_prepare_model_devices: using device CUDA0 (NVIDIA RTX 4070) (0000:01:00.0) - 10990 MiB free",
    "load_tensors: offloaded 33/33 layers to GPU",
    "load_tensors:   CPU_Mapped model buffer size =   308.23 MiB",
    "load_tensors:        CUDA0 model buffer size =  4155.99 MiB",
    "llama_context: n_seq_max     = 2",
    "llama_context: n_ctx         = 8192",
    "llama_context: n_ctx_seq     = 4096",
    "llama_context: n_ubatch      = 512",
    "llama_kv_cache:      CUDA0 KV buffer size =   272.00 MiB",
    "resolve_fused_ops: Flash Attention enabled",
    "sched_reserve:      CUDA0 compute buffer size =   258.50 MiB",
    "sched_reserve:  CUDA_Host compute buffer size =    16.01 MiB",
    own("llama-server started in 2.31 seconds"),
]


def test_a_load_of_era_f_is_read_from_the_runners_own_lines() -> None:
    report = parse_load(F_LOAD, "0.33.0")
    assert report == LoadReport(
        buffers=(
            DeviceBuffers(
                device="CUDA0",
                model_bytes=round(4155.99 * MIB),
                context_bytes=272 * MIB,
                compute_bytes=round(258.5 * MIB),
            ),
            DeviceBuffers(device="Host", model_bytes=round(308.23 * MIB), compute_bytes=round(16.01 * MIB)),
        ),
        offloaded_layers=33,
        total_layers=33,
        num_ctx=4096,
        ubatch=512,
        flash_attn=True,
    )


def test_the_last_load_counts_and_what_stood_before_is_forgotten() -> None:
    smaller = F_START.replace("-c 8192", "-c 512").replace("-np 2", "-np 1")
    lines = [*F_LOAD, smaller, "load_tensors:          CPU model buffer size =   100.00 MiB"]
    report = parse_load(lines, "0.33.0")
    assert report.buffers == (DeviceBuffers(device="Host", model_bytes=100 * MIB),)
    assert report.offloaded_layers is None
    command = last_load_command(lines)
    assert command is not None
    assert (command.num_ctx, command.parallel) == (512, 1)


def test_a_line_torn_by_ollamas_own_is_put_together() -> None:
    torn = "load_tensors:        CUDA0 model buffer "
    lines = [
        F_START,
        torn + own("waiting for llama-server to become available", 'status="llm server loading model"'),
        '[GIN] 2026/08/21 - 18:48:22 | 200 |  1m23s |  127.0.0.1 | GET  "/api/ps"',
        "size =  4155.99 MiB",
        "load_tensors: offloaded 33/33 lay",
    ]
    assert raw_lines(lines) == [
        "load_tensors:        CUDA0 model buffer size =  4155.99 MiB",
        "load_tensors: offloaded 33/33 lay",
    ]
    assert parse_load(lines, "0.33.0").buffers == (
        DeviceBuffers(device="CUDA0", model_bytes=round(4155.99 * MIB)),
    )


@pytest.mark.parametrize(
    "carrier",
    [
        "Feb  6 20:35:15 host ollama[2704]: ",
        "[pod/ollama-7447d8475b-6lqcp/ollama] ",
        "ollama-1  | ",
        "2026-08-21T18:48:22.123456789Z ",
    ],
)
def test_what_carried_the_log_here_does_not_matter(carrier: str) -> None:
    assert parse_load([carrier + line for line in F_LOAD], "0.33.0") == parse_load(F_LOAD, "0.33.0")


@pytest.mark.parametrize("buffer", ["AMX", "CPU", "CPU_Mapped", "BLAS", "CUDA_Host"])
def test_layers_on_a_gpu_without_a_buffer_there_are_not_believed(buffer: str) -> None:
    lines = [
        F_START,
        "load_tensors: offloaded 33/33 layers to GPU",
        f"load_tensors:  {buffer} model buffer size =   213.91 MiB",
    ]
    report = parse_load(lines, "0.33.0")
    assert (report.offloaded_layers, report.total_layers) == (0, 33)
    assert any("33/33" in gap and "main memory" in gap for gap in report.gaps)


def test_another_runner_that_answers_meanwhile_does_not_count() -> None:
    other = "slot   operator(): id  0 | task 0 | new prompt, n_ctx_slot = 512, n_keep = 4, task.n_tokens = 4"
    assert parse_load([*F_LOAD, other], "0.33.0") == parse_load(F_LOAD, "0.33.0")


def test_a_log_without_buffer_lines_says_so() -> None:
    (gap,) = parse_load([F_START], "0.33.0").gaps
    assert "no line about buffers" in gap
    assert "may be cut" in gap


def test_a_log_in_which_no_load_starts_says_so() -> None:
    report = parse_load(F_LOAD[1:], "0.33.0")
    assert report.offloaded_layers == 33
    assert any("no line that starts this load" in gap for gap in report.gaps)
    assert last_load_command(F_LOAD[1:]) is None


def test_nothing_at_all() -> None:
    report = parse_load([], "0.33.0")
    assert report.buffers == ()
    assert report.offloaded_layers is None
    assert len(report.gaps) == 2


E_REQUEST = (
    "{Operation:commit LoraPath:[] Parallel:2 BatchSize:512 FlashAttention:true KvSize:8192 KvCacheType:q8_0 "
    "NumThreads:8 GPULayers:20[ID:GPU-1a Layers:12(0..11) ID:GPU-2b Layers:8(12..19)] MultiUserCache:false "
    "ProjectorPath: MainGPU:0 UseMmap:false}"
)
E_LOAD = [
    own("starting runner", f'cmd="/usr/bin/ollama runner --ollama-engine --model {PATH} --port 41111"'),
    f'{TIME} msg=load request="{E_REQUEST.replace("commit", "fit").replace("20[", "49[")}"',
    f'{TIME} msg=load request="{E_REQUEST}"',
    own("offloaded 20/49 layers to GPU"),
    own("model weights", 'device=CUDA0 size="4.3 GiB"'),
    own("model weights", 'device=CPU size="512.0 MiB"'),
    own("kv cache", 'device=CUDA0 size="1.0 GiB"'),
    own("compute graph", 'device=CUDA0 size="128.0 MiB"'),
    own("compute graph", 'device=CPU size="5.0 MiB"'),
    own("total memory", 'size="5.9 GiB"'),
    f'{TIME} msg=load request="{{Operation:close LoraPath:[] Parallel:0 KvSize:0 GPULayers:[]}}"',
]


def test_a_load_of_era_e_is_read_from_the_layout() -> None:
    report = parse_load(E_LOAD, "0.12.11")
    assert report == LoadReport(
        buffers=(
            DeviceBuffers(
                device="CUDA0",
                model_bytes=round(4.3 * GIB),
                context_bytes=GIB,
                compute_bytes=128 * MIB,
            ),
            DeviceBuffers(device="Host", model_bytes=512 * MIB, compute_bytes=5 * MIB),
        ),
        coarse=True,
        offloaded_layers=20,
        total_layers=49,
        num_ctx=4096,
        ubatch=512,
        flash_attn=True,
    )


def test_the_setting_of_era_e_stands_in_the_load_request() -> None:
    command = last_load_command(E_LOAD)
    assert command is not None
    assert (command.blob, command.port, command.path) == (BLOB, 41111, PATH)
    assert (command.num_ctx, command.parallel, command.batch, command.ubatch) == (4096, 2, 512, 512)
    assert (command.gpu_layers, command.kv_type, command.flash_attn) == (20, "q8_0", "on")
    assert (command.threads, command.mmap) == (8, False)


@pytest.mark.parametrize(
    ("layers", "count"),
    [("[]", 0), ("33[ID:GPU-1a Layers:33(0..32)]", 33), ("", None)],
)
def test_layers_of_a_load_request(layers: str, count: int | None) -> None:
    request = f"{{Operation:alloc Parallel:1 KvSize:4096 KvCacheType: GPULayers:{layers} UseMmap:true}}"
    command = last_load_command([E_LOAD[0], f'{TIME} msg=load request="{request}"'])
    assert command is not None
    assert command.gpu_layers == count
    assert (command.kv_type, command.mmap, command.flash_attn) == ("f16", True, None)


def test_a_command_line_of_era_e_alone_leaves_the_setting_unknown() -> None:
    command = runner_command(f"/usr/bin/ollama runner --model {PATH} --port 41111".split())
    assert command.blob == BLOB
    assert (command.num_ctx, command.kv_type, command.flash_attn, command.mmap) == (None,) * 4


def test_a_llama_engine_of_era_e_prints_its_own_buffers() -> None:
    lines = [
        *E_LOAD[:3],
        own("model weights", 'device=CUDA0 size="4.3 GiB"'),
        "load_tensors: offloaded 33/33 layers to GPU",
        "load_tensors:        CUDA0 model buffer size =  4155.99 MiB",
    ]
    report = parse_load(lines, "0.13.0")
    assert report.buffers == (DeviceBuffers(device="CUDA0", model_bytes=round(4155.99 * MIB)),)
    assert report.offloaded_layers == 33


D_OFFLOAD = (
    f'{TIME} msg=offload library=cuda layers.requested=-1 layers.model=33 layers.offload=28 layers.split="" '
    'memory.available="[7.6 GiB]" memory.gpu_overhead="0 B" memory.required.full="9.1 GiB" '
    'memory.required.partial="7.5 GiB" memory.required.kv="1.0 GiB"'
)
D_START = own(
    "starting llama server",
    f'cmd="/usr/bin/ollama runner --model {PATH} --ctx-size 8192 --batch-size 512 --n-gpu-layers 28 '
    '--threads 8 --flash-attn --kv-cache-type q8_0 --no-mmap --parallel 4 --port 46215"',
)


def test_a_load_of_era_d_without_buffer_lines_is_an_estimate_and_says_so() -> None:
    report = parse_load([D_OFFLOAD, D_START], "0.6.8")
    assert report.buffers == ()
    assert (report.offloaded_layers, report.total_layers) == (28, 33)
    assert (report.num_ctx, report.ubatch, report.flash_attn) == (2048, 512, True)
    (gap,) = report.gaps
    assert "9.1 GiB" in gap
    assert "0.6.8" in gap


def test_the_estimate_of_an_earlier_load_is_not_of_this_one() -> None:
    report = parse_load([D_OFFLOAD, D_START, D_START], "0.6.8")
    assert report.offloaded_layers is None


def test_a_load_of_era_d_with_its_llama_engine() -> None:
    lines = [
        D_OFFLOAD,
        D_START,
        "load_tensors: offloaded 28/33 layers to GPU",
        "load_tensors:        CUDA0 model buffer size =  3577.56 MiB",
        "load_tensors:   CPU_Mapped model buffer size =  1000.00 MiB",
        "llama_context: n_ctx         = 8192",
        "llama_kv_cache_unified:      CUDA0 KV buffer size =   816.00 MiB",
        "llama_context:      CUDA0 compute buffer size =   560.00 MiB",
    ]
    report = parse_load(lines, "0.9.6")
    assert [row.device for row in report.buffers] == ["CUDA0", "Host"]
    assert report.buffers[0].context_bytes == 816 * MIB
    assert report.num_ctx == 2048
    assert report.gaps == ()


def test_a_load_of_era_d_with_ollamas_engine_names_buffers_otherwise() -> None:
    lines = [
        D_OFFLOAD,
        D_START,
        own("offloaded 28/33 layers to GPU"),
        own("model weights", 'buffer=CUDA0 size="3.1 GiB"'),
        own("model weights", 'buffer=CPU size="1.0 GiB"'),
        own("compute graph", 'backend=CUDA0 buffer_type=CUDA0 size="1.1 GiB"'),
    ]
    report = parse_load(lines, "0.6.8")
    assert [(row.device, row.model_bytes, row.compute_bytes) for row in report.buffers] == [
        ("CUDA0", round(3.1 * GIB), round(1.1 * GIB)),
        ("Host", GIB, 0),
    ]


C_START = own(
    "starting llama server",
    f'cmd="/tmp/ollama3383558217/runners/cuda_v11/ollama_llama_server --model {PATH} --ctx-size 40480 '
    '--batch-size 512 --embedding --log-disable --n-gpu-layers 6 --no-mmap --parallel 1 --port 46215"',
)


@pytest.mark.parametrize("version", ["0.3.6", "0.5.1", "0.0.0"])
def test_a_load_of_eras_b_and_c(version: str) -> None:
    offload = D_OFFLOAD.replace("msg=offload", 'msg="offload to cuda"')
    lines = [
        offload,
        C_START,
        "llm_load_tensors: offloaded 6/33 layers to GPU",
        "llm_load_tensors:        CPU buffer size =  4300.00 MiB",
        "llm_load_tensors:      CUDA0 buffer size =  1885.09 MiB",
        "llama_new_context_with_model: n_ctx      = 40480",
        "llama_kv_cache_init:        CPU KV buffer size =  8301.56 MiB",
        "llama_kv_cache_init:      CUDA0 KV buffer size =  2371.88 MiB",
        "llama_new_context_with_model:      CUDA0 compute buffer size =   560.00 MiB",
    ]
    report = parse_load(lines, version)
    assert report.buffers[0] == DeviceBuffers(
        device="CUDA0",
        model_bytes=round(1885.09 * MIB),
        context_bytes=round(2371.88 * MIB),
        compute_bytes=560 * MIB,
    )
    assert (report.offloaded_layers, report.total_layers, report.num_ctx) == (6, 33, 40480)
    command = last_load_command(lines)
    assert command is not None
    assert (command.gpu_layers, command.mmap, command.flash_attn, command.ubatch) == (6, False, "off", 512)


def test_an_offload_line_of_early_2024_counts_layers_elsewhere() -> None:
    lines = [
        own("offload to gpu", 'layers.real=-1 layers.estimate=33 memory.required.full="5.6 GiB"'),
        C_START,
    ]
    report = parse_load(lines, "0.1.38")
    assert report.offloaded_layers is None
    assert "5.6 GiB" in report.gaps[0]


def test_a_command_line_of_the_process_list_has_whole_words() -> None:
    argv = ["/x/llama-server", "--model", f"/my models/sha256-{BLOB}", "-c", "64", "-np", "1", "-b", "-5"]
    command = runner_command(argv)
    assert command.path == f"/my models/sha256-{BLOB}"
    assert runner_command(" ".join(argv).split(" ")) == command
    assert (command.num_ctx, command.batch, command.mmap, command.flash_attn) == (64, None, True, "off")


@pytest.mark.parametrize(
    ("words", "mmap"),
    [
        ("--load-mode none", False),
        ("--load-mode dio", False),
        ("--load-mode mmap", True),
        ("--no-mmap", False),
        ("--mmap", True),
        ("", True),
    ],
)
def test_how_the_weights_are_read(words: str, mmap: bool) -> None:
    assert runner_command(["llama-server", "-c", "64", *words.split()]).mmap is mmap


@pytest.mark.parametrize("words", ["", "llama-server", "ollama serve", "--model"])
def test_a_command_line_that_tells_nothing(words: str) -> None:
    command = runner_command(words.split())
    assert (command.blob, command.port, command.num_ctx, command.gpu_layers) == (None,) * 4


CONFIG = own(
    "server config",
    'env="map[CUDA_VISIBLE_DEVICES: HTTPS_PROXY:http://me:secret@proxy OLLAMA_CONTEXT_LENGTH:0 '
    "OLLAMA_EDITOR:code --wait OLLAMA_HOST:http://[::1]:11434 OLLAMA_KV_CACHE_TYPE:q8_0 "
    'OLLAMA_ORIGINS:[http://localhost app://* http://[::1]:*] OLLAMA_NUM_PARALLEL:4 no_proxy:]"',
)


def test_the_environment_is_taken_from_a_go_map() -> None:
    config = server_config([CONFIG.replace("OLLAMA_NUM_PARALLEL:4", "OLLAMA_NUM_PARALLEL:1"), CONFIG])
    assert config["OLLAMA_NUM_PARALLEL"] == "4"
    assert config["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert config["OLLAMA_EDITOR"] == "code --wait"
    assert config["OLLAMA_HOST"] == "http://[::1]:11434"
    assert config["CUDA_VISIBLE_DEVICES"] == ""
    assert config["OLLAMA_ORIGINS"] == "http://localhost,app://*,http://[::1]:*"
    assert "secret" not in str(config)
    assert server_config(F_LOAD) == {}


DEVICES = {
    "0.1.38": 'id=GPU-1a library=cuda compute=8.6 driver=12.4 name="NVIDIA A40" total="44.4 GiB" '
    'available="44.2 GiB"',
    "0.6.8": 'id=GPU-1a library=cuda variant=v12 compute=8.6 driver=12.4 name="NVIDIA A40" total="44.4 GiB" '
    'available="44.2 GiB"',
    "0.12.4": 'id=GPU-1a library=CUDA compute=8.6 name=CUDA0 description="NVIDIA A40" libdirs=ollama '
    'driver=13.0 pci_id=01:00.0 type=discrete total="44.4 GiB" available="44.2 GiB"',
    "0.33.0": 'id=0 filter_id="" library=CUDA compute=8.6 name=CUDA0 description="NVIDIA A40" '
    'libdirs=ollama,cuda_v13 driver=13.0 pci_id=0000:01:00.0 type=discrete total="44.4 GiB" '
    'available="44.2 GiB"',
}


@pytest.mark.parametrize("version", sorted(DEVICES))
def test_devices_of_every_version_are_called_as_the_engine_calls_them(version: str) -> None:
    device = EngineDevice(
        name="CUDA0",
        description="NVIDIA A40",
        total_bytes=round(44.4 * GIB),
        free_bytes=round(44.2 * GIB),
    )
    assert compute_devices([own("inference compute", DEVICES[version])]) == (device,)


def test_a_second_device_and_a_second_start() -> None:
    line = own("inference compute", DEVICES["0.6.8"])
    assert [device.name for device in compute_devices([line, line])] == ["CUDA0", "CUDA1"]
    assert len(compute_devices([line, CONFIG, line])) == 1


def test_the_cpu_is_no_device() -> None:
    assert compute_devices([own("inference compute", 'id=cpu library=cpu total="23.5 GiB"')]) == ()


def test_the_default_context_by_video_memory() -> None:
    line = own("vram-based default context", 'total_vram="23.5 GiB" default_num_ctx=32768')
    assert default_ctx_line([line.replace("32768", "4096"), line]) == 32768
    assert default_ctx_line(F_LOAD) is None


def test_fields_are_read_without_gos_quotes() -> None:
    (entry,) = entries([own("Load failed", r'error="exit status 1: \"a\"\nb \u0026 \x1b" "model layers"=33')])
    assert entry.fields == {"error": 'exit status 1: "a"\nb & \x1b', "model layers": "33"}
    (plain,) = entries(["2026/11/22 11:23:29 config.go:263: WARN invalid environment variable key=X"])
    assert (plain.level, plain.msg) == ("WARN", "invalid environment variable key=X")


def test_the_access_log() -> None:
    times = {
        "1m23s": 83.0,
        "152.3µs": 152.3e-6,
        "3.02ms": 3.02e-3,
        "1.865663248s": 1.865663248,
        "2h0m1s": 7201.0,
    }
    for text, seconds in times.items():
        (line,) = access_lines(
            [f'[GIN] 2026/11/22 - 11:22:36 | 499 |  {text} |  127.0.0.1 | POST     "/api/generate"']
        )
        assert (line.status, line.method, line.path, line.client) == (
            499,
            "POST",
            "/api/generate",
            "127.0.0.1",
        )
        assert line.seconds == pytest.approx(seconds)


def test_the_start_of_a_runner_is_known_in_every_era() -> None:
    for words in ("starting llama-server", "starting llama server", "starting runner"):
        assert is_start(f'time=2026-11-22T11:19:20.845Z level=INFO source=x.go:1 msg="{words}" cmd="x"')
    assert not is_start('msg="llama-server started in 1.26 seconds"')
