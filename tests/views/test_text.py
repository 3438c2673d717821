"""What a person reads at the end of a study."""

from __future__ import annotations

import msgspec

from narthex.outcomes import Outcome
from narthex.studies.records import ServerProposal
from narthex.testing.studies import CHOSEN, OOM_LINE, failure, record, soak_report, study_result
from narthex.views.figures import best_baseline, chosen_speed, is_proven, soak_seconds
from narthex.views.table import table, width
from narthex.views.text import (
    OUTCOME_WORDS,
    compared,
    format_duration_fine,
    observation_words,
    soak_words,
    study_table,
)


def test_the_table_shows_before_after_why_limit_and_proof() -> None:
    text = study_table(study_result())
    assert "engine's own placement      27.6 s  9.80 t/s    921 t/s  5.52× as long" in text
    assert "» narthex                   5.00 s  55.2 t/s  1,661 t/s" in text
    assert "Why this setting: All 65 layers fit" in text
    assert "What limits it: the card's memory bandwidth" in text
    assert "Proven: in its soak it survived 2 min 30 s, 12 turns" in text
    assert "Doubt: the card was at 83 °C" in text
    assert "narthex profile export deepseek-32b-fastest --format llama-server" in text
    assert "narthex report 20261122-1a2b3c" in text


def test_a_baseline_that_cannot_be_compared_is_not_compared() -> None:
    result = study_result()
    engine = msgspec.structs.replace(result.baselines[0], why="measured in another way")
    result = msgspec.structs.replace(result, baselines=(engine, *result.baselines[1:]))
    text = study_table(result)
    assert "27.6 s  9.80 t/s    921 t/s  measured in another way" in text
    best = best_baseline(result)
    assert best is not None
    assert best[0].name == "house"


def test_the_rival_is_the_baseline_that_was_confirmed_against() -> None:
    result = study_result()
    quick = msgspec.structs.replace(result.baselines[1], record=result.trials[4])
    quick = msgspec.structs.replace(quick, knobs=result.trials[4].trial.knobs)  # 4.5 s, but never confirmed
    result = msgspec.structs.replace(result, baselines=(result.baselines[0], quick))
    best = best_baseline(result)
    assert best is not None
    assert best[0].name == "engine"


def test_a_replay_offers_no_report_because_it_is_not_stored() -> None:
    assert "narthex report" not in study_table(
        msgspec.structs.replace(study_result(), study="replay-1a2b3c4d")
    )


def test_the_lines_fit_a_usual_terminal() -> None:
    assert max(width(line) for line in study_table(study_result()).splitlines()) <= 100


def test_the_figures_come_from_the_confirming_trials() -> None:
    assert chosen_speed(study_result()).turn_s == 5.0


def test_a_study_without_a_winner_says_so_and_shows_no_profile() -> None:
    result = msgspec.structs.replace(
        study_result(), chosen=None, profile=None, verdict="No setting loaded.", soaks=(), soaked_knobs=()
    )
    text = study_table(result)
    assert "No recommendation: No setting loaded." in text
    assert "» narthex" not in text
    assert "profile export" not in text
    assert "Proven" not in text


def test_a_tie_is_called_a_tie() -> None:
    text = study_table(msgspec.structs.replace(study_result(), tie=True))
    assert "It is a tie" in text


def test_without_a_soak_it_is_not_proven() -> None:
    result = msgspec.structs.replace(study_result(), soaks=(), soaked_knobs=())
    assert not is_proven(result)
    assert "Not proven: it was not soaked." in study_table(result)
    assert "narthex soak deepseek-32b-fastest" in study_table(result)


def test_a_soak_of_another_setting_proves_nothing() -> None:
    result = msgspec.structs.replace(study_result(), soaked_knobs=(CHOSEN.with_(num_ctx=4096),))
    assert not is_proven(result)
    assert soak_seconds(result) == 0


def test_a_failed_soak_is_told_with_its_reason() -> None:
    bad = soak_report(Outcome.UNSTABLE, "VRAM grew by 12 MiB/s")
    result = msgspec.structs.replace(study_result(), soaks=(bad,))
    text = " ".join(study_table(result).split())
    assert "Not proven: the soak ended badly" in text
    assert text.count("VRAM grew by 12 MiB/s") == 1


def test_a_demo_says_that_it_is_one() -> None:
    result = study_result()
    demo = msgspec.structs.replace(result, question=msgspec.structs.replace(result.question, demo=True))
    assert "This is a demo" in study_table(demo)


def test_every_outcome_has_words() -> None:
    assert set(OUTCOME_WORDS) == set(Outcome)


def test_a_failure_keeps_the_line_that_proves_it() -> None:
    assert observation_words(failure()) == f"out of memory while loading: {OOM_LINE}"


def test_a_finished_trial_is_one_line_of_figures() -> None:
    line = observation_words(study_result().trials[3].observation)
    assert line == "turn 5.10 s · prompt 1,627 t/s · decode 54.6 t/s · load 6.10 s · VRAM 19.3 GiB"


def test_ratios_read_like_speech() -> None:
    assert compared(10.0, 5.0) == "2.00× as long"
    assert compared(5.05, 5.0) == "the same (±2%)"
    assert compared(None, 5.0) == ""
    assert format_duration_fine(0.1234) == "0.123 s"


def test_columns_line_up_with_wide_and_combining_characters() -> None:
    lines = table(("name", "n"), [("日本", "1"), ("e\u0301", "22")], right="lr").splitlines()
    assert lines == ["name   n", "────  ──", "日本   1", "e\u0301     22"]


def test_a_record_without_times_is_no_winner() -> None:
    result = msgspec.structs.replace(study_result(), trials=(record(1, CHOSEN, failure()),))
    assert chosen_speed(result).turn_s is None
    assert "?" in study_table(result)


def test_one_load_is_one_load() -> None:
    assert " · 1 load · " in study_table(msgspec.structs.replace(study_result(), engine_loads=1))
    assert " · 8 loads · " in study_table(study_result())


def test_a_soak_tells_whose_jobs_ran_beside_it_and_what_is_in_doubt() -> None:
    alone = soak_report()
    beside = msgspec.structs.replace(
        alone, beside="comfyui", jobs=1, doubts=("a request waited 2.5 s behind other requests",)
    )
    assert "beside" not in soak_words(alone)
    once = msgspec.structs.replace(alone, turns=1, errors=1)
    assert ", 1 turn, context filled to 97%, 1 error, " in soak_words(once)
    assert "beside 1 finished job of comfyui." in soak_words(beside)
    assert soak_words(beside).endswith("In doubt: a request waited 2.5 s behind other requests.")


PROPOSAL = ServerProposal(
    factor="kv_type",
    env={"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"},
    fixed={"kv_type": "q8_0"},
    knobs=CHOSEN,
    turn_s=4.0,
    over="the best that was measured",
    over_turn_s=5.0,
    over_ctx=4096,
    gain=1.25,
    why="It makes room for 65 GPU layers instead of 60.",
    cost="It counts for every model of this server.",
)


def proposed(*rows: ServerProposal) -> str:
    result = study_result()
    extra = {**result.extra, "server_level": msgspec.to_builtins(rows)}
    return study_table(msgspec.structs.replace(result, extra=extra))


def test_what_the_server_could_do_is_told_as_a_prediction_with_its_cost() -> None:
    text = " ".join(proposed(PROPOSAL).split())
    assert "predicted; each needs a restart" in text
    assert "OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1: a turn 1.25 times as fast" in text
    assert "4.00 s instead of 5.00 s (the best that was measured)" in text
    assert "65 GPU layers instead of 60. It counts for every model" in text
    longer = msgspec.structs.replace(PROPOSAL, gain=2.0, gain_of="context")
    assert "2.00 times the context, 8192 instead of 4096" in " ".join(proposed(longer).split())


def test_a_gain_that_is_no_matter_of_speed_has_no_figure() -> None:
    memory = msgspec.structs.replace(PROPOSAL, gain=None, gain_of="memory")
    assert "OLLAMA_FLASH_ATTENTION=1: It makes room" in " ".join(proposed(memory).split())


def test_where_nothing_is_proposed_the_server_is_not_mentioned() -> None:
    assert "whole server" not in proposed()
    assert "whole server" not in study_table(study_result())
