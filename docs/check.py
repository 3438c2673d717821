"""Looks for dead relative links in the Markdown pages, and for ``narthex`` commands that do not exist.

python docs/check.py
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from narthex.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(narthex [^`]+)`")
_HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def markdown_files() -> list[Path]:
    """The pages of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])


def problems() -> list[str]:
    """One sentence for each dead link and each command that does not exist."""
    found = []
    for path in markdown_files():
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(ROOT)
        found += [f"{place}: {problem}" for problem in (*dead_links(path, text), *wrong_commands(text))]
    return found


def dead_links(path: Path, text: str) -> Iterator[str]:
    """Relative links whose file or heading is not there."""
    for target in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if not file.exists():
            yield f"link to «{target}», which is not there"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"link to «{target}», whose heading is not there"


def anchors(text: str) -> set[str]:
    """The anchors that headings get."""
    slugs = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"[^\w\s-]", "", heading.lower())
        slugs.add(re.sub(r"\s", "-", words.strip()))
    return slugs


def wrong_commands(text: str) -> Iterator[str]:
    """``narthex …`` in fences or inline code with a verb or a flag that is not there."""
    for line in command_lines(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if len(words) > 1:
            yield from wrong_words(words[1:], line)


def command_lines(text: str) -> Iterator[str]:
    """Each command line, a leading prompt and variables taken off, continued lines joined."""
    for fence in _FENCE.findall(text):
        for line in fence.replace("\\\n", " ").splitlines()[1:-1]:
            bare = re.sub(r"^(\$ )?([A-Z_]+=\S+ )*", "", line.strip())
            bare = bare.removeprefix(".venv/bin/")
            if bare.startswith("narthex "):
                yield bare.split(" | ")[0].split(" > ")[0]
    yield from _INLINE.findall(_FENCE.sub("", text))


def wrong_words(words: list[str], line: str) -> Iterator[str]:
    """Verb, verbs below it, then flags."""
    verb = words[0]
    if verb.startswith("-") or not re.fullmatch(r"[a-z]+", verb):
        return
    if verb not in COMMANDS:
        yield f"«{line}»: there is no verb «{verb}»"
        return
    command: click.Command = importlib.import_module(f"narthex.cli.commands.{verb}").command
    name, rest = verb, words[1:]
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        below = command.get_command(click.Context(command), rest[0])
        if below is None:
            yield f"«{line}»: {name} has no «{rest[0]}»"
            return
        command, name, rest = below, f"{name} {rest[0]}", rest[1:]
    known = {"--help", "-h"}
    for option in command.params:
        known.update(option.opts, option.secondary_opts)
    for word in rest:
        flag = word.split("=")[0]
        if re.fullmatch(r"--?[a-z][a-z-]*", flag) and flag not in known:
            yield f"«{line}»: {name} has no {flag}"


def main() -> int:
    """Print what is wrong."""
    found = problems()
    for problem in found:
        sys.stderr.write(problem + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
