"""The model is newer than the program that shall run it."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import UPDATE, load_of, loaded_later, quotes, short, version
from narthex.doctor.sign import Sign

ARCHITECTURE = Sign(
    r"(?:unknown|unsupported) model architecture:? ?['\"]?(?!clip\b)(?P<name>[\w.-]+)"
    r"|unsupported architecture \"(?P<hf>\w+)\""
    r"|model architecture ['\"]?(?P<odd>[\w.-]+)['\"]? (?:is )?not supported"
    r"|unexpected architecture type in GGUF file: '(?P<gguf>\w+)'|does not recognize this architecture"
)
TOO_OLD = Sign(
    r"requires a newer version of Ollama|pull model manifest: 412|is not supported by your version of Ollama"
    r"|may be incompatible with your version of Ollama|unsupported model format"
    r"|only supports up to version \d+|requires Ollama v?[\d.]+ or (?:later|newer)",
)
PART = Sign(
    r"unknown pre-tokenizer type: ?'?(?P<name>[\w.-]+)|unknown (?:clip "
    r"|vision )?projector type:? ?'?(?P<projector>\w+)"
    r"|(?:unknown|unsupported) tokenizer(?: model| type)?:? ['\"]?(?P<tokenizer>[\w.-]+)",
    words=["pre-tokenizer type", "projector type", "unknown tokenizer", "unsupported tokenizer"],
)  # fmt: skip
SHAPE = Sign(
    r"missing tensor '(?P<name>[^']+)'|tensor '(?P<gone>[^']+)' not found"
    r"|wrong number of tensors; expected \d+, got \d+"
    r"|has (?:wrong shape; expected|invalid ggml type)|invalid ggml type \d+"
    r"|key not found in model: (?P<key>\S+)"
    r"|invalid n_rot: \d+, expected \d+|(?:unknown|unsupported) (?:ggml|quantization|tensor|gguf) type"
)
REMOVED = {"mllama": "Ollama 0.30 can no longer run it; pull the model anew, or stay with 0.24"}

REMEDY = Remedy(
    text="Update the program that runs the model. If it is the newest already, its model is not supported "
    "yet: "
    "take another build of the model, or another model.",
    commands=UPDATE,
    verify="The model loads and answers.",
    verify_commands=(Command(text='ollama run MODEL "hello"', safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The loader says what it does not know."""
    sure = evidence.hits(ARCHITECTURE, TOO_OLD, PART)
    hits = sure or evidence.hits(SHAPE)
    if not hits:
        return
    last = hits[-1]
    load = load_of(evidence, last.entry)
    over = loaded_later(evidence, last.entry, load.model if load else "")
    name = _unknown(hits)
    yield Finding(
        cause="model_needs_newer_runtime",
        title=f"This program does not know the model's {name}" if name else "The model needs a newer program",
        severity=Severity.INFO if over and load and load.model else Severity.ERROR,
        confidence=(0.95 if sure else 0.7) - (0.3 if over else 0.0),
        evidence=quotes(hits),
        why=_why(evidence, hits, sure=bool(sure), model=load.model if load else ""),
        ruled_out=(
            RuledOut(
                cause="gguf_invalid_or_corrupt",
                why="The file's header could be read, and nothing says that it is cut or damaged.",
            ),
            RuledOut(cause="vram_oom_on_load", why="It ended before any memory was asked for."),
        ),
        remedy=REMEDY,
        about=short(load.model) if load else "",
    )


def _unknown(hits: list[Hit]) -> str:
    """«architecture 'deci'», «pre-tokenizer 'qwen2'»; "" where it is not named."""
    kinds = {
        "hf": "architecture",
        "odd": "architecture",
        "projector": "projector",
        "tokenizer": "tokenizer",
        "gone": "tensor",
        "key": "setting",
    }
    for hit in hits:
        for group, word in hit.match.groupdict().items():
            if word:
                kind = kinds.get(group) or (
                    "pre-tokenizer"
                    if "pre-tokenizer" in hit.entry.plain
                    else "tensor"
                    if "missing tensor" in hit.entry.plain
                    else "architecture"
                )
                return f"{kind} «{word}»"
    return ""


def _why(evidence: Evidence, hits: list[Hit], *, sure: bool, model: str) -> str:
    unknown = _unknown(hits)
    words = [
        f"The loader stopped at something it does not know ({unknown})"
        if unknown
        else "The registry or the program itself says so"
    ]
    if told := version(evidence):
        words.append(f"this Ollama is {told}")
    if model:
        words.append(f"the model is {short(model)}")
    text = ", ".join(words) + "."
    removed = [why for name, why in REMOVED.items() if f"'{name}'" in hits[-1].entry.plain]
    if removed:
        return f"{text} {removed[0]}."
    if not sure:
        text += " A file that was converted for another program gives the same error."
    return text


RULE = Rule(
    slug="model_needs_newer_runtime",
    title="The model is newer than the program",
    area="model",
    meaning="The model's architecture, tokenizer or tensors came into use after this Ollama or llama.cpp was "
    "built, so it can't load the file. Distributions often ship old builds.",
    signature=(
        "unknown model architecture: 'NAME'",
        "unknown pre-tokenizer type: 'NAME'",
        "pull model manifest: 412: … requires a newer version of Ollama",
        "missing tensor 'NAME'; wrong number of tensors; expected N, got M",
    ),
    certain="Compare the version with the one that the model's page asks for. `ollama -v` prints both "
    "versions "
    "where client and server differ; the server's counts.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="gguf_invalid_or_corrupt",
            how="The unknown architecture is «clip»: a projector was given as the model. Or a line names a "
            "bound of the file or the magic.",
        ),
        LookAlike(
            cause="runner_crash_bug",
            how="An abort («terminate called», «signal: aborted») follows the unknown name: the name is the "
            "cause.",
        ),
    ),
    signs=(ARCHITECTURE, TOO_OLD, PART, SHAPE),
    explains=("runner_crash_bug", "client_timeout_aborts_load"),
    check=check,
)
