"""ComfyUI refuses a workflow, or a node of it fails, for a reason that is no lack of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import later, quotes
from narthex.doctor.signs import comfyui, openwebui

_GPU = re.compile(
    r"out of memory|OutOfMemory|Allocation on device|CUDA error|HIP error|cuDNN|CUBLAS|no kernel image"
    r"|Torch not compiled with CUDA|NVIDIA driver|MPS backend|Processing interrupted|InterruptProcessing",
    re.IGNORECASE,
)
_FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "vae_name": "vae",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "model_name": "upscale_models",
}
_AFTER = 40  # lines of a traceback
REMEDY = Remedy(
    text="Read ComfyUI's own words: OpenWebUI shows only «Something went wrong :/». Put the missing file "
    "into its folder, or install the missing node, then load the workflow again.",
    commands=(
        Command(
            text="curl -s http://127.0.0.1:8188/history?max_items=1",
            safe=True,
            note="the last job's messages",
        ),
        Command(text="curl -s http://127.0.0.1:8188/models/checkpoints", safe=True, note="what ComfyUI has"),
    ),
    verify="The job ends with «Prompt executed in …».",
    verify_commands=(Command(text="curl -s http://127.0.0.1:8188/history?max_items=1", safe=True),),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A refused graph first (missing node, missing file, other), then a node that failed."""
    nodes = evidence.hits(comfyui.MISSING_NODE)
    missing = evidence.hits(comfyui.NOT_IN_LIST)
    invalid = evidence.hits(comfyui.INVALID_PROMPT, comfyui.INVALID_IMAGE)
    broken = [hit for hit in evidence.hits(comfyui.EXCEPTION) if not _of_gpu(evidence, hit)]
    if nodes:
        yield _node(evidence, nodes)
    elif missing:
        yield _file(evidence, missing, invalid)
    elif invalid:
        yield _graph(evidence, invalid)
    elif broken:
        yield _failed(evidence, broken)
    elif (finding := _of_readings(evidence)) is not None:
        yield finding
    elif hidden := evidence.hits(openwebui.IMAGE_FAILED):
        yield _hidden(hidden)


def _of_readings(evidence: Evidence) -> Finding | None:
    """The last job of a ComfyUI on this machine."""
    for row in evidence.all_readings("comfyui.last_job"):
        value = row.value if isinstance(row.value, dict) else {}
        error, node = str(value.get("error") or ""), str(value.get("node") or "")
        if value.get("status") != "error" or not error or _GPU.search(error):
            continue
        return Finding(
            cause="comfyui_job_failed",
            title=f"ComfyUI's last job failed in {node}" if node else "ComfyUI's last job failed",
            severity=Severity.WARNING,
            confidence=0.85,
            evidence=(evidence.quote_reading(row),),
            why=f"The workflow was accepted and a node of it failed: {error[:200]}.",
            ruled_out=(RuledOut(cause="comfyui_vram_oom", why="its error does not tell of memory"),),
            remedy=REMEDY,
            about=node,
        )
    return None


def _of_gpu(evidence: Evidence, hit: Hit) -> bool:
    """Memory and driver faults are told by other rules, and a person's stop is no fault."""
    return any(_GPU.search(entry.plain) for entry in evidence.around(hit.entry, before=2, after=_AFTER))


def _severity(evidence: Evidence, hits: Sequence[Hit]) -> Severity:
    """A job that ended well after it may be another workflow: still worth a look."""
    done = later(evidence, hits[-1].entry, comfyui.DONE)
    if done is not None and hits[-1].match.re is comfyui.EXCEPTION.pattern:
        done = later(evidence, done.entry, comfyui.DONE)  # the first ends the job that failed
    return Severity.WARNING if done else Severity.ERROR


def _finding(
    evidence: Evidence, hits: Sequence[Hit], title: str, why: str, remedy: Remedy, *, about: str = ""
) -> Finding:
    return Finding(
        cause="comfyui_job_failed",
        title=title,
        severity=_severity(evidence, hits),
        confidence=0.9,
        evidence=quotes(*hits, most=3),
        why=why,
        ruled_out=(
            RuledOut(cause="comfyui_vram_oom", why="no line tells of memory that ran out"),
            RuledOut(cause="comfyui_unreachable", why="ComfyUI itself tells of the failure"),
        ),
        remedy=remedy,
        about=about,
    )


def _node(evidence: Evidence, hits: Sequence[Hit]) -> Finding:
    name = next((found for hit in hits if (found := hit["node"] or hit["title"])), "")
    imports = evidence.hits(comfyui.IMPORT_FAILED)
    words = f"The workflow uses the node {name or 'type of a custom node'}, which this ComfyUI does not have"
    if imports:
        words += f"; a package of nodes could not be imported: {imports[0]['path'] or imports[0]['other']}"
    return _finding(
        evidence,
        [*hits[:2], *imports[:1]],
        f"ComfyUI lacks the node {name}" if name else "ComfyUI lacks a node",
        words + ".",
        Remedy(
            text="Install the package that brings the node (ComfyUI-Manager: Install Missing Custom "
            "Nodes), and start ComfyUI anew. Where it is installed, its import failed: the start of "
            "the log says why.",
            commands=(
                Command(text="curl -s http://127.0.0.1:8188/object_info | grep -o '\"NODE\"'", safe=True),
                Command(text="git -C custom_nodes clone URL-OF-THE-PACKAGE", safe=False,
                        note="custom nodes are foreign code: take those you trust"),
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        about=name,
    )  # fmt: skip


def _file(evidence: Evidence, hits: Sequence[Hit], invalid: Sequence[Hit]) -> Finding:
    hit = hits[0]
    folder = _FOLDERS.get(hit["field"], "")
    empty = hit["known"].startswith("[]")
    names = ", ".join(dict.fromkeys(one["value"] for one in hits if one["value"]))
    words = f"The workflow asks for {names} ({hit['field']}), and ComfyUI does not know a file of that name"
    words += "; its list is empty: no file of that kind is where it looks" if empty else ""
    where = f"models/{folder}" if folder else "the folder of its kind below models/"
    return _finding(
        evidence,
        [*hits[:2], *invalid[:1]],
        f"ComfyUI lacks {names}",
        words + ".",
        Remedy(
            text=f"Put the file into {where} of ComfyUI (or name your folder in extra_model_paths.yaml), or "
            "choose a file that is there. In OpenWebUI: Admin Settings › Images, the model and the "
            "workflow.",
            commands=(
                Command(text=f"curl -s http://127.0.0.1:8188/models/{folder or 'checkpoints'}", safe=True,
                        note="what ComfyUI has"),
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        about=names,
    )  # fmt: skip


def _graph(evidence: Evidence, hits: Sequence[Hit]) -> Finding:
    return _finding(
        evidence,
        hits,
        "ComfyUI refuses the workflow",
        f"ComfyUI checked the workflow and refused it: {hits[0].entry.plain[:160]}",
        Remedy(
            text="Export the workflow in API format (Workflow › Export (API)), and see that OpenWebUI's "
            "table of node numbers (COMFYUI_WORKFLOW_NODES) fits it. A picture that it loads has to "
            "be uploaded first.",
            commands=REMEDY.commands,
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
    )


def _failed(evidence: Evidence, hits: Sequence[Hit]) -> Finding:
    hit = hits[-1]
    reason = hit["what"].strip(" !") or _last_line(evidence, hit)
    return _finding(
        evidence,
        hits[-2:],
        "A node of ComfyUI failed",
        f"The workflow was accepted and a node of it failed: {reason[:200] or 'the lines after it say how'}.",
        Remedy(
            text="The last line of the traceback names the reason, the lines above it the node's package. "
            "Update that package, or try without custom nodes.",
            commands=(
                *REMEDY.commands,
                Command(text="start ComfyUI with --disable-all-custom-nodes", safe=False, note="for a test"),
            ),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
    )


def _last_line(evidence: Evidence, hit: Hit) -> str:
    lines = [entry.plain for entry in evidence.around(hit.entry, before=0, after=_AFTER)]
    return next((line for line in lines if re.match(r"[\w.]*(?:Error|Exception)\b", line)), "")


def _hidden(hits: Sequence[Hit]) -> Finding:
    return Finding(
        cause="comfyui_job_failed",
        title="OpenWebUI could not make an image",
        severity=Severity.ERROR,
        confidence=0.4,
        evidence=quotes(*hits[:2]),
        why="OpenWebUI shows this for everything that goes wrong with an image: ComfyUI not reached, a "
        "refused workflow, a missing file, memory that ran out. ComfyUI's own log knows which.",
        remedy=REMEDY,
    )


RULE = Rule(
    slug="comfyui_job_failed",
    title="ComfyUI can't run the workflow",
    area="frontend",
    meaning="ComfyUI refuses a workflow because a node or a file that it names is not there, or a node "
    "fails while it runs. OpenWebUI shows all of that as «Something went wrong :/».",
    signature=(
        "Value not in list: ckpt_name: 'sd15.safetensors' not in []",
        "Cannot execute because node X does not exist",
        "invalid prompt: {'type': 'prompt_outputs_failed_validation', …}",
        "!!! Exception during processing !!!",
    ),
    certain="The same workflow fails in ComfyUI's own page, which marks the node in red.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(cause="comfyui_vram_oom", how="There the exception is an out of memory of the card."),
        LookAlike(cause="comfyui_unreachable", how="There ComfyUI's log has no line of the job at all."),
    ),
    signs=(),
    readings=("comfyui.last_job",),
    check=check,
)
