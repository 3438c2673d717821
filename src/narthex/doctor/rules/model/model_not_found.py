"""A model is asked for that is not on this server."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import MANY_GOOD, good_later, is_later, quotes, times
from narthex.doctor.sign import Sign
from narthex.doctor.story import Request, requests

NAMED = Sign(
    r"model ['\"`](?P<model>[^'\"`]*)['\"`] (?:was )?not found"
    r"|model ['\"`](?P<other>[^'\"`]+)['\"`] does not exist"
    r"|model not found, try pulling it first|model not found: ['\"`]?(?P<plain>[\w./:-]+)|\bmodel_not_found\b"
    r"|model (?P<bare>[\w./:-]+) not found, try pulling|your model is not found and you should pull",
    words=["not found", "does not exist", "model_not_found"],
)
PULL = Sign(
    r"pull model manifest: file does not exist|pull model manifest: 40[04].*|specified tag is not available"
    r"|manifest unknown|repository is not GGUF or is not compatible"
)
BLOB = Sign(
    r"(?:open|stat) \S*blobs\S*sha256[-:]\w+\S*: (?:no such file|The system cannot find)"
    r"|couldn't open model file.*no such file|failed to open GGUF file.*(?:no such file|\(2\))"
)
CALL = Sign(
    r"\b404\b.{0,120}/(?:api/(?:chat|generate|embed|embeddings)|v1/(?:chat/completions|embeddings))\b(?!/)"
    r"|/(?:api/(?:chat|generate|embed|embeddings)|v1/(?:chat/completions|embeddings))\b(?!/).{0,60}\b404\b",
    words=["404"],
    kinds=("client_error", "openwebui_log", "commands", "docker_log"),
)
WEB = Sign(r"404 page not found")
OWUI = Sign(r"Model not found\b", kinds=("openwebui_log", "docker_log", "client_error"))
MISSING = 404

_NAME = re.compile(r"\w[\w./:-]*")  # what may stand in a command
REMEDY_TEXT = "Pull the model, or ask for it by the name that `ollama list` shows, its tag included."


def check(evidence: Evidence) -> Iterator[Finding]:
    """The server's words; else status 404 where a model was asked for."""
    named, pull, blob = evidence.hits(NAMED), evidence.hits(PULL), evidence.hits(BLOB)
    if blob:
        yield _blob_gone(evidence, blob, named)
        return
    refused = [one for one in requests(evidence) if one.works and one.status == MISSING]
    calls = [hit for hit in evidence.hits(CALL) if "[GIN]" not in hit.entry.plain]
    hits = [*named, *pull] or ([] if evidence.has(WEB) else [*calls, *evidence.hits(OWUI)])
    if not hits and not refused:
        return
    if not hits and evidence.has(WEB):
        return
    model = next((name for hit in hits if (name := _model(hit))), "")
    over = _over(evidence, hits, refused)
    confidence = 0.95 if named or pull else 0.8 if refused else 0.7 if calls else 0.5
    yield Finding(
        cause="model_not_found",
        title=f"The model «{model}» is not on this server"
        if model
        else "A model is asked for that is not on this server",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=min(confidence, 0.5) if over else confidence,
        evidence=(*quotes(hits, 2), *(one.entry.quote() for one in refused[:2])),
        why=_why(model, refused, pull=bool(pull)),
        ruled_out=(RuledOut(cause="ollama_unreachable", why="Ollama answers: it says 404 itself."),),
        remedy=_remedy(model),
        about=model,
    )


def _blob_gone(evidence: Evidence, blob: Sequence[Hit], named: Sequence[Hit]) -> Finding:
    model = next((name for hit in named if (name := _model(hit))), "")
    listed = bool(named) or any("sha256" in hit.entry.plain for hit in blob)
    return Finding(
        cause="model_not_found",
        title="The model is listed, and its file is gone" if listed else "The model's file is not there",
        severity=Severity.ERROR,
        confidence=0.85,
        evidence=quotes([*blob, *named]),
        why=f"{'The list of the store' if listed else 'The command'} names a file that is not there: it was "
        "deleted or moved, or the folder of models is another one or is not mounted.",
        ruled_out=(RuledOut(cause="gguf_invalid_or_corrupt", why="There is no file that could be damaged."),),
        remedy=_remedy(model),
        about=model,
    )


def _model(hit: Hit) -> str:
    groups = hit.match.groupdict()
    return next((groups[name] for name in ("model", "other", "plain", "bare") if groups.get(name)), "")


def _over(evidence: Evidence, hits: Sequence[Hit], refused: Sequence[Request]) -> bool:
    """Whether the same client was answered on the same path later, or it was one of many."""
    if not refused:
        last = hits[-1].entry
        return len(good_later(evidence, last)) >= MANY_GOOD and len(hits) == 1
    last_one = refused[-1]
    same = [
        one
        for one in requests(evidence)
        if one.client == last_one.client
        and one.path == last_one.path
        and one.status == 200
        and is_later(one.entry, last_one.entry)
    ]
    return bool(same) and len(refused) <= len(same)


def _why(model: str, refused: Sequence[Request], *, pull: bool) -> str:
    text = (
        "The registry knows no model or tag of that name."
        if pull
        else "The server has no model of that name."
    )
    if refused:
        who = Counter((one.client, one.path) for one in refused).most_common(1)[0][0]
        text += f" {who[0]} asked {times(len(refused))} on {who[1]} and was answered 404."
    if model and ":" not in model:
        text += f" A name without a tag means «{model}:latest»."
    return text


def _remedy(model: str) -> Remedy:
    name = model if _NAME.fullmatch(model) else "MODEL"
    return Remedy(
        text=REMEDY_TEXT
        + " Where the list is another than expected, the client talks to another server, or the folder "
        "of models is another one (a container without its volume).",
        commands=(
            Command(
                text="ollama list", safe=True, argv=("ollama", "list"), note="the names that this server has"
            ),
            Command(text=f"ollama pull {name}", safe=False, note="downloads it: mind disk and network"),
            Command(
                text="docker inspect -f '{{json .Mounts}}' ollama",
                safe=True,
                note="is the volume with the models mounted on /root/.ollama?",
            ),
        ),
        verify=f"`ollama show {name}` prints the model.",
        verify_commands=(
            Command(
                text=f"ollama show {name}",
                safe=True,
                argv=("ollama", "show", model) if _NAME.fullmatch(model) else (),
            ),
        ),
    )


RULE = Rule(
    slug="model_not_found",
    title="The model is not on this server",
    area="model",
    meaning="The name that a client asks for was never pulled here, is spelt otherwise, has another tag, or "
    "was pulled "
    "into another server's store.",
    signature=(
        "model 'NAME' not found;  model \"NAME\" not found, try pulling it first",
        "[GIN] … | 404 | … POST /api/chat",
        "pull model manifest: file does not exist",
    ),
    certain="`ollama list` against the same address does not show the name.",
    remedy=_remedy(""),
    look_alikes=(
        LookAlike(
            cause="healthy",
            how="404 on /api/show, /favicon.ico or a HEAD of a blob is normal: that is how a client looks "
            "whether it is there.",
        ),
        LookAlike(
            cause="proxy_intercepts_local", how="«404 page not found» or an HTML page: the URL is wrong."
        ),
        LookAlike(cause="models_dir_permission", how="The folder is right and can't be read."),
    ),
    signs=(NAMED, PULL, BLOB, CALL, WEB, OWUI),
    explains=("embedding_failure",),
    check=check,
)
