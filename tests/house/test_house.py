"""The promises of the house: what is installed, what is committed, what CI calls."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    """Files under version control."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_ci_calls_exactly_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert text.strip().splitlines()[-1].startswith("make test")


def test_the_package_carries_its_types_and_its_page() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "narthex"
    ]
    assert "py.typed" in data
    assert (ROOT / "src" / "narthex" / "py.typed").is_file()
    assert {"**/*.html", "**/*.css"} <= set(data)


def test_no_path_of_one_machine_is_committed() -> None:
    # /root/.ollama is Ollama's folder in every one of its containers.
    private = re.compile(r"(?<![\w.~/])/(?:root(?!/\.ollama)|work|tmp/w)/")
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".html", ".css", "") and path != Path(__file__):
            found = private.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_modules_stay_small() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines"


def test_nothing_is_left_unfinished() -> None:
    words = re.compile(r"NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b")
    for path in (ROOT / "src").rglob("*.py"):
        found = words.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"
