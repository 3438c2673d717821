"""Refusals of the system on the way to the models, and refusals that are about something else."""

from __future__ import annotations

import pytest

from narthex.testing.evidence import diagnosis_of


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "ollama_log",
            "Error: mkdir /srv/models/blobs: permission denied: ensure path elements are traversable",
        ),
        ("ollama_log", "Error: could not create directory mkdir /var/lib/ollama: permission denied"),
        (
            "ollama_log",
            "2月 25 17:49:00 box ollama[315]: Error: mkdir /mnt/raid_disk/ollama: permission denied",
        ),
        (
            "commands",
            "Error: pull model manifest: open /usr/share/ollama/.ollama/id_ed25519: permission denied",
        ),
        ("commands", "Error: open /var/lib/ollama/blobs/sha256-2af3b8-partial-0: permission denied"),
        ("docker_log", "Error: could not create directory mkdir /home/ubuntu/.ollama: permission denied"),
        ("docker_log", "Error: open /root/.ollama/models/blobs/sha256-2af3b8: read-only file system"),
        ("ollama_log", r"open D:\ollama\models\blobs\sha256-abc: Access is denied."),
        (
            "llama_server_log",
            "gguf_init_from_file: failed to open GGUF file '/tmp/m/model.gguf' (Permission denied)",
        ),
    ],
)
def test_a_path_of_the_store_that_is_refused_is_named(kind: str, line: str) -> None:
    first = diagnosis_of((), False, **{kind: line}).findings[0]
    assert first.cause == "models_dir_permission"
    assert first.about in line
    assert first.evidence[0].text == line


def test_the_folder_that_is_closed_to_others_is_told_from_ls() -> None:
    commands = """
        $ ls -ld /srv/models
        drwx------ 4 root root 4096 Sep 12 17:31 /srv/models
    """
    log = "ollama[1034]: Error: mkdir /srv/models/blobs: permission denied"
    first = diagnosis_of(commands=commands, ollama_log=log).findings[0]
    assert "/srv/models belongs to root:root with mode drwx------, so others can't enter it" in first.why
    assert "chown -R ollama:ollama /srv/models" in " ".join(one.text for one in first.remedy.commands)


def test_in_a_container_the_mounted_folder_is_given_to_the_user_inside() -> None:
    log = "Error: mkdir /root/.ollama/models: permission denied"
    first = diagnosis_of(docker_log=log).findings[0]
    assert first.remedy.commands[0].text == "docker exec ollama id"
    assert all(not (command.root and command.argv) for command in first.remedy.commands)


@pytest.mark.parametrize(
    "line",
    [
        "open /dev/nvidia-uvm: permission denied",
        "dial unix /var/run/docker.sock: connect: permission denied",
        "couldn't open modelfile: open /home/me/Modelfile: permission denied",
        "fork/exec /usr/lib/ollama/runners/cpu/ollama_llama_server: permission denied",
        "Couldn't find '/root/.ollama/id_ed25519'. Generating new private key.",
    ],
)
def test_other_refusals_are_not_about_the_models(line: str) -> None:
    causes = [finding.cause for finding in diagnosis_of(ollama_log=line).findings]
    assert "models_dir_permission" not in causes


def test_a_start_that_worked_later_makes_it_harmless() -> None:
    log = """
        Error: mkdir /srv/models/blobs: permission denied
        time=2025-01-10T22:07:10.961Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.5.4)"
    """
    assert diagnosis_of(ollama_log=log).healthy
