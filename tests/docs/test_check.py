"""The docs check finds what it looks for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dead_link_is_found(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with a comma\n")
    text = (
        "[a](there.md) [b](there.md#a-heading-with-a-comma) [c](gone.md) [d](there.md#gone) [e](https://x.y)"
    )
    found = list(check.dead_links(tmp_path / "page.md", text))
    assert found == [
        "link to «gone.md», which is not there",
        "link to «there.md#gone», whose heading is not there",
    ]


def test_a_verb_or_flag_that_does_not_exist_is_found(check: ModuleType) -> None:
    lines = ["```sh", "narthex settings --json | head", "narthex tunes x", "narthex settings --jason", "```"]
    text = "\n".join([*lines, "`narthex report --no`"])
    assert list(check.wrong_commands(text)) == [
        "«narthex tunes x»: there is no verb «tunes»",
        "«narthex settings --jason»: settings has no --jason",
        "«narthex report --no»: report has no --no",
    ]
