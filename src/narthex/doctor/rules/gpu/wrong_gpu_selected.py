"""Another card is used than the one that is meant."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import cards, igpu_not_used, steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda

USING = Sign(
    r"using device \w+ \((?P<name>(?:[^()]|\([^()]*\))*)\)"
    r"|selecting single GPU for llama-server model.*?description=\"(?P<chosen>[^\"]*)\"",
    words=["using device", "selecting single gpu"],
)
LISTED = Sign(
    r"ggml_vulkan: \d+ = (?P<name>.+?) \(|Device \d+: (?P<card>[^,]+), compute capability"
    r"|inference compute\"? .*?description=\"(?P<told>[^\"]*)\"",
    words=["ggml_vulkan: ", "compute capability", "inference compute"],
)

REMEDY = Remedy(
    text="Name the card by its UUID: numbers change with the order of CUDA, of the bus and of Vulkan.",
    commands=(
        Command(text="nvidia-smi -L", safe=True, note="cards and UUIDs", argv=("nvidia-smi", "-L")),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="CUDA_VISIBLE_DEVICES=GPU-<uuid>"',
            safe=True,
            root=True,
            note="AMD: ROCR_VISIBLE_DEVICES; Vulkan: GGML_VK_VISIBLE_DEVICES; with numbers also "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID",
        ),
        Command(
            text='sudo systemctl edit ollama    # [Service] Environment="OLLAMA_VULKAN=0"',
            safe=True,
            root=True,
            note="where Vulkan takes the small one and leaves the NVIDIA card to nobody",
        ),
        Command(
            text="llama-server --main-gpu 0 --split-mode none",
            safe=False,
            note="for a llama-server of its own",
        ),
        steps.RESTART_OLLAMA,
    ),
    verify="The next load's lines «using device …» name the card that is meant, and nvidia-smi shows "
    "the process there.",
    verify_commands=(steps.SMI,),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A number without a card; or the small card works while a big one is listed."""
    bad = where.standing(evidence, [*evidence.hits(cuda.BAD_ORDINAL), *cuda.with_code(evidence, 101)])
    small = _small_instead_of_big(evidence)
    mistaken = [] if small else _taken_for_integrated(evidence)
    if not (bad or small or mistaken):
        return
    quotes = [hit.quote() for hit in (*bad[:3], *small, *mistaken)]
    yield Finding(
        cause="wrong_gpu_selected",
        title="Another GPU is selected than the one that is meant",
        severity=Severity.ERROR if bad else Severity.WARNING,
        confidence=_confidence(bad, small, mistaken),
        evidence=tuple(dict.fromkeys(quotes))[:4],
        why=_why(bad, small) if bad or small else _why_mistaken(evidence, mistaken),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(cause="gpu_not_visible", why="Cards are found; the choice among them is wrong."),
        ),
    )


def _small_instead_of_big(evidence: Evidence) -> list[Hit]:
    """«using device» of an integrated or software device only, and a discrete card in the list."""
    used = evidence.hits(USING)
    listed = evidence.hits(LISTED)
    if not used or any(cards.is_discrete(_name(hit)) for hit in used):
        return []
    big = [hit for hit in listed if cards.is_discrete(_name(hit))]
    small = [hit for hit in used if cards.is_integrated(_name(hit))]
    return [small[0], big[0]] if big and small else []


def _name(hit: Hit) -> str:
    return next((str(value) for value in hit.match.groupdict().values() if value), "")


def _taken_for_integrated(evidence: Evidence) -> list[Hit]:
    """A card with memory of its own that Ollama drops as integrated, and what is used instead of it. Where
    CUDA or ROCm uses the card, only its double under Vulkan is dropped, and all is well."""
    dropped = [
        hit
        for hit in evidence.hits(igpu_not_used.DROPPED)
        if cards.is_discrete(igpu_not_used.name_of(evidence, hit))
    ]
    used = [hit for hit in evidence.hits(LISTED) if hit["told"]]
    if not dropped or where.any_gpu(evidence, "cuda", "rocm") or evidence.has(igpu_not_used.OTHER):
        return []
    if any(cards.is_discrete(hit["told"]) for hit in used):
        return []
    return [dropped[-1], *used[-1:]]


def _confidence(bad: list[Hit], small: list[Hit], mistaken: list[Hit]) -> float:
    if bad:
        return 0.8
    if small:
        return 0.65
    return 0.85 if len(mistaken) > 1 else 0.5


def _why_mistaken(evidence: Evidence, mistaken: list[Hit]) -> str:
    text = f"Ollama drops {igpu_not_used.name_of(evidence, mistaken[0])} as integrated, which it is not"
    return text + (f", and uses {mistaken[1]['told']}." if len(mistaken) > 1 else ".")


def _why(bad: list[Hit], small: list[Hit]) -> str:
    if not bad:
        return f"The model is put on {_name(small[0])}, while {_name(small[1])} is in the machine."
    asked = next((hit for hit in bad if hit.match.groupdict().get("asked")), None)
    if asked is not None:
        have = f"; there are {asked['have']}" if asked["have"] else ""
        return f"Card number {asked['asked']} is asked for and is not there{have}."
    return "A card is asked for by a number that no card has (invalid device ordinal)."


RULE = Rule(
    slug="wrong_gpu_selected",
    title="The wrong GPU is selected",
    area="gpu",
    meaning="With several cards, the number that a setting names is not the card that is meant: "
    "orders differ "
    "between CUDA, the bus and Vulkan, and a card that is taken out moves the others.",
    signature=(
        "invalid value for main_gpu: 1 (available devices: 1)",
        "CUDA error: invalid device ordinal",
        "using device Vulkan0 (Intel(R) UHD Graphics), with a discrete card in the list",
        'dropping integrated GPU … description="NVIDIA GeForce …"',
    ),
    certain="Compare the PCI address in «using device» or in the fault with the one of the card "
    "that is meant.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="gpu_xid_app_fault", how="A fault of one process on the card that was meant."),
        LookAlike(cause="igpu_not_used", how="There is only an integrated GPU."),
    ),
    check=check,
    signs=(USING, LISTED, igpu_not_used.DROPPED, igpu_not_used.OTHER, *where.SIGNS),
    explains=("gpu_not_visible", "gpu_xid_app_fault"),
    overrules=("gpu_not_visible",),
)
