"""``narthex serve``: the gateway before the engine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from narthex.cli.options import ollama_option
from narthex.errors import UsageError


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where to listen.  [default: 127.0.0.1:11435]")
@ollama_option
@click.option("--no-ollama", is_flag=True, help="Serve with llama-server alone.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The policy.  [default: narthex.toml here or in ~/.config/narthex]",
)
@click.option("--engine-path", metavar="PATH", help="The llama-server to start.  [default: found]")
@click.option(
    "--engine-arg", "engine_args", multiple=True, metavar="WORD", help="Given to every llama-server."
)
@click.option("--vram", metavar="SIZE", help="VRAM that may be given away.  [default: the card's]")
@click.option(
    "--container", is_flag=True, help="Inside a container whose port is published on loopback only."
)
@click.option("--log-json", is_flag=True, help="Log as JSON, one object a line.")
def command(**given: Any) -> None:
    """Serve the Ollama and the OpenAI API, before an Ollama and llama-server.

    Roles of narthex.toml are models there, beside the real names. What fits the card is loaded side by side,
    what does not waits its turn; a failure is answered with its cause. SIGHUP reads narthex.toml again.
    """
    if given["no_ollama"] and given["ollama"]:
        raise UsageError("--ollama and --no-ollama exclude each other.", hint="Give one of them.")
    if given["config"] is not None:
        os.environ["NARTHEX_CONFIG"] = str(given["config"])  # settings read the same file
    from narthex.gateway.server import Setup, serve
    from narthex.units import parse_size

    setup = Setup(
        config=given["config"],
        listen=given["listen"],
        ollama=given["ollama"],
        only_llama=given["no_ollama"],
        engine_path=given["engine_path"],
        engine_args=given["engine_args"],
        vram=parse_size(given["vram"]) if given["vram"] else None,
        container=given["container"],
        log_json=given["log_json"],
    )
    serve(setup, _say_json if setup.log_json else _say)


def _say(text: str) -> None:
    click.echo(f"narthex: {text}", err=True)


def _say_json(text: str) -> None:
    """As the lines of the log are, so that who reads them finds nothing else."""
    row = {"at": time.time(), "event": "serve", "text": text}
    click.echo(json.dumps(row, ensure_ascii=False), err=True)
