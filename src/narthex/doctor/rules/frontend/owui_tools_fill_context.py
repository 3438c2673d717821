"""OpenWebUI's built-in tools fill a small context before the question comes."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.frontend.params import params
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.sign import Sign
from narthex.doctor.signs import openwebui

TRUNCATED = Sign(
    r"truncating input prompt\"? limit=(?P<limit>\d+) prompt=(?P<prompt>\d+)",
    words=["truncating input prompt"],
)
TOOLS_TOKENS = 6000  # 36 tools, 25.9 KB of JSON, at some four letters a token
SMALL_CONTEXT = 8192
_NATIVE_SINCE = (0, 10)  # the version since which native function calling is the default

REMEDY = Remedy(
    text="Switch the built-in tools off where they are not wanted (function_calling: legacy), or give the "
    "model a context in which they have room.",
    commands=(
        Command(
            text='DEFAULT_MODEL_PARAMS=\'{"function_calling":"legacy"}\'',
            safe=False,
            note="environment of open-webui; or per model: Advanced Params › Function Calling, and its "
            "capability «Builtin Tools» off",
        ),
        Command(
            text="DEFAULT_MODEL_PARAMS='{\"num_ctx\":16384}' and the same in TASK_MODEL_PARAMS",
            safe=False,
            note="costs memory for the context",
        ),
    ),
    verify="A short question in a new chat makes no line «truncating input prompt».",
    verify_commands=(
        Command(text="journalctl -u ollama --since '5 min ago' | grep -c truncating", safe=True),
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """Settings and contexts of this machine; else cut prompts of about the tools' size beside OpenWebUI."""
    if (finding := _of_readings(evidence)) is not None:
        yield finding
        return
    if not (evidence.has(openwebui.ANY) or evidence.has_kind("openwebui_log")):
        return
    cut = [
        hit
        for hit in evidence.hits(TRUNCATED)
        if int(hit["limit"]) <= SMALL_CONTEXT and TOOLS_TOKENS * 0.8 <= int(hit["prompt"]) <= TOOLS_TOKENS * 2
    ]
    if not cut:
        return
    yield Finding(
        cause="owui_tools_fill_context",
        title="OpenWebUI's tools may fill the context",
        severity=Severity.WARNING,
        confidence=0.3,
        evidence=quotes(*cut, most=2),
        why=f"Prompts of {cut[0]['prompt']} tokens were cut to a context of {cut[0]['limit']}, and "
        f"OpenWebUI is in use: its built-in tools alone are some {TOOLS_TOKENS} tokens with every "
        "question.",
        ruled_out=(),
        remedy=REMEDY,
    )


def _of_readings(evidence: Evidence) -> Finding | None:
    chat = params(evidence, "DEFAULT_MODEL_PARAMS")
    version = evidence.reading("openwebui.version")
    if chat is None or version is None or not _native(str(version.value or "")):
        return None
    if chat.get("function_calling") == "legacy":
        return None
    small = [
        (row, context)
        for row in evidence.all_readings("ollama.resident")
        if isinstance(row.value, dict) and (context := row.value.get("num_ctx")) and context <= SMALL_CONTEXT
    ]
    if not small:
        return None
    row: Reading
    row, context = min(small, key=lambda one: int(one[1]))
    cut = evidence.hits(TRUNCATED)
    return Finding(
        cause="owui_tools_fill_context",
        title=f"OpenWebUI's tools leave little of {row.about}'s context",
        severity=Severity.WARNING if cut else Severity.INFO,
        confidence=0.8 if cut else 0.45,
        evidence=(evidence.quote_reading(version), evidence.quote_reading(row), *quotes(*cut, most=1)),
        why=f"OpenWebUI {version.value} sends 36 built-in tools with each chat of an administrator, some "
        f"{TOOLS_TOKENS} tokens; {row.about} has a context of {context}.",
        ruled_out=(RuledOut(cause="context_truncated", why="the questions themselves need not be long"),)
        if cut
        else (),
        remedy=REMEDY,
        about=row.about,
    )


def _native(version: str) -> bool:
    parts = version.lstrip("v").split("-", 1)[0].split(".")
    numbers = tuple(int(part) for part in parts[:2] if part.isdecimal())
    return len(numbers) == len(_NATIVE_SINCE) and numbers >= _NATIVE_SINCE


RULE = Rule(
    slug="owui_tools_fill_context",
    title="OpenWebUI's tools fill the context",
    area="frontend",
    meaning="Since 0.10 OpenWebUI offers its built-in tools to the model with every chat: 36 of them, 26 "
    "KB of JSON. In a context of 4096 tokens nothing of the question is left; the answer is empty, "
    "or is the JSON of a tool.",
    signature=(
        "truncating input prompt limit=4096 prompt=8353, at a short question",
        "an empty answer in OpenWebUI",
    ),
    certain="The same question by «ollama run» is answered; with function_calling «legacy» OpenWebUI is too.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="context_truncated", how="There the question, its history or its documents are long."
        ),
        LookAlike(cause="owui_task_options_differ", how="There the model is loaded anew, not cut."),
    ),
    signs=(TRUNCATED,),
    readings=("openwebui.env", "openwebui.version"),
    explains=("context_truncated",),
    check=check,
)
