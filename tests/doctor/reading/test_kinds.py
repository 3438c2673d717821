"""What kind of text it is, by its lines."""

from __future__ import annotations

import pytest

from narthex.doctor.reading.kinds import kind_of_text

OLLAMA = 'time=2025-09-01T16:44:15.151Z level=INFO source=images.go:477 msg="total blobs: 39"'
WEBUI = "2025-10-05 09:59:52.845 | INFO     | open_webui.main:lifespan:100 - Installing"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OLLAMA, "ollama_log"),
        ("[GIN] 2025/08/22 - 04:17:53 | 200 |   34.81s | 127.0.0.1 | POST", "ollama_log"),
        ("2024/01/01 12:00:00 routes.go:3: hi", "ollama_log"),
        (f"{OLLAMA}\n" + "llama_model_loader: - kv 1: x\n" * 50, "ollama_log"),
        ("Feb 06 20:35:15 pc ollama[2704]: " + OLLAMA, "ollama_log"),
        ("llama_context: n_ctx = 4096\nsrv  load_model: loading", "llama_server_log"),
        (WEBUI, "openwebui_log"),
        ("Total VRAM 10240 MB, total RAM 1 MB\nSet vram state to: NORMAL_VRAM\ngot prompt", "comfyui_log"),
        ("[ 5022.696822] NVRM: Xid (PCI:0000:07:00): 31, pid=16952", "dmesg"),
        ("Okt 06 17:59:27 pc kernel: usb 1-1: new device", "dmesg"),
        ("| NVIDIA-SMI 550.54.14  Driver Version: 550.54.14  CUDA Version: 12.4 |", "nvidia_smi"),
        ("Failed to initialize NVML: Unknown Error", "nvidia_smi"),
        ("docker: Error response from daemon: could not select device driver", "docker_log"),
        ("requests.exceptions.ReadTimeout: HTTPConnectionPool", "client_error"),
        ("$ docker exec ollama nvidia-smi\nFailed to initialize NVML: Unknown Error", "commands"),
        ("[root@host ~]# ollama run x\nError: no space left on device", "commands"),
        (f"ollama-1  | {OLLAMA}\nwebui-1   | {WEBUI}\n" * 5, "docker_log"),
        ("", "commands"),
    ],
)  # fmt: skip
def test_the_lines_tell_the_kind(text: str, kind: str) -> None:
    assert kind_of_text([text]) == kind


def test_the_name_decides_only_where_the_lines_do_not() -> None:
    assert kind_of_text(["nothing that says it"], "my-ollama.log") == "ollama_log"
    assert kind_of_text(["nothing that says it"], "kern.log") == "dmesg"
    assert kind_of_text([f"{OLLAMA}\n" * 5], "comfyui.log") == "ollama_log"


def test_the_middle_of_a_file_counts_too() -> None:
    assert kind_of_text(["nothing\n" * 50, f"{OLLAMA}\n" * 20]) == "ollama_log"
