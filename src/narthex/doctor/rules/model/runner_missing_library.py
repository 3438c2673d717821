"""The program that computes can't start: it, or a library that it needs, is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import loaded_later, quotes
from narthex.doctor.sign import Sign

LIBRARY = Sign(
    r"(?P<program>\S+): error while loading shared libraries: (?P<library>[^:]+):"
    r"|error while loading shared libraries: (?P<bare>[^:]+):|Library not loaded: (?P<dyld>\S+)"
    r"|Failed to load shared library '[^']*': (?P<python>[^:']+): cannot open shared object",
    words=["error while loading shared libraries", "library not loaded", "to load shared library"],
)
GLIBC = Sign(r"version `?'?(?P<needs>GLIBC(?:XX)?_[\d.]+|CXXABI_[\d.]+)'? not found")
BACKENDS = Sign(r"no backends are loaded|no CPU backend found|no backends? (?:was|were) found")
BINARY = Sign(
    r"llama-server binary not found|no suitable llama servers found|no llama servers? (?:found|available)"
    r"|ollama_llama_server\"?: executable file not found|unable to (?:find"
    r"|locate) (?:the )?(?:llama[- ]server|runner)"
    r"|error starting (?:llama-server|runner|the external llama server): .*(?:no such file|exec format error"
    r"|executable file not found)|fork/exec \S*(?:llama|runner)\S*: (?:no such file|exec format error)",
    words=["binary not found", "llama servers found", "llama server", "executable file not "
        "found", "unable to find",
           "unable to locate", "error starting", "fork/exec", "no llama server"],
)  # fmt: skip
STATUS = Sign(
    r"(?:runner|llama-server|llama_server|process has terminated)[^|]{0,60}(?:exit (?:status|code):? ?"
    r"(?P<status>127|0xc0000135|0xc0000139)|running: (?P<decimal>3221225781|3221225785))",
    words=["127", "0xc0000135", "0xc0000139", "3221225781", "3221225785"],
)
_DRIVERS = re.compile(
    r"libcuda\.so|libnvidia-|libvulkan|libze_"  # CUDA's and ROCm's others come with the package
)

REMEDY = Remedy(
    text="Install the whole package again, of one version; do not copy single files. Keep «ollama» and its "
    "folder "
    "lib/ollama side by side.",
    commands=(
        Command(text="ldd PROGRAM | grep 'not found'", safe=True, note="names every library that is missing"),
        Command(
            text="curl -fsSL https://ollama.com/install.sh | sh",
            safe=False,
            root=True,
            note="puts program and libraries in place again; the models stay",
        ),
        Command(
            text="docker pull ollama/ollama, then create the container anew with the same volume",
            safe=False,
            note="a broken image is mended by the next one, or by the one before",
        ),
    ),
    verify="ldd finds everything, and a model answers.",
    verify_commands=(Command(text='ollama run MODEL "hello"', safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """What the dynamic linker, Ollama or ggml says is missing."""
    hits = evidence.hits(LIBRARY, GLIBC, BACKENDS, BINARY, STATUS)
    if not hits:
        return
    named = [hit for hit in hits if not _is_status(hit)]
    over = loaded_later(evidence, hits[-1].entry) is not None
    missing = next((name for hit in named if (name := _missing(hit))), "")
    driver = bool(missing and _DRIVERS.search(missing))
    confidence = 0.95 if named and not driver else 0.45 if driver else 0.85
    yield Finding(
        cause="runner_missing_library",
        title=f"The runner can't start: {missing} is missing" if missing else "The runner can't start",
        severity=Severity.INFO if over else Severity.ERROR,
        confidence=confidence - (0.3 if over else 0.0),
        evidence=quotes([*named, *(hit for hit in hits if _is_status(hit))]),
        why=_why(missing, driver=driver, named=bool(named)),
        ruled_out=(
            RuledOut(
                cause="runner_crash_bug",
                why="It did not come as far as computing: status 127 and such lines come from starting a "
                "program.",
            ),
        ),
        remedy=REMEDY,
        about=missing,
    )


def _is_status(hit: Hit) -> bool:
    return "status" in hit.match.groupdict()


def _missing(hit: Hit) -> str:
    groups = hit.match.groupdict()
    for name in ("library", "bare", "dyld", "python", "needs"):
        if groups.get(name):
            return str(groups[name]).strip()
    plain = hit.entry.plain.lower()
    if "binary not found" in plain or "error starting llama-server" in plain:
        return "llama-server"
    return "every ggml back end" if "backend" in plain else ""


def _why(missing: str, *, driver: bool, named: bool) -> str:
    if driver:
        return (
            f"The program needs {missing}, which the GPU's driver or toolkit brings: perhaps the package is "
            f"whole, and "
            "the driver is not to be seen from here (a container that was started without its GPU)."
        )
    if missing:
        return f"The system could not start the runner because {missing} was not found."
    if named:
        return "Ollama found no program that could run the model."
    return (
        "The runner ended with the status of a program whose libraries are not found (127; on Windows "
        "0xc0000135)."
    )


RULE = Rule(
    slug="runner_missing_library",
    title="The runner's program or libraries are missing",
    area="model",
    meaning="Ollama starts a second program for each model. That program, or a library that it was linked "
    "with, is "
    "not on this machine: a fault of packaging, a half-done update, or a file copied without its neighbours.",
    signature=(
        "error while loading shared libraries: libllama.so: cannot open shared object file",
        "llama runner process has terminated: exit status 127",
        "llama-server binary not found (checked: …)",
        "no backends are loaded",
        "version `GLIBC_2.38' not found",
    ),
    certain="`ldd` on the program lists what is not found.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="container_started_without_gpu",
            how="The missing library is the driver's own (libcuda.so.1): the container lacks its GPU, not a "
            "package.",
        ),
        LookAlike(cause="runner_crash_bug", how="It started, and died at work."),
    ),
    signs=(LIBRARY, GLIBC, BACKENDS, BINARY, STATUS),
    explains=("runner_crash_bug",),
    check=check,
)
