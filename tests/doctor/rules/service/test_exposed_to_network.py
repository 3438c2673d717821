"""Services that the network reaches: a warning on this machine, a word and no more from a log."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.testing.evidence import diagnosis_of


def listener(port: int, service: str, *addresses: str) -> Reading:
    value = {"addresses": list(addresses), "process": service, "pid": 7, "service": service}
    return Reading(name="listener", about=str(port), value=value, text=f"{addresses[0]}:{port} {service}")


def box(host_ip: str, role: str = "ollama") -> Reading:
    ports = [{"host_ip": host_ip, "host_port": 11434, "port": 11434}]
    value = {"role": role, "state": "running", "ports": ports}
    return Reading(
        name="container", about="ollama-1", value=value, text=f"ollama-1 publishes {host_ip}:11434"
    )


@pytest.mark.parametrize(
    ("port", "service", "address"),
    [(11434, "ollama", "0.0.0.0"), (8188, "comfyui", "::"), (8080, "llama_server", "192.168.1.7")],
)
def test_a_service_without_log_in_on_a_public_address_is_a_warning(
    port: int, service: str, address: str
) -> None:
    (finding,) = diagnosis_of([listener(port, service, address)], live=True).findings
    assert (finding.cause, str(finding.severity)) == ("exposed_to_network", "warning")
    assert f"ssh -N -L {port}" in str(finding.remedy)


def test_a_published_port_counts_and_its_remedy_is_the_compose_line() -> None:
    (finding,) = diagnosis_of([box("0.0.0.0")], live=True).findings
    assert str(finding.severity) == "warning"
    assert "127.0.0.1:11434:11434" in str(finding.remedy)


@pytest.mark.parametrize(
    "row",
    [listener(11434, "ollama", "127.0.0.1", "::1"), listener(11434, "ollama", "172.17.0.1"), box("127.0.0.1"),
     listener(631, "", "0.0.0.0")],
)  # fmt: skip
def test_loopback_the_docker_bridge_and_strangers_are_nothing(row: Reading) -> None:
    assert diagnosis_of([row], live=True).findings == ()


@pytest.mark.parametrize(("auth", "severity"), [("True", "info"), ("False", "warning")])
def test_openwebui_has_a_log_in_unless_it_was_switched_off(auth: str, severity: str) -> None:
    env = Reading(name="openwebui.env", value={"WEBUI_AUTH": auth}, text=f"WEBUI_AUTH={auth}")
    (finding,) = diagnosis_of([listener(3000, "openwebui", "0.0.0.0"), env], live=True).findings
    assert str(finding.severity) == severity


@pytest.mark.parametrize(
    "line",
    [
        'time=2026-08-14T14:59:50Z level=INFO source=routes.go:1300 msg="Listening on [::]:11434 (version '
        '0.6.8)"',
        "To see the GUI go to: http://0.0.0.0:8188",
        '687b609d95bf   ollama/ollama   "/bin/ollama serve"   Up   0.0.0.0:11434->11434/tcp   ollama',
    ],
)
def test_from_a_text_alone_it_is_never_more_than_a_word(line: str) -> None:
    diagnosis = diagnosis_of(commands=line)
    assert diagnosis.healthy
    assert [finding.cause for finding in diagnosis.findings] == ["exposed_to_network"]


def test_a_tunnel_to_the_internet_is_told() -> None:
    (finding,) = diagnosis_of(commands="ngrok http --host-header=localhost 11434").findings
    assert (finding.cause, str(finding.severity)) == ("exposed_to_network", "warning")
