"""Case files: strict about what they are, kind about what is missing in them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.reading.case import load_case, read_case
from narthex.doctor.sign import Sign
from narthex.errors import ExitCode, UsageError

OOM = Sign(r"out of memory")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return tmp_path / "case.json"


def write(path: Path, row: Any) -> Path:
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    return path


def test_each_kind_of_evidence_is_a_source(case: Path) -> None:
    write(case, {"evidence": {"ollama_log": "größe", "dmesg": ""}})
    assert [(text.kind, text.name, text.data) for text in read_case(case)] == [
        ("ollama_log", "ollama_log", "größe".encode()), ("dmesg", "dmesg", b"")
    ]  # fmt: skip


def test_quotes_are_word_for_word_from_the_case(case: Path) -> None:
    log = "a\r\n  CUDA error:   out of memory \x1b[0m\u2028x\nb"
    write(case, {"evidence": {"ollama_log": log}})
    (hit,) = load_case(case).evidence([OOM]).hits(OOM)
    assert hit.quote().text in log
    assert hit.quote().line == 2


def test_an_empty_object_of_evidence_is_a_case(case: Path) -> None:
    assert read_case(write(case, {"evidence": {}})) == []


def test_what_is_null_is_skipped_and_told_and_lists_are_lines(case: Path) -> None:
    write(case, {"evidence": {"dmesg": None, "ollama_log": ["a\n", "out of memory"]}})
    loaded = load_case(case)
    assert [row.what for row in loaded.skipped] == ["dmesg"]
    assert [text.data for text in loaded.texts] == [b"a\nout of memory"]


def test_a_kind_of_a_newer_version_is_read_as_what_it_looks_like(case: Path) -> None:
    write(case, {"evidence": {"kernel_ring": "[ 5022.696822] NVRM: Xid (PCI:0000:07:00): 79"}})
    loaded = load_case(case)
    assert [(text.kind, text.name) for text in loaded.texts] == [("dmesg", "kernel_ring")]
    assert [row.what for row in loaded.skipped] == ["kernel_ring"]


def test_a_bundle_s_readings_are_read_again(case: Path) -> None:
    readings = [
        {"name": "module.nvidia_uvm", "value": False, "text": "out of memory"},
        {"name": "ram", "gap": "no"},
    ]
    write(case, {"evidence": {}, "readings": readings, "live": True})
    evidence = load_case(case).evidence([OOM])
    assert evidence.live
    assert evidence.value("module.nvidia_uvm") is False
    assert evidence.hits(OOM)[0].entry.source == "host"


def test_stdin_is_a_case() -> None:
    assert len(read_case(Path("-"), io.BytesIO(b'{"evidence": {"dmesg": "x"}}'))) == 1


def test_a_case_that_powershell_wrote_is_read(case: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        case.write_bytes('{"evidence": {"dmesg": "größe"}}'.encode(encoding))
        assert read_case(case)[0].data == "größe".encode()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("", "is empty"),
        ("not json", "is no valid JSON"),
        ('{"evidence": {"dmesg": "x"', "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON"),
        ([1, 2], "holds no JSON object"),
        ({"ollama_log": "x"}, "holds no «evidence»"),
        ({"evidence": "x"}, "«evidence» that is no object"),
        ({"evidence": {"dmesg": 3}}, "«dmesg» is no text"),
        ({"evidence": {"dmesg": ["a", 3]}}, "«dmesg» is no text"),
        ({"evidence": {}, "readings": [{"value": 3}]}, "«readings»"),
        ({"evidence": {}, "live": "yes"}, "«live»"),
    ],
)
def test_what_is_no_case_is_one_sentence(case: Path, row: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_case(write(case, row))
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in caught.value.message


def test_a_case_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError):
            load_case(path)


def test_half_a_letter_and_bytes_that_are_no_letter_do_not_stop_the_reading(case: Path) -> None:
    case.write_bytes(b'{"evidence": {"ollama_log": "\\ud83d out of memory \xff"}}')
    assert b" out of memory " in read_case(case)[0].data
