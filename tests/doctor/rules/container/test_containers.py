"""A container and its GPU: never asked for, not to be had, or lost on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding

First = Callable[..., Finding]
Causes = Callable[..., list[str]]
Says = Callable[..., list[Finding]]

CPU_START = (
    'time=2026-01-29T10:00:00Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.15.2)"\n'
    'time=2026-01-29T10:00:00Z level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu '
    'description=cpu libdirs=ollama driver="" pci_id="" type="" total="62.7 GiB" available="55.0 GiB"\n'
)
GPU_START = (
    'time=2026-01-28T10:00:00Z level=INFO msg="Listening on 127.0.0.1:11434 (version'
    ' 0.15.2)"\ntime=2026-01-28T10:00:00Z level=INFO msg="inference compute" id=GPU-a library=CUDA'
    ' compute=8.6 name=CUDA0 description="RTX 3090" total="23.7 GiB" available="23.3 GiB"\n'
)
HOST_CARD = "$ nvidia-smi -L\nGPU 0: NVIDIA GeForce RTX 3080 (UUID: GPU-1234)\n"
NO_SMI = (
    "$ docker exec -it ollama nvidia-smi\nOCI runtime exec failed: exec failed: unable to start container"
    ' process: exec: "nvidia-smi": executable file not found in $PATH: unknown\n'
)

NEVER_ASKED = {
    "nvidia-smi is not there inside": {"docker_log": CPU_START, "commands": NO_SMI},
    "docker run without --gpus": {
        "docker_log": CPU_START,
        "commands": (
            "$ docker run -d -v ollama:/root/.ollama -p 11434:11434 --name ollama ollama/ollama\n" + HOST_CARD
        ),
    },
    "docker inspect": {"docker_log": CPU_START, "commands": '            "DeviceRequests": null,\n'},
    "docker inspect with a format": {
        "docker_log": CPU_START,
        "commands": "$ docker inspect -f '{{json .HostConfig.DeviceRequests}}' ollama\nnull\n",
    },
    "asked for, and ignored": {
        "docker_log": CPU_START,
        "commands": "    capabilities: [gpu]\n" + NO_SMI,
    },
    "docker inspect with jq": {
        "docker_log": CPU_START,
        "commands": "$ docker inspect ollama | jq '.[0].HostConfig.DeviceRequests'\n\nnull\n",
    },
    "in one line": {"docker_log": CPU_START, "commands": "HostConfig.DeviceRequests → []\n"},
    "the host has a card": {"docker_log": CPU_START, "commands": HOST_CARD},
    "the image's banner": {
        "docker_log": (
            "WARNING: The NVIDIA Driver was not detected.  GPU functionality will not be available.\n"
        )
    },
}


@pytest.mark.parametrize("texts", NEVER_ASKED.values(), ids=NEVER_ASKED)
def test_a_container_that_was_made_without_a_gpu(first: First, texts: dict[str, str]) -> None:
    assert first(**texts).cause == "container_started_without_gpu"


def test_its_name_stands_in_the_check(first: First) -> None:
    finding = first(**NEVER_ASKED["docker run without --gpus"])
    assert finding.remedy.verify_commands[0].argv == ("docker", "exec", "ollama", "nvidia-smi", "-L")


WELL = {
    "a host without a GPU": {"docker_log": CPU_START},
    "a GPU in use": {"docker_log": GPU_START, "commands": HOST_CARD},
    "asked for": {
        "docker_log": GPU_START,
        "commands": "$ docker run -d --gpus=all --name ollama ollama/ollama\n" + HOST_CARD,
    },
    "a reload of units": {
        "dmesg": "systemd[1]: Reloading requested from client PID 7 ('systemctl')\nsystemd[1]: Reloading...\n"
    },
}


@pytest.mark.parametrize("texts", WELL.values(), ids=WELL)
def test_what_is_as_it_should_be(causes: Causes, texts: dict[str, str]) -> None:
    assert causes(**texts) == []


def test_a_gpu_that_was_asked_for_and_fails_is_another_cause(causes: Causes) -> None:
    log = (
        CPU_START.replace("id=cpu", "id=cpu")
        + 'level=WARN msg="unknown error initializing cuda driver library /usr/lib/libcuda.so.575: cuda'
        ' driver library init failure: 999"\n'
    )
    assert "container_started_without_gpu" not in causes(docker_log=log, commands=HOST_CARD)


def container(**more: object) -> Reading:
    value = {
        "role": "ollama",
        "image": "ollama/ollama",
        "state": "running",
        "gpu_request": [],
        "runtime": "runc",
    }
    return Reading(name="container", about="chat", value={**value, **more}, text="chat runs, asks for no GPU")


CARDS = Reading(name="gpu.count", value=1, text="NVML lists 1 card")


def test_docker_itself_tells_that_nobody_asked(first: First) -> None:
    finding = first((container(), CARDS))
    assert finding.cause == "container_started_without_gpu"
    assert finding.about == "chat"
    assert finding.remedy.verify_commands[0].argv[2] == "chat"


@pytest.mark.parametrize(
    "row",
    [
        container(gpu_request=["all"]),
        container(runtime="nvidia"),
        container(image="ollama/ollama:rocm"),
        container(state="exited"),
        container(role="openwebui"),
    ],
    ids=["asked", "runtime", "ROCm image", "not running", "not an engine"],
)
def test_other_containers_are_left_in_peace(causes: Causes, row: Reading) -> None:
    assert causes((row, CARDS)) == []


def test_a_default_runtime_gives_the_gpu_too(causes: Causes) -> None:
    default = Reading(
        name="docker.default_runtime", value="nvidia", text="Docker's default runtime is nvidia"
    )
    assert causes((container(), CARDS, default)) == []


def test_a_machine_without_a_card_needs_no_request(causes: Causes) -> None:
    assert causes((container(), Reading(name="gpu.count", value=0, text="NVML lists no card"))) == []


REFUSED = {
    "no driver": (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].'
    ),
    "no driver, Compose": (
        'Error response from daemon: could not select device driver "nvidia" with capabilities: [[compute'
        " utility]]"
    ),
    "no library": (
        "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open"
        " shared object file"
    ),
    "no runtime": "docker: Error response from daemon: unknown or invalid runtime name: nvidia.",
    "no runtime, older": "docker: Error response from daemon: Unknown runtime specified nvidia.",
    "CDI": "Error response from daemon: failed to discover GPU vendor from CDI: no known GPU vendor found",
    "Podman": "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
    "WSL": (
        "nvidia-container-cli: initialization error: WSL environment detected but no adapters were found:"
        " unknown"
    ),
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("kind", ["docker_log", "commands", "client_error"])
def test_docker_can_not_give_a_gpu(first: First, line: str, kind: str) -> None:
    assert first(**{kind: line + "\n"}).cause == "container_toolkit_or_driver_missing"


def test_docker_from_snap_is_pointed_at(first: First) -> None:
    finding = first(docker_log=REFUSED["no library"] + "\n", commands="snap list | grep docker\n")
    assert "snap" in finding.remedy.commands[0].text


@pytest.mark.parametrize(
    "line",
    [
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.6, please update your"
            " driver"
        ),
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
    ],
)
def test_an_old_or_mixed_driver_is_not_the_toolkit_s_fault(causes: Causes, line: str) -> None:
    assert "container_toolkit_or_driver_missing" not in causes(commands=line + "\n")


LOST = {
    "NVML inside": {
        "commands": (
            "$ docker exec -it ollama nvidia-smi\nFailed to initialize NVML: Unknown Error\n" + HOST_CARD
        )
    },
    "800": {
        "ollama_log": (
            "cuda driver library failed to get device context 800time=2024-11-20T19:25:58.956Z level=WARN "
            'msg="error looking up nvidia GPU memory"\n'
        )
    },
    "800 in JSON": {
        "docker_log": '{"log":"cuda driver library failed to get device context 800\\n","stream":"stderr"}\n'
    },
    "ggml": {"docker_log": "ggml_cuda_init: failed to initialize CUDA: operation not permitted\n"},
    "memory on an empty card": {
        "comfyui_log": (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total"
            " capacity of 23.64 GiB of which 23.20 GiB is free. Of the allocated memory 0 bytes is allocated"
            " by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.\n"
        )
    },
}


@pytest.mark.parametrize("texts", LOST.values(), ids=LOST)
def test_a_container_that_lost_its_gpu(first: First, texts: dict[str, str]) -> None:
    assert first(**texts).cause == "container_gpu_lost_cgroup"


def test_out_of_memory_is_then_only_an_echo(says: Says) -> None:
    found = says(
        dmesg="systemd[1]: Reloading...\n",
        nvidia_smi="Failed to initialize NVML: Unknown Error\n",
        comfyui_log="torch.OutOfMemoryError: Allocation on device\n",
        client_error="No CUDA GPUs are available\n",
    )
    assert [finding.cause for finding in found if finding.is_trouble] == ["container_gpu_lost_cgroup"]
    assert "systemd reloaded" in found[0].why


def test_memory_that_did_not_come_back_is_its_consequence(says: Says) -> None:
    log = (
        "cuda driver library failed to get device context 800\n"
        'level=WARN msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.16 model=/x\n'
    )
    found = says(docker_log=log)
    assert [(one.cause, one.consequence_of) for one in found] == [
        ("container_gpu_lost_cgroup", ""),
        ("vram_not_recovered", "container_gpu_lost_cgroup"),
    ]


@pytest.mark.parametrize("code", ["999", "46", "8001"])
def test_other_codes_are_other_causes(causes: Causes, code: str) -> None:
    assert "container_gpu_lost_cgroup" not in causes(
        docker_log=f"cuda driver library failed to get device context {code}\n"
    )


def test_a_load_without_layers_after_the_card_could_not_be_asked(first: First) -> None:
    log = (
        GPU_START
        + 'time=2026-01-29T08:00:00Z level=WARN msg="unable to refresh free memory, using old values"\n'
        + "load_tensors: offloaded 0/33 layers to GPU\n"
    )
    assert first(docker_log=log).cause == "container_gpu_lost_cgroup"


def test_an_earlier_start_with_the_gpu_makes_a_suspicion(says: Says) -> None:
    found = [
        one for one in says(docker_log=GPU_START + CPU_START) if one.cause == "container_gpu_lost_cgroup"
    ]
    assert found
    assert found[0].confidence < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "docker: Error response from daemon: could not select device driver with capabilities: [[gpu]].",
        "nvidia-container-cli.real: container error: cgroup subsystem devices not found",
    ],
    ids=["without its quotes", "Ubuntu's name of the program"],
)
def test_other_spellings_of_the_engines_refusal(says: Says, text: str) -> None:
    assert says(client_error=text)[0].cause == "container_toolkit_or_driver_missing"


def test_a_container_that_was_started_anew_has_its_gpu_back(says: Says) -> None:
    lost = (
        'cuda driver library failed to get device context 800time=2025-07-11T07:00:00Z level=WARN msg="x"\n'
    )
    back = 'time=2025-07-11T08:00:00Z level=INFO msg="inference compute" id=0 library=cuda name="RTX 3080"\n'
    assert says(docker_log=lost)[0].cause == "container_gpu_lost_cgroup"
    assert not any(row.is_trouble for row in says(docker_log=lost + back))


def test_a_lost_gpu_that_ollama_ps_still_names_is_lost(says: Says) -> None:
    text = "$ docker exec ollama nvidia-smi\nFailed to initialize NVML: Unknown Error\n$ ollama ps\n"
    assert (
        says(commands=text + "llama3 365 6.2 GB 100% GPU 4 minutes\n")[0].cause == "container_gpu_lost_cgroup"
    )


def test_a_container_that_was_just_started_has_lost_nothing(says: Says) -> None:
    text = "$ docker run --rm --gpus all ubuntu nvidia-smi\nFailed to initialize NVML: Unknown Error\n"
    assert [row.cause for row in says(commands=text)] == ["gpu_not_visible"]
    inside = "root@098b49afe624:/# nvidia-smi\nFailed to initialize NVML: Unknown Error\n"
    assert says(commands=inside)[0].cause == "container_gpu_lost_cgroup"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "Error: setting up CDI devices: failed to inject devices: failed to stat CDI host device"
            ' "/dev/dri/renderD129": no such file or directory\n',
            "not there",
        ),
        ("Error: stat nvidia.com/gpu=0: no such file or directory\n", "too old for CDI"),
        ("initialization error: nvml error: insufficient permissions: unknown\n", "may not open"),
    ],
)
def test_an_engine_that_cannot_hand_over_the_card_says_which_part_fails(
    first: First, line: str, told: str
) -> None:
    found = first(client_error=line)
    assert found.cause == "container_toolkit_or_driver_missing"
    assert told in found.why


def test_an_old_description_of_gpus_is_written_anew_first(first: First) -> None:
    line = 'failed to inject devices: failed to stat CDI host device "/dev/dri/renderD129": no such file\n'
    assert "cdi generate" in first(client_error=line).remedy.commands[0].text
