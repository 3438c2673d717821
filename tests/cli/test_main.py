"""The command frame: the table of verbs, quick starts, completion."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from narthex import __version__
from narthex.cli.main import COMMANDS

HEAVY = ("rich", "aiohttp", "asyncio", "jinja2", "psutil", "pynvml", "optuna", "sqlite3")


def narthex(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The whole program, as a person starts it."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "narthex", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_lists_every_verb_with_its_sentence() -> None:
    answer = narthex("--help")
    assert answer.returncode == 0
    for name, text in COMMANDS.items():
        assert f"  {name} " in answer.stdout
        assert text in answer.stdout


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_a_command_with_help(verb: str) -> None:
    module = importlib.import_module(f"narthex.cli.commands.{verb}")
    assert isinstance(module.command, click.Command)
    assert (module.command.help or "").strip()
    answer = narthex(verb, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "Usage: " in answer.stdout


def test_version_is_one_line() -> None:
    assert narthex("--version").stdout == f"narthex {__version__}\n"


def modules_after(code: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a new interpreter after it ran ``code``."""
    text = f"{code}\nimport sys\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in out.splitlines()[-1].split()}


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    code = (
        "from narthex.cli.main import command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit:\n    pass\n"
    )
    assert not modules_after(code) & set(HEAVY)
    listed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    assert "narthex.cli.commands." not in listed


@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_the_quick_verbs_import_nothing_heavy(verb: str) -> None:
    assert not modules_after(f"import narthex.cli.commands.{verb}") & set(HEAVY)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_how_to_install_it(shell: str) -> None:
    answer = narthex("completion", shell)
    assert answer.returncode == 0, answer.stderr
    assert "_NARTHEX_COMPLETE" in answer.stdout
    assert "# To install it:" in answer.stdout


def test_tab_completes_verbs_without_importing_them() -> None:
    answer = narthex(_NARTHEX_COMPLETE="bash_complete", COMP_WORDS="narthex pro", COMP_CWORD="1")
    assert answer.stdout.split() == ["plain,profile"]


def test_tab_completes_flags_of_a_verb() -> None:
    answer = narthex(_NARTHEX_COMPLETE="bash_complete", COMP_WORDS="narthex settings --j", COMP_CWORD="2")
    assert answer.stdout.split() == ["plain,--json"]


def test_tab_completes_the_words_of_a_knob_and_leaves_files_to_the_shell() -> None:
    words = narthex(_NARTHEX_COMPLETE="bash_complete", COMP_WORDS="narthex plan --kv-type q", COMP_CWORD="3")
    assert words.stdout.split() == ["plain,q8_0", "plain,q4_0"]
    model = narthex(_NARTHEX_COMPLETE="bash_complete", COMP_WORDS="narthex inspect mod", COMP_CWORD="2")
    assert model.stdout.split() == ["file,mod"]
