"""The prompt is longer than the context: it was cut, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.embedding_failure import FAILED, PATHS
from narthex.doctor.rules.model.telling import count_in_log, is_later, quotes, times, told_as_past
from narthex.doctor.sign import Sign
from narthex.doctor.story import loads, requests

CUT = Sign(
    r"truncating input prompt\"? limit=(?P<limit>\d+) prompt=(?P<prompt>\d+)"
    r"|input truncated(?:,| \|)? n_ctx ?= ?(?P<ctx>\d+)(?:.*n_erase=(?P<erased>\d+))?|input truncated",
    words=["truncating input prompt", "input truncated"],
)
REFUSED = Sign(
    r"exceed_context_size_error"
    r"|(?:request|prompt)(?: \((?P<prompt>\d+) tokens\))? exceeds the available context size"
    r"(?: \((?P<limit>\d+) tokens\))?|prompt is longer than the context length"
    r"|input (?:length )?exceeds (?:the )?(?:maximum )?"
    r"context length|prompt is too long|context size (?:has been )?exceeded|context window (?:is )?exceeded"
    r"|maximum context length is (?P<most>\d+)"
    r"|Requested tokens \((?P<tokens>\d+)\) exceed context window of (?P<window>\d+)",  # llama-cpp-python
    words=[
        "exceed_context_size_error",
        "available context size",
        "context length",
        "too long",
        "context size",
        "context window",
    ],
)
OLD_MESSAGES = Sign(r"truncating (?:input|native chat) messages(?: which exceed context length)?")
CEILING = Sign(
    r"requested context size too large for model\"? num_ctx=(?P<asked>\d+).*n_ctx_train=(?P<most>\d+)"
    r"|requested context length is greater than the model's training context window size\"?"
    r" requested=(?P<old>\d+)",
    words=["too large for model", "training context window"],
)
COUNTED = Sign(r"prompt_eval_count\"?[:=] ?(?P<prompt>\d+)")
_CLIENTS = ("client_error", "commands", "openwebui_log")
DEFAULTS = (2048, 4096, 8192, 32768)
_SMALL = 1.25  # a prompt that is little longer loses little


def check(evidence: Evidence) -> Iterator[Finding]:
    """Ollama says that it cuts, or llama-server that it refuses."""
    cut = evidence.hits(CUT, OLD_MESSAGES)
    refused = [hit for hit in evidence.hits(REFUSED) if not _of_embedding(evidence, hit)]
    ceiling = evidence.hits(CEILING)
    hits = cut or refused
    if not hits:
        yield from _by_count(evidence)
        yield from _ceiling_alone(evidence, ceiling)
        return
    longest = max((hit for hit in hits if _tokens(hit)), key=_tokens, default=hits[0])
    limit, prompt = _limit(longest), _tokens(longest)
    little = bool(limit and prompt and prompt < limit * _SMALL and len(hits) <= 2)
    found = Finding(
        cause="context_truncated",
        title="The prompt is cut to the context, and nobody is told"
        if cut
        else "The prompt is longer than the context",
        severity=Severity.WARNING if cut else Severity.ERROR,
        confidence=0.6 if little else 0.9 if cut else 0.95,  # a failure beside it comes first
        evidence=(*quotes([longest, *hits], 2), *quotes(ceiling, 1)),
        why=_why(evidence, cut, refused, limit, prompt),
        ruled_out=(
            RuledOut(
                cause="runner_crash_bug",
                why="The request was answered; only its beginning was left out."
                if cut
                else "The runner refused the request and goes on.",
            ),
        ),
        remedy=_here(evidence, _remedy(prompt, ceiling)),
        about=f"{prompt} tokens into {limit}" if prompt and limit else "",
    )
    yield told_as_past(evidence, hits[-1].entry, found)


def _by_count(evidence: Evidence) -> Iterator[Finding]:
    """An answer that counts just as many prompt tokens as a context holds, or half of one and two more."""
    full = {2048, 4096, 8192, 16384, 32768, 65536, 131072}
    half = {ctx // 2 + 2 for ctx in full}
    hits = [hit for hit in evidence.hits(COUNTED) if int(hit["prompt"]) in full | half]
    if hits:
        count = int(hits[0]["prompt"])
        yield Finding(
            cause="context_truncated",
            title="The prompt seems to be cut to the context",
            severity=Severity.WARNING,
            confidence=0.6,
            evidence=quotes(hits),
            why=f"The answer counts {count} prompt tokens: "
            + (
                f"just a context of {count}."
                if count in full
                else f"half of a context of {2 * count - 4}, and two."
            )
            + " A prompt of just that length is unlikely; one that was cut has it.",
            remedy=_remedy(count, ()),
        )


def _ceiling_alone(evidence: Evidence, ceiling: Sequence[Hit]) -> Iterator[Finding]:
    """Asking for more than the model was trained for harms nothing by itself. It does where a client tells of
    a prompt that was forgotten."""
    if not ceiling:
        return
    told = evidence.search(r"truncat|forg[eo]t|cut (?:off|short)|context (?:length|window|size)", *_CLIENTS)
    asked, most = ceiling[-1]["asked"] or ceiling[-1]["old"], ceiling[-1]["most"]
    yield Finding(
        cause="context_truncated",
        title="More context was asked for than the model can hold",
        severity=Severity.WARNING if told else Severity.INFO,
        confidence=0.6 if told else 0.5,
        evidence=(*quotes(ceiling, 1), *quotes(told, 1)),
        why=f"{asked} tokens of context were asked for"
        + (f"; the model was trained for {most}, so Ollama takes that." if most else ".")
        + " No prompt was cut in these lines.",
        remedy=_remedy(0, ceiling),
    )


def _of_embedding(evidence: Evidence, hit: Hit) -> bool:
    """Whether it is a text for an embedding that was too long: another rule tells of those."""
    if "exceeds maximum context length" in hit.entry.plain.lower():
        return True
    if "input length exceeds" not in hit.entry.plain.lower() and "embed" not in hit.entry.plain.lower():
        return False
    failed = any(one.path in PATHS and one.status in (400, 500) for one in requests(evidence))
    return failed or evidence.has(FAILED) or "embed" in hit.entry.plain.lower()


def _tokens(hit: Hit) -> int:
    groups = hit.match.groupdict()
    if groups.get("erased"):
        return int(groups["erased"]) + _limit(hit)
    return int(groups.get("prompt") or groups.get("tokens") or 0)


def _limit(hit: Hit) -> int:
    groups = hit.match.groupdict()
    return int(groups.get("limit") or groups.get("ctx") or groups.get("most") or groups.get("window") or 0)


def _why(evidence: Evidence, cut: Sequence[Hit], refused: Sequence[Hit], limit: int, prompt: int) -> str:
    count = evidence.count(CUT) if cut else len(refused)
    if prompt and limit:
        lost = prompt - limit
        what = (
            f"{lost} of {prompt} tokens were thrown away ({lost / prompt:.0%})"
            if cut and lost > 0
            else f"the prompt has {prompt} tokens and the context {limit}"
        )
    else:
        what = "a prompt was longer than the context"
    text = f"{what[0].upper()}{what[1:]}; that happened {times(max(count, 1))}."
    ctx = _loaded_ctx(evidence, [*cut, *refused])
    if cut and ctx and limit and limit < ctx * 0.7:
        text += f" The model was loaded with {ctx} tokens: this version keeps only about half when it cuts."
    elif limit in DEFAULTS:
        text += f" {limit} is a default of Ollama: nobody asked for a larger context."
    paths = _paths(evidence, [*cut, *refused])
    if any(path.startswith("/v1/") for path in paths):
        text += " Requests came on /v1, where a client can't ask for a context."
    elif any(path in PATHS for path in paths):
        text += " Requests were for embeddings: there the pieces of text are too long for the model."
    return text


def _loaded_ctx(evidence: Evidence, hits: Sequence[Hit]) -> int | None:
    entry = hits[-1].entry
    rows = [load.num_ctx for load in loads(evidence) if load.num_ctx and not is_later(load.entry, entry)]
    return rows[-1] if rows else None


def _paths(evidence: Evidence, hits: Sequence[Hit]) -> set[str]:
    """Of the requests that ended next after each line."""
    found: set[str] = set()
    rows = [one for one in requests(evidence) if one.works]
    for hit in hits:
        following = (one for one in rows if is_later(one.entry, hit.entry))
        if (one := next(following, None)) is not None:
            found.add(one.path)
    return found


def _here(evidence: Evidence, remedy: Remedy) -> Remedy:
    """With the command for this machine's log."""
    return msgspec.structs.replace(
        remedy,
        verify_commands=(count_in_log(evidence, "truncating input prompt|exceeds the available context"),),
    )


def _remedy(prompt: int, ceiling: Sequence[Hit]) -> Remedy:
    most = next((int(hit["most"]) for hit in reversed(ceiling) if hit["most"]), 0)
    wanted = 8192
    while prompt and wanted < prompt + 1024:
        wanted *= 2
    text = "Ask for a context that holds the prompt and the answer; more context takes more video memory."
    if most and wanted > most:
        wanted = most
        text = (
            f"The model was trained for {most} tokens: more can't be had. Send shorter prompts, fewer tools "
            f"and "
            "documents, or take a model with a longer context."
        )
    return Remedy(
        text=text,
        commands=(
            Command(
                text=f"narthex plan MODEL --ctx {wanted}",
                safe=True,
                note="whether that fits into the video memory",
            ),
            Command(
                text=f"Set OLLAMA_CONTEXT_LENGTH={wanted} for the service and restart it",
                safe=False,
                note="for every model and every client, also those on /v1",
            ),
            Command(
                text=f"OpenWebUI: model settings, Advanced Params, num_ctx (Ollama) = {wanted}; in the API: "
                f'"options": {{"num_ctx": {wanted}}}',
                safe=False,
                note="give all clients the same value, else the model is loaded anew for each",
            ),
        ),
        verify="The log has no new «truncating input prompt», and prompt_eval_count is the whole prompt.",
        verify_commands=(
            Command(
                text="docker logs --since 10m ollama 2>&1 | grep -c 'truncating input prompt'", safe=True
            ),
        ),
    )


RULE = Rule(
    slug="context_truncated",
    title="The prompt does not fit into the context",
    area="model",
    meaning="Ollama's default context is small. What is longer is cut at its beginning without a word to "
    "the client: the "
    "model forgets instructions, documents and tools. Newer versions keep about half of the context when "
    "they cut; a "
    "chat by the model's own template is refused instead.",
    signature=(
        'msg="truncating input prompt" limit=4096 prompt=9713 keep=5 new=4096',
        "request (8004 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "exceed_context_size_error",
        "requested context size too large for model (then the model's own length is the ceiling)",
    ),
    certain="`prompt` in the line is larger than `limit`; or prompt_eval_count in the answer is smaller "
    "than the prompt.",
    remedy=_remedy(0, ()),
    look_alikes=(
        LookAlike(
            cause="embedding_failure",
            how="The text is a piece of a document for an embedding model, refused with 400 or 500.",
        ),
        LookAlike(cause="owui_tools_fill_context", how="Tool descriptions alone fill the context."),
        LookAlike(cause="healthy", how="«context limit hit - shifting»: a long answer, which is normal."),
    ),
    signs=(CUT, REFUSED, OLD_MESSAGES, CEILING, COUNTED),
    check=check,
)
