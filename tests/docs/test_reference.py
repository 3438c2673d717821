"""The pages are what the program is: generated ones are fresh, links and commands are alive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from narthex.cli.holdings import Held
from narthex.cli.main import COMMANDS, LazyGroup
from narthex.cli.main import command as narthex
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Command, Diagnosis, Finding, Quote, Remedy, Request
from narthex.doctor.rule import Rule
from narthex.doctor.rules import RULES
from narthex.engines.ollama.options import NAMES
from narthex.engines.ollama.variables import OF_KNOBS
from narthex.errors import ExitCode
from narthex.knobs import KNOBS
from narthex.outcomes import Outcome
from narthex.profiles.profile import Profile
from narthex.settings import SETTINGS
from narthex.testing.studies import study_result
from narthex.trials.soak import SoakReport, SoakSample
from narthex.views.cause_page import ROWS
from narthex.views.json import tune_json

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", [["docs/generate.py", "--check"], ["docs/check.py"]])
def test_the_docs_hold(script: list[str]) -> None:
    answer = subprocess.run([sys.executable, *script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_of_every_command_is_documented(verb: str) -> None:
    text = page("commands.md")
    assert isinstance(narthex, LazyGroup)
    command = narthex.get_command(click.Context(narthex), verb)
    assert command is not None
    assert f"## narthex {verb}\n" in text
    below = list(command.commands.values()) if isinstance(command, click.Group) else []
    for each in (command, *below):
        for option in each.params:
            if isinstance(option, click.Option):
                assert option.help, option.opts
                assert all(f"`{flag}`" in text for flag in option.opts), option.opts


def test_every_knob_setting_outcome_and_exit_code_is_documented() -> None:
    for knob in KNOBS:
        assert f"| `{knob.name}` | `{knob.flag}` |" in page("knobs.md")
    for setting in SETTINGS:
        assert f"| `{setting.name}` | `{setting.env}` |" in page("settings.md")
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in page("outcomes.md")
    for code in ExitCode:
        (row,) = [line for line in page("exit-codes.md").splitlines() if line.startswith(f"| {int(code)} |")]
        assert row.rstrip("| ").split("|")[-1].strip(), row


def test_every_json_field_is_documented() -> None:
    text = page("json.md")

    def fields(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for part in value.values() for name in fields(part)}
        if isinstance(value, list):
            return {name for part in value for name in fields(part)}
        return set()

    for name in fields(tune_json(study_result())):
        assert f"`{name}`" in text, name


def section_of(text: str, verb: str) -> str:
    return text.split(f"## {verb} --json")[1].split("\n## ", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("verb", "record"),
    [
        ("profile", Profile),
        ("soak", SoakReport),
        ("soak", SoakSample),
        ("models", Held),
        ("doctor", Diagnosis),
        ("doctor", Finding),
        ("doctor", Quote),
        ("doctor", Remedy),
        ("doctor", Command),
        ("doctor", Request),
        ("doctor", Reading),
    ],
)
def test_every_field_of_a_record_that_is_printed_whole_is_documented(
    verb: str, record: type[msgspec.Struct]
) -> None:
    section = section_of(page("json.md"), verb)
    for name in record.__struct_fields__:
        assert f"`{name}`" in section, name


def test_the_knobs_page_tells_what_each_knob_is_in_ollama() -> None:
    rows = [line.split(" | ") for line in page("knobs.md").splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    assert list(told) == [knob.name for knob in KNOBS]
    assert set(told.values()) == {*NAMES, *OF_KNOBS.values()}
    assert told["gpu_layers"] == "num_gpu"
    assert told["batch"] == told["ubatch"] == "num_batch"


def test_every_module_of_ollama_is_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "narthex" / "engines" / "ollama").glob("[a-z]*.py"):
        assert f"`{path.stem}`" in text, path.stem


def test_what_to_do_is_told_of_every_outcome_that_an_ollama_can_end_in() -> None:
    text = (ROOT / "docs" / "how-to" / "when-ollama-fails.md").read_text(encoding="utf-8")
    never = {Outcome.DONE, Outcome.INTERRUPTED, Outcome.UNSUPPORTED_FLAG, Outcome.PORT_IN_USE}
    for outcome in set(Outcome) - never:
        assert f"`{outcome.value}`" in text, outcome


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)
def test_every_cause_has_its_page_with_the_same_little_table(rule: Rule) -> None:
    text = (ROOT / "docs" / "causes" / f"{rule.slug}.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" *") for line in text.splitlines() if line.startswith("| **")]
    assert tuple(rows) == ROWS
    for row in rows[:5]:
        assert f"| **{row}** | – |" not in text, row
    index = (ROOT / "docs" / "causes" / "README.md").read_text(encoding="utf-8")
    assert f"]({rule.slug}.md)" in index


def test_every_package_is_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in (ROOT / "src" / "narthex").iterdir():
        if (folder / "__init__.py").is_file():
            assert f"`{folder.name}`" in text, folder.name


def test_how_to_pages_are_all_in_their_list() -> None:
    folder = ROOT / "docs" / "how-to"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in listed


@pytest.mark.parametrize(
    "words",
    ["inspect demo", "host", "plan demo --vram 1GB", "plan demo --vram 1GB --ctx 2048", "settings"],
)
def test_every_field_that_a_reading_command_prints_is_documented(words: str, gemma: Path) -> None:
    line = words.replace("demo", str(gemma))
    out = subprocess.run(
        [sys.executable, "-m", "narthex", *line.split(), "--json"], capture_output=True, text=True, check=True
    ).stdout
    found = json.loads(out)
    verb = words.partition(" ")[0]
    section = page("json.md").split(f"## {verb} --json")[1].split("\n## ")[0]
    for name in found if isinstance(found, dict) else found[0]:
        # `knobs` has a paragraph of its own
        assert f"`{name}`" in section or name == "knobs", name
