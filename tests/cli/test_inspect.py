"""``narthex inspect`` as a person and as a program use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from narthex.cli.commands.inspect import as_text, command
from narthex.cli.main import main
from narthex.models.gguf import inspect_file
from narthex.testing.gguf_writer import write_gguf


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_promised_fields_are_there(gemma: Path) -> None:
    data = json.loads(printed(str(gemma), "--json"))
    promised = {
        "architecture": "gemma3",
        "name": "Gemma 3 270m",
        "layers": 18,
        "parameters": 268_098_176,
        "file_bytes": 253_113_024,
        "context_train": 32_768,
        "vocabulary": 262_144,
        "quantization": "Q4_K_M",
        "experts": 0,
    }
    assert {key: data[key] for key in promised} == promised
    assert data["attention"]["kinds"] == {"sliding": 15, "full": 3}
    assert data["attention"]["layers"][5]["kind"] == "full"
    assert data["group_bytes"]["embedding"] == 178_257_920


def test_a_person_reads_the_same_facts(gemma: Path) -> None:
    text = printed(str(gemma))
    assert text.startswith("Gemma 3 270m (gemma3)\n")
    for words in ("268.1 million", "Q4_K_M", "32,768 tokens in training", "262,144 tokens"):
        assert words in text
    assert "sliding window of 512 tokens, 1 KV head of 256  15  layers 0–4, 6–10, 12–16" in text
    assert "full attention, 1 KV head of 256                3   layers 5, 11, 17" in text


def test_a_file_can_not_write_to_the_terminal(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "general.name": "\x1b[2Jgone\r\n"}
    path = write_gguf(tmp_path / "a.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])
    text = as_text(inspect_file(path))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "�[2Jgone" in text


def test_a_name_that_is_no_text_is_still_printed(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 1}
    path = write_gguf(tmp_path / "a\udcff.gguf", metadata, [("token_embd.weight", (64, 10), "F16")])
    assert "a�.gguf" in printed(str(path))
    assert json.loads(printed(str(path), "--json"))["files"][0].endswith("a�.gguf")


def test_a_damaged_file_ends_with_its_exit_code_and_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF\x01\0\0\0" + bytes(100))
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(path)])
    out, err = capfd.readouterr()
    assert caught.value.code == 3
    assert out == ""
    assert "version 1" in err
    assert "Traceback" not in err
