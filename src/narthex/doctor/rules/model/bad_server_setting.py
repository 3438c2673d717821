"""A setting or option that the program does not take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import is_event, quotes
from narthex.doctor.sign import Sign
from narthex.doctor.story import Start, starts

KV_TYPE = Sign(
    r"Unsupported cache type:? ?(?P<value>\S+)|kv cache type not supported(?! by model)"
    r"|unsupported kv cache type"
)
# Ollama goes on without it. Since 0.5.13 it writes the first also where no type was asked for (type="").
KV_IGNORED = Sign(
    r"(?:kv cache type not supported (?P<model>by model)|unsupported OLLAMA_KV_CACHE_TYPE"
    r"|OLLAMA_FLASH_ATTENTION must be enabled to use a quantized OLLAMA_KV_CACHE_TYPE)\"? "
    r"type=\"?(?P<value>\w+)"
)
FLASH = Sign(
    r"quantized V cache (?:requires|was requested, but)|V cache quantization requires flash_attn"
    r"|(?:quantized )?V cache requires flash"
)
ARGUMENT = Sign(
    r"error while handling (?:argument|environment variable) \"?(?P<name>[^\s\"]+)|error: (?:invalid"
    r"|unknown) argument: (?P<flag>\S+)"
)
VARIABLE = Sign(r"invalid environment variable, using default\"?(?P<rest>.*)")
OPTION = Sign(
    r"option \"?'?(?P<name>\w+)\"?'? must be of type (?P<type>[\w ]+)|unknown parameter '(?P<parameter>\w+)'"
    r"|invalid (?:int|float|bool) value \[(?P<value>[^\]]*)\]|(?:missing|unknown) unit (?:\S+ )?in duration"
)
IGNORED = Sign(r"invalid option provided\"? option=(?P<name>\S+)")
TYPES = frozenset({"f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"})

REMEDY = Remedy(
    text="Set it to a value that this version takes, or take it out.",
    commands=(
        Command(
            text="Allowed: OLLAMA_KV_CACHE_TYPE=f16, q8_0 or q4_0, and with a quantised one "
            "OLLAMA_FLASH_ATTENTION=1",
            safe=False,
            note="`systemctl edit ollama`, or -e for a container; then restart the service",
        ),
        Command(
            text="llama-server --help | grep -A3 cache-type", safe=True, note="what this llama-server takes"
        ),
    ),
    verify="The service's start prints the value in its «server config» line, and a model loads.",
    verify_commands=(Command(text="journalctl -u ollama -b | grep 'server config' | tail -1", safe=True),),
)
_FATAL = (
    (KV_TYPE, 0.95, "The type of the KV cache is not known"),
    (FLASH, 0.95, "A quantised KV cache needs flash attention, and it is off"),
    (ARGUMENT, 0.9, "llama-server does not take an argument"),
    (OPTION, 0.9, "An option has a value of the wrong kind"),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """The program says which; or the start shows a value that is none."""
    for sign, confidence, title in _FATAL:
        if hits := evidence.hits(sign):
            event = sign is OPTION and is_event(evidence, hits[-1].entry, len(hits))
            more = [hit for other, _, _ in _FATAL if other is not sign for hit in evidence.hits(other)]
            yield _finding(
                title,
                quotes([*hits, *more]),
                _why(hits, title),
                confidence=confidence,
                severity=Severity.INFO if event else Severity.ERROR,
            )
            return
    if hits := evidence.hits(VARIABLE):
        yield _finding(
            "A setting of Ollama's environment makes no sense and is not used",
            quotes(hits),
            f"Ollama could not read {len(hits)} of its settings and takes the default instead: "
            + "; ".join(hit["rest"].strip() for hit in hits[:3])
            + ".",
            confidence=0.9,
            severity=Severity.WARNING,
        )
        return
    if hits := evidence.hits(KV_IGNORED):
        known = all(hit["model"] and hit["value"].lower() in TYPES for hit in hits)
        yield _finding(
            "Ollama does not use the type of the KV cache that it was given",
            quotes(hits),
            f"{hits[-1]['value']} is not used"
            + (" for a model that can't have it" if known else "")
            + "; the cache is kept in f16, and takes more memory. Nothing fails by it.",
            confidence=0.9,
            severity=Severity.INFO if known else Severity.WARNING,
        )
        return
    last = next((start for start in reversed(starts(evidence)) if start.env), None)
    if last is not None and (wrong := _wrong(last)):
        yield _finding(
            "The server's KV cache settings do not go together",
            (_config_quote(last),),
            wrong,
            confidence=0.6,
            severity=Severity.WARNING,
        )
    elif hits := evidence.hits(IGNORED):
        names = ", ".join(dict.fromkeys(hit["name"] for hit in hits))
        yield _finding(
            "A client sends options that this version no longer knows",
            quotes(hits),
            f"Ollama ignores {names}: it was taken out, or is misspelt. Nothing fails by it.",
            confidence=0.6,
            severity=Severity.INFO,
        )


def _finding(
    title: str, evidence: tuple[Quote, ...], why: str, *, confidence: float, severity: Severity
) -> Finding:
    return Finding(
        cause="bad_server_setting",
        title=title,
        severity=severity,
        confidence=confidence,
        evidence=evidence,
        why=why,
        ruled_out=(
            RuledOut(cause="runner_crash_bug", why="The program names the setting that it does not take."),
        ),
        remedy=REMEDY,
    )


def _why(hits: Sequence[Hit], title: str) -> str:
    named = [
        f"{name} {word}"
        for hit in hits
        for name, word in hit.match.groupdict().items()
        if word and name != "rest"
    ]
    return (
        title
        + (f" ({', '.join(dict.fromkeys(named))})." if named else ".")
        + " The runner ends, or the request fails."
    )


def _wrong(start: Start) -> str:
    """What of the environment can't work; "" where all is well."""
    kv = start.env.get("OLLAMA_KV_CACHE_TYPE", "").lower()
    if kv and kv not in TYPES:
        return f"OLLAMA_KV_CACHE_TYPE is «{kv}»; known are {', '.join(sorted(TYPES))}."
    return ""


def _config_quote(start: Start) -> Quote:
    return (start.config or start.entry).quote()


RULE = Rule(
    slug="bad_server_setting",
    title="A setting that the program does not take",
    area="model",
    meaning="A value in the service's environment, a flag, a Modelfile or a request's options is misspelt, "
    "of the wrong "
    "kind, or does not go with another one. Ollama hands some of them on unchecked, so the load fails with "
    "«exit status 1».",
    signature=(
        "Unsupported cache type: NAME",
        "quantized V cache requires flash_attn to be enabled",
        "invalid environment variable, using default",
        'option "num_ctx" must be of type integer',
        "error: invalid argument: --no-mmap",
    ),
    certain="The line names the setting. The «server config» line of the start shows what Ollama understood.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="service_unit_misconfig",
            how="The service itself does not start: systemd or Ollama's own flags.",
        ),
        LookAlike(cause="runner_crash_bug", how="A panic follows the line that names the setting."),
        LookAlike(
            cause="healthy",
            how="«flash attention enabled but not supported by model», «quantized kv cache requested but "
            "flash attention "
            "disabled»: Ollama falls back by itself, as it does for embedding models.",
        ),
    ),
    signs=(KV_TYPE, KV_IGNORED, FLASH, ARGUMENT, VARIABLE, OPTION, IGNORED),
    explains=("runner_crash_bug",),
    check=check,
)
