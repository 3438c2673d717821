"""What Docker's inspect tells of containers of this stack."""

from __future__ import annotations

import secrets
from typing import Any

from narthex.testing.docker.container import FakeContainer

IMAGES = {
    "ollama": "ollama/ollama:latest",
    "open-webui": "ghcr.io/open-webui/open-webui:main",
    "comfyui": "yanwk/comfyui-boot:cu126-slim",
    "llama": "ghcr.io/ggml-org/llama.cpp:server-cuda",
    "db": "postgres:16",
}
GPU = {"Driver": "nvidia", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}


def box(
    name: str,
    *,
    image: str = "",
    command: list[str] | None = None,
    env: list[str] | None = None,
    gpu: bool = False,
    labels: dict[str, str] | None = None,
    ports: dict[str, list[dict[str, str]]] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """A container by its name, with the image that goes with it unless another is given."""
    return {
        "Id": secrets.token_hex(32),
        "Name": f"/{name}",
        "Image": f"sha256:{secrets.token_hex(32)}",
        "RestartCount": 0,
        "HostConfig": {
            "NetworkMode": "bridge",
            "Runtime": "runc",
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": {}},
            "PortBindings": ports or {},
            "DeviceRequests": [GPU] if gpu else None,
            "ExtraHosts": None,
            "Memory": 0,
        },
        "Config": {
            "Image": image or IMAGES[name],
            "Env": env or [],
            "Entrypoint": None,
            "Cmd": command or [],
            "Labels": labels or {},
            "Tty": False,
        },
        "Mounts": [],
        **rest,
    }


def put_state(container: FakeContainer, **state: Any) -> None:
    """A state that no real process stands behind."""
    container.facts()["State"].update(state)
