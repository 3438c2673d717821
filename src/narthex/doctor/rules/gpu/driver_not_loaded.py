"""No working NVIDIA driver runs under this kernel."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit, Reading
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where, xids
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel

SECURE_BOOT = Sign(r"Key was rejected by service|Required key not available|SecureBoot enabled")
IN_CONTAINER = Sign(r"docker (?:exec|run|compose exec)|podman (?:exec|run)|kubectl exec|root@[0-9a-f]{12}:")

REMEDY = Remedy(
    text="Find out why the module does not load, and install or build the driver for the running kernel.",
    commands=(
        Command(
            text="sudo modprobe nvidia; sudo dmesg | tail -n 20",
            safe=True,
            root=True,
            note="says why: a refused key, another kernel's module, nouveau in the way",
        ),
        Command(
            text="dkms status; uname -r; mokutil --sb-state",
            safe=True,
            note="is the module built for this kernel, and is Secure Boot on?",
        ),
        Command(
            text="sudo dkms autoinstall && sudo modprobe nvidia",
            safe=True,
            root=True,
            note="needs the headers of the running kernel (linux-headers-$(uname -r))",
        ),
        Command(
            text="sudo mokutil --import /var/lib/shim-signed/mok/MOK.der",
            safe=True,
            root=True,
            note="with Secure Boot: enrols the key that signed the module; confirm it at the next boot",
        ),
        Command(
            text="echo -e 'blacklist nouveau\\noptions nouveau modeset=0' | "
            "sudo tee /etc/modprobe.d/blacklist-nouveau.conf",
            safe=True,
            root=True,
            note="where nouveau holds the card; then rebuild the initramfs and reboot",
        ),
        Command(
            text="sudo reboot", safe=False, root=True, note="where a new kernel waits, or nouveau is in use"
        ),
    ),
    verify="nvidia-smi lists the card; Ollama, restarted, names it in its line «inference compute».",
    verify_commands=(steps.SMI, Command(text="lsmod | grep nvidia", safe=True), steps.COMPUTE_LINE),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """nvidia-smi, the toolkit, modprobe or the kernel say so; or the card is there and the module is not."""
    said = _standing(evidence, evidence.hits(cuda.NO_DRIVER, kernel.NVIDIA_REFUSED, kernel.NVIDIA_NOT_PROBED))
    said += _standing(evidence, cuda.with_nvml_code(evidence, 9))
    live = _live(evidence)
    card = evidence.first(kernel.LSPCI_NVIDIA)
    weak = _standing(evidence, _weak(evidence, card))
    if not (said or live or weak):
        return
    dkms = [hit for hit in evidence.hits(kernel.DKMS_FAILED) if said or live or weak]
    nouveau = evidence.hits(kernel.NOUVEAU_IN_USE)
    quotes = [*live, *(hit.quote() for hit in (*said[:3], *weak[:2], *dkms[:1], *nouveau[:1]))]
    if card is not None:
        quotes.append(card.quote())
    yield Finding(
        cause="driver_not_loaded",
        title="No NVIDIA driver runs under this kernel",
        severity=Severity.CRITICAL,
        confidence=0.95 if live or said else 0.8 if card is not None else 0.4,
        evidence=tuple(dict.fromkeys(quotes))[:5],
        why=_why(evidence, bool(dkms), bool(nouveau)),
        remedy=REMEDY,
        ruled_out=(
            RuledOut(
                cause="driver_library_mismatch",
                why="That error would name two versions; here no module answers.",
            ),
            *(
                ()
                if xids.card_is_lost(evidence)
                else (RuledOut(cause="gpu_fell_off_bus", why="No lost card is told of."),)
            ),
        ),
    )


def _standing(evidence: Evidence, hits: list[Hit]) -> list[Hit]:
    works = evidence.hits(cuda.SMI_WORKS)
    return [
        hit
        for hit in where.standing(evidence, hits)
        if not any(where.comes_after(one.entry, hit.entry) for one in works)
    ]


def _weak(evidence: Evidence, card: Hit | None) -> list[Hit]:
    """What points here only with a card in the machine, or with nothing better."""
    if evidence.has(cuda.SMI_WORKS) or where.any_gpu(evidence, "cuda"):
        return []
    found = evidence.hits(cuda.TORCH_NO_DRIVER)
    if not evidence.has(IN_CONTAINER):
        found += evidence.hits(cuda.SMI_NO_LIBRARY)
    if card is not None:
        found += evidence.hits(kernel.NOUVEAU_IN_USE, kernel.DKMS_FAILED)
        if not evidence.has(IN_CONTAINER):
            found += evidence.hits(cuda.SMI_MISSING)
    return found


def _live(evidence: Evidence) -> list[Quote]:
    cards = evidence.reading("pci.nvidia")
    if cards is None or not cards.value:
        return []
    drivers = [row.value.get("driver") for row in _nvidia_cards(evidence)]
    if where.any_gpu(evidence) or (drivers and all(driver == "vfio-pci" for driver in drivers)):
        return []  # another card works, or the card is given to a virtual machine
    module = evidence.reading("module.nvidia")
    status = evidence.reading("nvml.status")
    missing = module is not None and module.value is False
    if not missing and not (status is not None and status.value == "DRIVER_NOT_LOADED"):
        return []
    rows = [module if missing else status, cards, *_nvidia_cards(evidence)[:1]]
    if evidence.value("module.nouveau") is True:
        rows.append(evidence.reading("module.nouveau"))
    if evidence.value("secure_boot") is True and evidence.value("module.nvidia_file") is True:
        rows.append(evidence.reading("secure_boot"))
    if evidence.value("module.nvidia_file") is False:
        rows.append(evidence.reading("module.nvidia_file"))
    return [evidence.quote_reading(row) for row in rows if row is not None]


def _nvidia_cards(evidence: Evidence) -> list[Reading]:
    rows = evidence.all_readings("pci.card")
    return [row for row in rows if isinstance(row.value, dict) and row.value.get("vendor") == "nvidia"]


def _why(evidence: Evidence, dkms: bool, nouveau: bool) -> str:
    """The likeliest of the reasons, the surest first."""
    on_disk, signed = evidence.value("module.nvidia_file"), evidence.value("secure_boot")
    reasons = (
        (
            evidence.has(SECURE_BOOT),
            "The kernel refuses the module because its key is not enrolled: Secure Boot is on.",
        ),
        (
            nouveau or evidence.value("module.nouveau") is True,
            "The card is there, and the free driver nouveau holds it; CUDA needs NVIDIA's own driver.",
        ),
        (
            on_disk is False,
            "No module of NVIDIA is on the disk for the kernel that runs: it was not built for it.",
        ),
        (
            on_disk is True and signed is True,
            "A module for this kernel is on the disk and not loaded, and Secure Boot is on: is its "
            "key enrolled?",
        ),
        (dkms, "The module could not be built for this kernel (DKMS failed), so none is loaded."),
        (
            evidence.has(kernel.NVIDIA_NOT_PROBED),
            "The module was loaded and took no card: another driver holds it, or this driver does "
            "not serve it.",
        ),
    )
    plain = "No NVIDIA module answers under the running kernel, so no program can use the card."
    return next((text for holds, text in reasons if holds), plain)


RULE = Rule(
    slug="driver_not_loaded",
    title="The NVIDIA driver is not loaded",
    area="gpu",
    meaning="The card is in the machine and no working NVIDIA module runs under this kernel: it was "
    "not built for "
    "it, its key is refused by Secure Boot, nouveau holds the card, or it was never installed.",
    signature=(
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
        "nvidia-container-cli: initialization error: nvml error: driver not loaded",
        "Kernel driver in use: nouveau",
    ),
    certain="`lspci` shows the card, `lsmod | grep ^nvidia` is empty, and `sudo modprobe nvidia` says why.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="driver_library_mismatch", how="A module is loaded, of another version than the libraries."
        ),
        LookAlike(
            cause="container_toolkit_or_driver_missing", how="The host's driver works; only containers fail."
        ),
        LookAlike(cause="gpu_fell_off_bus", how="The driver worked until the card stopped answering."),
    ),
    check=check,
    signs=(SECURE_BOOT, IN_CONTAINER, *where.SIGNS),
    readings=("pci.nvidia", "module.nvidia", "nvml.status", "pci.card"),
    explains=(
        "gpu_not_visible",
        "uvm_module_broken",
        "container_toolkit_or_driver_missing",
        "container_started_without_gpu",
        "gpu_discovery_timeout",
    ),
    overrules=("gpu_not_visible", "uvm_module_broken", "container_toolkit_or_driver_missing"),
)
