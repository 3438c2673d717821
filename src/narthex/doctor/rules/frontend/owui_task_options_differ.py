"""OpenWebUI's background work asks with other options than the chat: Ollama loads the model anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from narthex.doctor import story
from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.frontend.params import RUNNER, is_off, params
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.signs import openwebui

TASKS = ("ENABLE_TITLE_GENERATION", "ENABLE_TAGS_GENERATION", "ENABLE_FOLLOW_UP_GENERATION")
_SWITCHES = 2  # loads back and forth: 4096 → 16384 → 4096
_APART_S = 600.0


def check(evidence: Evidence) -> Iterator[Finding]:
    """The settings of this machine; else loads of one model back and forth beside OpenWebUI's log."""
    chat, task = params(evidence, "DEFAULT_MODEL_PARAMS"), params(evidence, "TASK_MODEL_PARAMS")
    if chat is not None and task is not None:
        differ = [name for name in RUNNER if chat.get(name) != task.get(name)]
        if differ and not all(is_off(evidence, name) for name in TASKS):
            yield _of_settings(evidence, chat, task, differ)
        return
    if evidence.has(openwebui.ANY) or evidence.has_kind("openwebui_log"):
        yield from _of_loads(evidence)


def _of_settings(
    evidence: Evidence, chat: dict[str, object], task: dict[str, object], differ: list[str]
) -> Finding:
    row = evidence.reading("openwebui.env")
    assert row is not None  # params() read it
    name = differ[0]
    return Finding(
        cause="owui_task_options_differ",
        title="OpenWebUI's background tasks ask with other options than its chats",
        severity=Severity.WARNING,
        confidence=0.85,
        evidence=(evidence.quote_reading(row),),
        why=f"Chats send {name}={chat.get(name, 'nothing')}, titles, tags and follow-up questions send "
        f"{name}={task.get(name, 'nothing')}: Ollama loads the model anew at each change, up to three "
        "times in the first turn of a chat.",
        remedy=remedy(chat or task),
        about=", ".join(differ),
    )


def _of_loads(evidence: Evidence) -> Iterator[Finding]:
    """One model, two contexts, back and forth within minutes. The two callers are not named there."""
    by_model: dict[str, list[story.Load]] = {}
    for load in story.loads(evidence):
        if load.num_ctx:
            by_model.setdefault(load.model, []).append(load)
    for model, loads in by_model.items():
        changes = [
            (one, other)
            for one, other in pairwise(loads)
            if one.num_ctx != other.num_ctx and _near(one, other)
        ]
        contexts = sorted({load.num_ctx or 0 for load in loads})
        if len(changes) < _SWITCHES or len(contexts) != 2:
            continue
        yield Finding(
            cause="owui_task_options_differ",
            title="OpenWebUI's background tasks may ask with another context than its chats",
            severity=Severity.WARNING,
            confidence=0.3,
            evidence=quotes(changes[0][0].entry, changes[0][1].entry, changes[-1][1].entry),
            why=f"The same model is loaded back and forth with a context of {contexts[0]} and of "
            f"{contexts[1]} tokens, {len(changes)} times within minutes, and OpenWebUI is in use: its "
            "titles and follow-up questions don't carry the options of the chat.",
            ruled_out=(
                RuledOut(
                    cause="keep_alive_unload_reload",
                    why="the loads follow each other at once, not after a rest",
                ),
            ),
            remedy=remedy({"num_ctx": contexts[-1]}),
            about=model,
        )
        return


def _near(one: story.Load, other: story.Load) -> bool:
    return one.at is None or other.at is None or abs(other.at - one.at) < _APART_S


def remedy(chat: dict[str, object]) -> Remedy:
    """The same options for both; of the chat's those that make Ollama load anew, and how long it stays."""
    same = [f'"{name}":{chat[name]}' for name in RUNNER if isinstance(chat.get(name), int)] or [
        '"num_ctx":16384'
    ]
    keep = '"keep_alive":"30m"'
    both = ",".join([*same, keep])
    return Remedy(
        text="Give the background tasks the same options as the chats: TASK_MODEL_PARAMS (since 0.11.1). "
        "Or let them be: switch titles, tags and follow-up questions off. Or save the options in a "
        "model of the workspace: that reaches both.",
        commands=(
            Command(text=f"DEFAULT_MODEL_PARAMS='{{{both}}}'", safe=False, note="environment of open-webui"),
            Command(
                text=f'TASK_MODEL_PARAMS=\'{{{both},"think":false,"max_tokens":300}}\'',
                safe=False,
                note="environment of open-webui; then docker compose up -d open-webui. What is saved in "
                "the admin page wins over it, unless ENABLE_PERSISTENT_CONFIG=False",
            ),
            Command(text="ENABLE_TITLE_GENERATION=False ENABLE_FOLLOW_UP_GENERATION=False", safe=False),
        ),
        verify="A new chat of two turns loads the model once.",
        verify_commands=(Command(text="ollama ps", safe=True, note="its context stays the same"),),
    )


REMEDY = remedy({"num_ctx": 16384})

RULE = Rule(
    slug="owui_task_options_differ",
    title="OpenWebUI's background tasks ask with other options",
    area="frontend",
    meaning="A first turn in OpenWebUI is four requests: a title, the answer, follow-up questions, tags. "
    "Options of the chat (its context above all) don't reach the other three. Ollama loads the "
    "model anew for each change.",
    signature=(
        "loads of one model with two contexts in turn, within seconds of each other",
        "DEFAULT_MODEL_PARAMS holds num_ctx, TASK_MODEL_PARAMS is empty",
    ),
    certain="With the same num_ctx in both settings a new chat loads the model once.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="model_reload_thrash", how="The same storm, whoever the two clients are."),
        LookAlike(cause="keep_alive_unload_reload", how="There minutes of rest lie before each load."),
    ),
    signs=(),
    readings=("openwebui.env",),
    explains=("model_reload_thrash",),
    check=check,
)
