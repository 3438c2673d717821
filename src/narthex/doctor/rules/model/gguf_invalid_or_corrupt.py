"""The model's file is damaged, incomplete, or no model at all."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.model.telling import load_of, loaded_later, quotes, short
from narthex.doctor.sign import Sign

PROJECTOR = Sign(r"(?:unknown|unsupported) model architecture:? ?['\"]?clip\b")
NAMELESS = Sign(r"unknown model architecture: ?(?:''|\"\")|key not found in model: general\.architecture")
CUT = Sign(
    r"(?:data is )?not within (?:the )?file bounds|exceeds file size|model is corrupted or incomplete"
    r"|file is truncated|unexpectedly reached end of file|failed to read (?:tensor|key-value|magic|model)"
    r"|gguf_init_from\w+: failed to (?!open)\w+|tensor data (?:is )?(?:truncated|out of bounds)"
    r"|unexpected end of (?:file|gguf)",
    words=["file bounds", "exceeds file size", "corrupted or incomplete", "is truncated", "end of file",
           "failed to read", "gguf_init_from", "tensor data", "end of gguf"],
)  # fmt: skip
MAGIC = Sign(
    r"invalid (?:file )?magic(?: number| characters?)?:?(?: ?['\"]?(?P<magic>[^'\",. ]+))?"
    r"|GGUF magic invalid|bad magic|GGUFv1 is no longer supported|GGUF version \d+ is extremely large"
    r"|not a (?:valid )?GGUF file|not in GGUF format|file is not a GGUF|version https://git-lfs"
    r"|invalid GGUF (?:file|magic|header)",
    words=[
        "magic",
        "ggufv1",
        "gguf version",
        "gguf file",
        "gguf format",
        "not a gguf",
        "git-lfs",
        "invalid gguf",
    ],
)
SPLIT = Sign(
    r"failed to load GGUF split|illegal split file|invalid split (?:file|count|name)|missing (?:gguf )?split"
    r"|split file .*(?:not found|missing)",
    words=["gguf split", "split file", "invalid split", "missing split", "missing gguf split"],
)
MERGES = Sign(r"cannot find tokenizer merges in model file", words=["tokenizer merges"])
MANIFEST = Sign(r'msg="bad manifest"|corrupt manifests detected')

WHAT = {
    PROJECTOR: ("A projector was given as the "
        "model", "architecture «clip» is the picture part of a model (mmproj)"),
    CUT: ("The model's file is cut or "
        "damaged", "tensors lie beyond the end of the file, or it can't be read to its end"),
    NAMELESS: ("The file is no language "
        "model", "it names no architecture: a part of another kind of model, or a file left bare"),
    MAGIC: ("The file is no GGUF "
        "model", "its first bytes are not «GGUF»: an LFS pointer, a web page, zeros, an old format"),
    SPLIT: ("A part of the model is missing", "the model is split over several files, and one can't be used"),
    MERGES: ("The model's file was made without a part of its tokenizer", "the file holds no merges, which "
        "an old converter leaves out of a model that transformers 4.45 or newer has written"),
    MANIFEST: ("A model's manifest is damaged", "the small file that names the model's parts can't be read"),
}  # fmt: skip
REMEDY = Remedy(
    text="Fetch the file again and compare its hash with the publisher's. Damage that comes back is in the "
    "disk, the memory, or a proxy on the way.",
    commands=(
        Command(
            text="sha256sum FILE",
            safe=True,
            note="a blob's name is its hash: sha256-HASH; for other files see the publisher's page",
        ),
        Command(
            text="head -c 4 FILE", safe=True, note="prints GGUF for a model; «vers» is a Git LFS pointer"
        ),
        Command(
            text="ollama rm MODEL && ollama pull MODEL",
            safe=False,
            note="Ollama keeps a blob that is there, so remove the model first",
        ),
    ),
    verify="The hash fits, and the model loads.",
    verify_commands=(Command(text='ollama run MODEL "hello"', safe=True),),
)
PROJECTOR_REMEDY = Remedy(
    text="Give the language model as the model, and the projector beside it.",
    commands=(
        Command(text="llama-server -m MODEL.gguf --mmproj MMPROJ.gguf", safe=True),
        Command(
            text="In a Modelfile: a FROM line for the model, and a second FROM line for the projector",
            safe=True,
        ),
    ),
    verify="The log says «loaded meta data» for the model's file, whose architecture is not clip.",
)
MERGES_REMEDY = Remedy(
    text="Convert the model anew with today's convert_hf_to_gguf.py, or take a file that somebody else has "
    "converted. No newer Ollama can read what is not in the file.",
    commands=(
        Command(text="python convert_hf_to_gguf.py FOLDER --outfile MODEL.gguf", safe=True),
        Command(text="ollama create MODEL -f Modelfile", safe=True),
    ),
    verify="The converter warns of no missing merges, and the model loads.",
    verify_commands=(Command(text='ollama run MODEL "hello"', safe=True),),
)
REMEDIES = {PROJECTOR: PROJECTOR_REMEDY, MERGES: MERGES_REMEDY}


def check(evidence: Evidence) -> Iterator[Finding]:
    """The loader says what is wrong with the file."""
    for sign in (PROJECTOR, CUT, MAGIC, SPLIT, MERGES, NAMELESS, MANIFEST):
        hits = [hit for hit in evidence.hits(sign) if not _of_a_download(hit)]
        if not hits:
            continue
        last = hits[-1]
        load = load_of(evidence, last.entry)
        over = bool(load and load.model and loaded_later(evidence, last.entry, load.model))
        title, means = WHAT[sign]
        about = short(load.model) if load else ""
        yield Finding(
            cause="gguf_invalid_or_corrupt",
            title=title,
            severity=Severity.INFO if over else Severity.WARNING if sign is MANIFEST else Severity.ERROR,
            confidence={MANIFEST: 0.6, NAMELESS: 0.8}.get(sign, 0.95),
            evidence=quotes(hits),
            why=f"The loader says so: {means}." + (f" The model is {about}." if about else ""),
            ruled_out=(
                RuledOut(
                    cause="model_needs_newer_runtime",
                    why="It is not a name that the loader does not know: the file itself is not as it "
                    "must be.",
                ),
            ),
            remedy=REMEDIES.get(sign, REMEDY),
            about=about,
        )
        return


def _of_a_download(hit: Hit) -> bool:
    """Whether the line is about a connection that broke, and not about a file."""
    return any(word in hit.entry.plain for word in ("/v2/", "attempt ", "https://registry"))


RULE = Rule(
    slug="gguf_invalid_or_corrupt",
    title="The model's file is damaged or no model",
    area="model",
    meaning="The file was cut short, changed on the way, holds something else, or is the projector instead "
    "of the "
    "model. No setting helps: the file must be another one.",
    signature=(
        "tensor 'NAME' data is not within the file bounds, model is corrupted or incomplete",
        'tensor "NAME" offset+size (N) exceeds file size (M)',
        "invalid file magic; invalid magic number",
        "unknown model architecture: 'clip'",
        "cannot find tokenizer merges in model file",
    ),
    certain="Compare the file's SHA-256 with the publisher's; a blob of Ollama carries it in its name.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="model_needs_newer_runtime",
            how="The file is whole, and the loader names an architecture, tokenizer or tensor that it does "
            "not know.",
        ),
        LookAlike(
            cause="pull_digest_mismatch", how="The damage was seen while downloading, and nothing was kept."
        ),
    ),
    signs=(PROJECTOR, NAMELESS, CUT, MAGIC, SPLIT, MERGES, MANIFEST),
    explains=("runner_crash_bug",),
    overrules=("model_needs_newer_runtime",),
    check=check,
)
