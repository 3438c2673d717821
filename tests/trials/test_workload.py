"""Prompts: unique from the first token on, of an exact size, readable from the user's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.errors import UsageError
from narthex.trials.workload import WORKLOADS, Prompts, read_prompts

BEGIN = 2


def letters(text: str) -> list[int]:
    """A tokenizer with one token a character and a begin-of-text token, as the engine's has."""
    return [BEGIN, *text.encode()]


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("count", [1, 2, 63, 4096])
def test_a_prompt_has_exactly_the_tokens_asked_for(name: str, count: int) -> None:
    ids = Prompts(name).tokens(count, letters)
    assert len(ids) == count
    assert ids[0] == BEGIN


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_two_prompts_share_their_first_words(name: str) -> None:
    source = Prompts(name)
    starts = {source.text(400)[:12] for _ in range(500)}
    assert len(starts) == 500


def test_two_sources_never_make_the_same_prompt() -> None:
    assert Prompts("chat").text(100)[:12] != Prompts("chat").text(100)[:12]


def test_what_follows_the_unique_word_is_the_same_in_every_run() -> None:
    first, second = Prompts("code").text(2000), Prompts("code").text(2000)
    assert first[12:] == second[12:]


def test_the_text_varies_within_one_prompt() -> None:
    lines = Prompts("document").text(20_000).split(". ")
    assert len(set(lines)) > 0.95 * len(lines)


def test_a_tokenizer_with_long_tokens_still_gets_the_size() -> None:
    def words(text: str) -> list[int]:
        return list(range(len(text.split())))

    assert len(Prompts("chat").tokens(1000, words)) == 1000


def test_own_prompts_are_repeated_until_the_size_is_reached() -> None:
    source = Prompts(own=("Why is the sky blue?",))
    ids = source.tokens(500, letters)
    assert len(ids) == 500
    assert "Why is the sky blue?" in bytes(ids[1:]).decode()
    assert source.label.startswith("own:")


def test_own_prompts_with_other_text_have_another_label() -> None:
    assert Prompts(own=("a",)).label != Prompts(own=("b",)).label


def test_an_unknown_workload_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="poetry"):
        Prompts("poetry")


def test_prompts_are_read_from_text_between_lines_of_dashes(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("First\nquestion?\n---\n\nSecond one.\n---\n")
    assert read_prompts(file) == ("First\nquestion?", "Second one.")


def test_prompts_are_read_from_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "One", "id": 4}\n\n{"prompt": "Two"}\n')
    assert read_prompts(file) == ("One", "Two")


@pytest.mark.parametrize("content", ["", "---\n---\n", '{"prompt": 3}', '{"question": "x"}', "{broken"])
def test_a_file_without_prompts_is_a_usage_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prompts"
    file.write_text(content)
    with pytest.raises(UsageError):
        read_prompts(file)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_prompts(tmp_path / "none.txt")


def test_a_text_has_about_the_tokens_asked_for_once_the_source_was_counted() -> None:
    source = Prompts("code")
    text = source.text_of(400)
    source.learn(text, len(text) // 5)
    assert len(source.text_of(2000)) // 5 == pytest.approx(2000, rel=0.05)


def test_a_text_of_unknown_tokens_is_rather_too_short() -> None:
    assert len(Prompts("document").text_of(1000)) < 3.5 * 1000


def test_what_a_text_will_count_is_unknown_before_one_was_counted() -> None:
    source = Prompts("chat")
    text = source.text_of(300)
    assert source.expected(text) is None
    source.learn(text, 300)
    assert source.expected(text) == pytest.approx(300)


def test_a_few_tokens_teach_nothing() -> None:
    source = Prompts("chat")
    source.learn(source.text_of(5), 9)
    assert source.expected("x" * 100) is None


def test_texts_of_any_size_begin_with_a_word_of_their_own() -> None:
    source = Prompts("chat")
    texts = [source.text_of(size) for size in (1, 2, 12, 300) for _ in range(20)]
    assert len({text[:12] for text in texts}) == len(texts)
