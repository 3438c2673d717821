"""A full disk: the system's words, df's table, readings, and what only sounds like it."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.testing.evidence import diagnosis_of

GIB = 1 << 30
FULL = "Error: write /root/.ollama/models/blobs/sha256-d0eeef-partial: no space left on device"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("commands", FULL),
        ("client_error", r"Error: write C:\Users\me\x-partial: There is not enough space on the disk."),
        (
            "ollama_log",
            "29fdb92e57cf part 24 attempt 1 failed: write /root/.ollama/models/blobs/sha256:29-partial: "
            "no space left on device, retrying",
        ),
        ("openwebui_log", "sqlite3.OperationalError: database or disk is full"),
        ("commands", "Error: write /home/u/.ollama/models/blobs/sha256-1-partial: disk quota exceeded"),
    ],
)
def test_it_is_told_in_the_words_of_each_system(kind: str, line: str) -> None:
    findings = diagnosis_of((), False, **{kind: line}).findings
    assert [finding.cause for finding in findings] == ["disk_full"]
    assert findings[0].evidence[0].text == line


def test_what_the_download_still_lacks_and_what_the_disk_has_is_said() -> None:
    commands = f"""
        pulling d0eeef8264ce...  61% ▕████████▏  48 GB/ 79 GB   27 MB/s  18m36s
        {FULL}
        $ df -h /root/.ollama
        Filesystem             Size  Used Avail Use% Mounted on
        /dev/mapper/vg00-root  9.6G  7.1G  2.1G  78% /
    """
    why = diagnosis_of(commands=commands).findings[0].why
    assert "31.0 GB of 79.0 GB" in why
    assert "/ has 2.1G free of 9.6G" in why


def test_a_pull_that_ended_well_later_makes_it_harmless() -> None:
    assert diagnosis_of(commands=f"{FULL}\n$ ollama rm old\n$ ollama pull big\nsuccess").healthy


def test_a_disk_of_this_machine_that_is_nearly_full_is_a_warning() -> None:
    row = Reading(
        name="disk",
        about="/models",
        text="/models: 2 GiB free",
        value={"free_bytes": 2 * GIB, "what": "the store"},
    )
    first = diagnosis_of([row], live=True).findings[0]
    assert (first.cause, str(first.severity)) == ("disk_full", "warning")
    assert first.evidence[0].text == "/models: 2 GiB free"


@pytest.mark.parametrize("value", [{"free_bytes": 900 * GIB}, {"free_bytes": None}, None])
def test_a_disk_with_room_or_unknown_is_nothing(value: object) -> None:
    assert (
        diagnosis_of([Reading(name="disk", about="/models", value=value, text="…")], live=True).findings == ()
    )


@pytest.mark.parametrize(
    "line",
    [
        "/dev/loop3       64M   64M     0 100% /snap/core20/1",
        "inotify_add_watch: no space left on device",
        "unable to write to file </torch_77_1>: No space left on device (28)",
        "/dev/sda1       100G   40G   60G  40% /",
    ],
)
def test_what_only_sounds_like_it(line: str) -> None:
    assert diagnosis_of(commands=line).findings == ()


def test_a_runner_that_could_not_be_unpacked_is_a_consequence() -> None:
    log = (
        'level=ERROR source=common.go:214 msg="failed to extract files" error="copy payload '
        'linux/arm64/cuda_v12/libggml.so: write /tmp/ollama2/runners/libggml.so: no space left on device"\n'
        'level=INFO source=sched.go:428 msg="NewLlamaServer failed" model=/m error="no suitable llama '
        'servers found"'
    )
    findings = diagnosis_of((), False, ollama_log=log).findings
    assert findings[0].cause == "disk_full"
    assert {finding.consequence_of for finding in findings[1:]} <= {"disk_full"}
