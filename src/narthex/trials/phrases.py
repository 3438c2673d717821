"""Endless varied text of four kinds: talk, prose, code and tool calls.

Made from word lists, so that it needs no file, has no owner, and a token of it costs the engine what a token
of real text costs. A writer yields paragraphs for ever; the same ``Random`` yields the same paragraphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random


def _list(text: str) -> list[str]:
    """The entries of a list: words, or phrases with | between them."""
    return text.split("|") if "|" in text else text.split()


_THINGS = _list(
    "harbour bridge library orchard turbine ledger valley engine garden market river archive kitchen tower "
    "station workshop glacier lantern network theatre quarry vineyard telescope reservoir railway museum "
    "bakery laboratory lighthouse warehouse meadow foundry parliament hospital canal observatory"
)
_QUALITIES = _list(
    "quiet narrow ancient reliable crowded northern fragile expensive modest unusual wooden seasonal careful "
    "distant shallow sturdy temporary famous local hidden practical uneven gradual bright"
)
_ACTIONS = _list(
    "repairs describes measures replaces crosses supplies protects observes rebuilds shelters borrows "
    "compares paints follows stores feeds guides limits records surrounds"
)
_PLACES = _list(
    "near the coast|behind the old wall|in the second district|under the new roof|beyond the hills|"
    "at the edge of town|along the main road|between two rivers|on the upper floor|close to the border"
)
_TIMES = _list(
    "every spring|since last winter|after the flood|before sunrise|during the long strike|once a month|"
    "for almost nine years|on most evenings|until the money ran out|whenever it rains"
)
_LINKS = _list(
    "however|for this reason|in the same year|as a result|on the other hand|by contrast|moreover|in practice"
)
_QUESTIONS = _list(
    "How would you explain {a} to somebody who has never seen {b}?|What should I check before I move {a}?|"
    "Could you compare {a} with {b} in a short table?|Why does {a} cost more than {b}?|"
    "Please write a friendly letter about {a}.|Which three books about {a} would you start with?|"
    "My neighbour says that {a} is older than {b}; is that likely?|Can you plan a weekend around {a}?"
)
_VERBS = _list("load merge filter count parse update remove sort schedule validate encode publish")
_NOUNS = _list("record invoice sensor session packet customer vertex message order reading token bucket")
_FIELDS = _list("amount status owner label weight region created version limit offset priority checksum")
_TOOLS = _list("search_files read_table send_mail run_query list_events fetch_page create_ticket move_file")


def _thing(rng: Random) -> str:
    return f"the {rng.choice(_QUALITIES)} {rng.choice(_THINGS)}"


def _sentence(rng: Random) -> str:
    core = f"{_thing(rng)} {rng.choice(_ACTIONS)} {_thing(rng)} {rng.choice(_PLACES)}"
    form = rng.randrange(4)
    if form == 0:
        return f"{core[0].upper()}{core[1:]}."
    if form == 1:
        return f"{rng.choice(_LINKS).capitalize()}, {core} {rng.choice(_TIMES)}."
    if form == 2:
        second = f"{_thing(rng)} {rng.choice(_ACTIONS)} {_thing(rng)}"
        return f"{rng.choice(_TIMES).capitalize()}, {core}, and {second}."
    return f"In {rng.randrange(1750, 2030)} about {rng.randrange(2, 900)} people knew that {core}."


def _paragraph(rng: Random, shortest: int, longest: int) -> str:
    return " ".join(_sentence(rng) for _ in range(rng.randint(shortest, longest)))


def talk(rng: Random) -> Iterator[str]:
    """A conversation: questions of a person, answers of an assistant."""
    while True:
        question = rng.choice(_QUESTIONS).format(a=_thing(rng), b=_thing(rng))
        yield f"User: {question}\n"
        yield f"Assistant: {_paragraph(rng, 2, 6)}\n\n"


def prose(rng: Random) -> Iterator[str]:
    """A long report with chapters."""
    chapter = 0
    while True:
        chapter += 1
        yield f"\nChapter {chapter}: {_thing(rng).title()}\n\n"
        for _ in range(rng.randint(3, 6)):
            yield _paragraph(rng, 4, 9) + "\n\n"


def code(rng: Random) -> Iterator[str]:
    """Python functions with loops, conditions and comments."""
    while True:
        verb, noun, field, other = (rng.choice(words) for words in (_VERBS, _NOUNS, _FIELDS, _FIELDS))
        name, limit = f"{verb}_{noun}s_by_{field}", f"{other}_limit"
        factor = f"index + {rng.randrange(1, 9)}"
        yield (
            f"def {name}({noun}s: list[dict[str, int]], {limit}: int = {rng.randrange(10, 5000)}) -> int:\n"
            f'    """{verb.capitalize()} every {noun} whose {field} is below the limit."""\n'
            f"    total = {rng.randrange(10)}\n"
            f"    for index, {noun} in enumerate({noun}s):\n"
            f'        if {noun}["{field}"] {rng.choice(("<", ">", "==", "!="))} {limit}:\n'
            f"            continue  # {rng.choice(_LINKS)}, {_thing(rng)} is skipped\n"
            f'        total += {noun}.get("{other}", {rng.randrange(100)}) * ({factor})\n'
            f"    return total % {rng.randrange(97, 9973)}\n\n\n"
        )


def tool_calls(rng: Random) -> Iterator[str]:
    """An agent's log: JSON calls of tools, their JSON results, a thought between."""
    step = 0
    while True:
        step += 1
        call = {
            "step": step,
            "tool": rng.choice(_TOOLS),
            "arguments": {
                rng.choice(_FIELDS): rng.randrange(10_000),
                "query": _thing(rng),
                "limit": rng.randrange(5, 50),
            },
        }
        rows = [
            {"id": rng.randrange(10**6), rng.choice(_FIELDS): rng.choice(_NOUNS), "note": _sentence(rng)}
            for _ in range(rng.randint(1, 4))
        ]
        yield json.dumps(call) + "\n"
        yield json.dumps({"step": step, "ok": rng.random() > 0.1, "rows": rows}) + "\n"
        yield f"Thought: {_sentence(rng)}\n"
