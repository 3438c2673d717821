"""Files of which nobody said what they are, and what can't be read as a log."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path

import pytest

from narthex.doctor.reading.files import read_files
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.sign import Sign
from narthex.errors import UsageError

OLLAMA = 'time=2025-09-01T16:44:15.151Z level=WARN source=gpu.go:605 msg="out of memory"\n'
OOM = Sign(r"out of memory")


def refusal(path: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_files([path])
    assert caught.value.hint
    return caught.value.message


def test_a_file_s_kind_is_told_and_its_name_is_the_path_as_given(tmp_path: Path) -> None:
    path = tmp_path / "today.txt"
    path.write_text(OLLAMA)
    (text,) = read_files([str(path)])
    assert (text.kind, text.name, text.path) == ("ollama_log", str(path), path)


def test_two_files_of_one_base_name_are_two_sources(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "server.log").write_text(OLLAMA)
    texts = read_files(
        [tmp_path / "a" / "server.log", tmp_path / "b" / "server.log", tmp_path / "a" / "server.log"]
    )
    evidence = read_evidence(texts, [OOM])
    assert [hit.entry.source for hit in evidence.hits(OOM)] == [
        str(tmp_path / "a" / "server.log"), str(tmp_path / "b" / "server.log")
    ]  # fmt: skip


def test_a_large_file_is_known_by_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("nothing\n" * 40_000 + OLLAMA * 5_000 + "nothing\n" * 40_000)
    assert read_files([path])[0].kind == "ollama_log"


def test_packed_and_wide_files_are_texts(tmp_path: Path) -> None:
    packed, wide = tmp_path / "x.gz", tmp_path / "x.txt"
    packed.write_bytes(gzip.compress(OLLAMA.encode()))
    wide.write_bytes(OLLAMA.encode("utf-16"))
    assert [text.kind for text in read_files([packed, wide])] == ["ollama_log", "ollama_log"]
    assert read_evidence(read_files([packed, wide]), [OOM]).count(OOM) == 2


def test_stdin_is_a_source() -> None:
    (text,) = read_files(["-"], io.BytesIO(OLLAMA.encode()))
    assert (text.kind, text.name, text.data) == ("ollama_log", "-", OLLAMA.encode())


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(OLLAMA,))
    writer.start()
    (text,) = read_files([pipe])
    writer.join()
    assert (text.kind, text.data) == ("ollama_log", OLLAMA.encode())


def test_an_empty_file_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "empty.log"
    path.touch()
    assert not read_evidence(read_files([path]), [OOM]).has(OOM)


def test_what_can_t_be_read_is_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.log").endswith("does not exist.")
    assert refusal(tmp_path).endswith("is a folder.")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(1000))
    assert refusal(model).endswith("is a model.")
    noise = tmp_path / "noise.log"
    noise.write_bytes(bytes(range(32)) * 99)
    assert refusal(noise).endswith("is not a text.")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(b"\x1f\x8bnonsense")
    assert "can't be read" in refusal(broken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user_is_told(tmp_path: Path) -> None:
    path = tmp_path / "secret.log"
    path.write_text(OLLAMA)
    path.chmod(0)
    assert refusal(path).endswith("may not be read by this user.")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_log(device: str) -> None:
    with pytest.raises(UsageError, match="is a device"):
        read_files([device])


def test_a_pipe_without_an_end_is_refused_and_not_swallowed() -> None:
    with open("/dev/zero", "rb") as endless, pytest.raises(UsageError, match=r"larger than 512 MiB"):
        read_files(["-"], stdin=endless)
