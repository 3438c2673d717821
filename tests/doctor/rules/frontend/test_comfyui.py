"""ComfyUI: refused graphs, missing files and nodes, failed nodes, and one that is not reached."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of

MISSING_FILE = """
    got prompt
    Failed to validate prompt for output 9:
    * CheckpointLoaderSimple 4:
      - Value not in list: ckpt_name: 'sd15.safetensors' not in []
    Output will be ignored
    invalid prompt: {'type': 'prompt_outputs_failed_validation'}
"""


def first(**texts: str) -> Finding:
    return diagnosis_of((), False, **texts).findings[0]


def test_a_missing_checkpoint_is_named_with_the_folder_it_belongs_in() -> None:
    finding = first(comfyui_log=MISSING_FILE)
    assert (finding.cause, finding.about) == ("comfyui_job_failed", "sd15.safetensors")
    assert "its list is empty" in finding.why
    assert "models/checkpoints" in finding.remedy.text


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("invalid prompt: Cannot execute because node FaceLoader does not exist.", "FaceLoader"),
        ('{"error": {"type": "missing_node_type", "message": "Node \'FaceDetailer\' not found."}}', ""),
    ],
)  # fmt: skip
def test_a_missing_node_is_named(line: str, name: str) -> None:
    finding = first(comfyui_log=line)
    assert finding.cause == "comfyui_job_failed"
    assert name in finding.title


@pytest.mark.parametrize(
    "line",
    [
        "!!! Exception during processing !!! IPAdapter model not found.",
        "- **Exception Message:** IPAdapter model not found.",
        "ERROR:root:!!! Exception during processing !!!\nFileNotFoundError: [Errno 2] No such file: "
        "'input/a.png'",
    ],
)
def test_a_node_that_failed_is_told_with_its_reason(line: str) -> None:
    finding = first(comfyui_log=line)
    assert finding.cause == "comfyui_job_failed"
    assert "model not found" in finding.why or "FileNotFoundError" in finding.why


@pytest.mark.parametrize(
    "reason",
    [
        "torch.OutOfMemoryError: Allocation on device",
        "RuntimeError: CUDA error: no kernel image is available",
    ],
)
def test_memory_and_the_driver_are_told_by_other_rules(reason: str) -> None:
    log = f"!!! Exception during processing !!! {reason}\nTraceback (most recent call last):\n{reason}"
    causes = [finding.cause for finding in diagnosis_of(comfyui_log=log).findings]
    assert "comfyui_job_failed" not in causes
    report = f"- **Exception Type:** {reason.split(':', maxsplit=1)[0]}\n- **Exception Message:** {reason}"
    causes = [finding.cause for finding in diagnosis_of(client_error=report).findings]
    assert "comfyui_job_failed" not in causes


def test_a_job_that_ended_well_later_makes_it_a_warning() -> None:
    finding = first(comfyui_log=f"{MISSING_FILE}\n    Prompt executed in 12.3 seconds")
    assert str(finding.severity) == "warning"


def test_openwebuis_word_for_everything_is_a_suspicion() -> None:
    finding = first(openwebui_log="ERROR [open_webui.routers.images] Something went wrong :/")
    assert (finding.cause, finding.confidence < 0.5) == ("comfyui_job_failed", True)


def test_a_healthy_run_is_nothing() -> None:
    log = """
        Total VRAM 10240 MB, total RAM 65418 MB
        To see the GUI go to: http://127.0.0.1:8188
        got prompt
        Prompt executed in 12.34 seconds
    """
    assert diagnosis_of(comfyui_log=log).findings == ()


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        (
            {"status": "error", "error": "FileNotFoundError: a.png", "node": "LoadImage (node 3)"},
            "comfyui_job_failed",
        ),
        ({"status": "success", "error": "", "node": ""}, None),
        ({"status": "error", "error": "OutOfMemoryError: Allocation on device", "node": "KSampler"}, None),
    ],
)
def test_the_last_job_of_this_machine_is_told(job: dict[str, str], cause: str | None) -> None:
    row = Reading(name="comfyui.last_job", about="http://127.0.0.1:8188", value=job, text="the last job")
    causes = [finding.cause for finding in diagnosis_of([row], live=True).findings]
    assert causes == ([cause] if cause else [])


@pytest.mark.parametrize(
    "line",
    [
        "Cannot connect to host comfyui:8188 ssl:default [Connection refused]",
        "ERROR | open_webui.utils.images.comfyui:comfyui_create_image:183 - Failed to connect to WebSocket "
        "server: [Errno 111]",
        "curl: (7) Failed to connect to 127.0.0.1 port 8188 after 0 ms: Connection refused",
    ],
)  # fmt: skip
def test_a_comfyui_that_is_not_reached(line: str) -> None:
    finding = first(openwebui_log=line)
    assert finding.cause == "comfyui_unreachable"
    assert "/system_stats" in finding.remedy.verify_commands[0].text


@pytest.mark.parametrize(("answers", "count"), [(False, 1), (True, 0)])
def test_on_this_machine_its_answer_decides(answers: bool, count: int) -> None:
    row = Reading(name="comfyui.answers", about="http://127.0.0.1:8188", value=answers, text="ComfyUI")
    assert len(diagnosis_of([row], live=True).findings) == count


def test_the_end_of_the_job_that_failed_is_no_job_that_went_well() -> None:
    failed = "!!! Exception during processing !!! no blocks\nPrompt executed in 0.61 seconds"
    assert str(first(comfyui_log=failed).severity) == "error"
    assert str(first(comfyui_log=f"{failed}\nPrompt executed in 9.1 seconds").severity) == "warning"
