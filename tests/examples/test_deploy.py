"""What lies in deploy/: commands and flags that there are, and no port open to the network."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import click
import pytest

from narthex.policy import load_policy

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = (DEPLOY / "narthex@.service").read_text()
COMPOSE = (DEPLOY / "compose.yaml").read_text()
CONTAINER = (DEPLOY / "Containerfile").read_text()


def flags() -> set[str]:
    command: click.Command = importlib.import_module("narthex.cli.commands.serve").command
    return {name for option in command.params for name in option.opts}


@pytest.mark.parametrize("text", [UNIT, COMPOSE, CONTAINER])
def test_every_flag_of_serve_is_there(text: str) -> None:
    (line,) = (row for row in text.splitlines() if re.search(r"narthex serve|\[\"?serve", row))
    used = set(re.findall(r"--[a-z-]+", line))
    assert used <= flags()


def test_compose_publishes_on_loopback_alone() -> None:
    published = re.findall(r"^ +ports: \[\"([^\"]*)\"\]", COMPOSE, re.MULTILINE)
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len(published) == COMPOSE.count("ports:")


def test_the_container_and_compose_keep_the_host_check_on() -> None:
    assert '"--container"' in CONTAINER
    assert "--container" in COMPOSE


def test_the_policy_of_compose_is_one_that_narthex_reads() -> None:
    assert tomllib.loads((DEPLOY / "narthex.toml").read_text())
    assert load_policy(DEPLOY / "narthex.toml").gateway.hosts == ("narthex",)


def test_the_unit_can_reload_and_gives_answers_time_to_end() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert settings["ExecReload"].endswith("-HUP $MAINPID")
    assert int(settings["TimeoutStopSec"]) > load_policy(DEPLOY / "narthex.toml").gateway.drain
