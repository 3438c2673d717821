"""Trials and soaks of an engine that narthex did not start: it may go away, load anew, or be out of sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from narthex.engines._base import Failure, Loader, Watch
from narthex.errors import TenantError
from narthex.host.sampler import UNSEEN
from narthex.models.inspection import Inspection
from narthex.outcomes import Outcome
from narthex.tenants._base import JobsReport, Peak
from narthex.testing.ollama_stream import (
    Answer,
    Cut,
    OllamaStream,
    Script,
    StreamedLoader,
    StreamedModel,
    counted,
    generated,
    token,
    tokens_of,
)
from narthex.trials.runner import RETURNS, EngineRunner
from narthex.trials.soak import SoakLimit, soak
from narthex.trials.trial import Trial, Turn

Ask = Callable[..., Trial]
DOWN = Failure(outcome=Outcome.SERVER_DOWN, line="Ollama does not answer")


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


@pytest.fixture
def model() -> Iterator[StreamedModel]:
    """Answers all it is asked."""
    with OllamaStream(counted) as server:
        yield StreamedModel(server.url)


@pytest.fixture
def runner(inspection: Inspection) -> Callable[[Loader], EngineRunner]:
    return lambda loader: EngineRunner(loader, inspection)


Build = Callable[[Loader], EngineRunner]


@contextmanager
def loaded(answer: Answer, *, num_ctx: int = 4096, **given: Any) -> Iterator[StreamedLoader]:
    """One model behind one server."""
    with OllamaStream(answer) as server:
        yield StreamedLoader(StreamedModel(server.url, options={"num_ctx": num_ctx}, **given))


def dying(after: int) -> Answer:
    """A server whose connections break from the given request on."""
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Script:
        asked.append(body)
        return counted(body) if len(asked) <= after else [token(), Cut()]

    return answer


# ---- trials


def test_a_trial_takes_its_figures_from_the_answers(runner: Build, ask: Ask, model: StreamedModel) -> None:
    trial = ask(num_ctx=4096, repeats=2, turn=Turn(depth=1000, prompt_tokens=500, generate=40))
    seen = runner(StreamedLoader(model)).run(trial, quiet)
    assert seen.outcome is Outcome.DONE, seen.reason
    assert seen.prompt_tps == pytest.approx(1000)
    assert seen.decode_tps == pytest.approx(50)
    assert seen.turn_s == pytest.approx(500 / 1000 + 40 / 50)
    for turn in seen.turns:
        assert turn.prompt_tokens == pytest.approx(1500, rel=0.1)
        assert turn.generated == 40
    assert seen.doubts == ()


def test_a_full_context_is_nearly_filled_and_never_overrun(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    (end,) = runner(StreamedLoader(model)).run(ask(num_ctx=4096, purpose="manual"), quiet).end_turns
    assert 0.88 * 4096 < end.prompt_tokens + end.generated <= 4096
    assert end.depth == end.prompt_tokens - ask().turn.prompt_tokens


def test_a_turn_as_long_as_the_context_leaves_room_for_its_answer(runner: Build, ask: Ask) -> None:
    with OllamaStream(counted) as server:
        loader = StreamedLoader(StreamedModel(server.url, options={"num_ctx": 1024}))
        trial = ask(num_ctx=1024, turn=Turn(depth=704, prompt_tokens=256, generate=64), repeats=3)
        seen = runner(loader).run(trial, quiet)
    assert seen.outcome is Outcome.DONE, seen.reason
    for body in server.requests:
        assert tokens_of(body) + body["options"]["num_predict"] <= 1024


def test_of_an_engine_out_of_sight_nothing_of_this_machine_is_told(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    seen = runner(StreamedLoader(model)).run(ask(num_ctx=4096), quiet)
    assert (seen.peaks.ram_bytes, seen.peaks.load_1m, seen.joules, seen.bandwidth_share) == (None,) * 4
    assert UNSEEN in seen.gaps


def test_what_others_did_to_the_engine_is_a_doubt(runner: Build, ask: Ask, model: StreamedModel) -> None:
    model.stirred = "the model was loaded anew while it was measured"
    assert model.stirred in runner(StreamedLoader(model)).run(ask(num_ctx=4096), quiet).doubts


def test_a_load_in_the_middle_of_a_trial_is_a_doubt(runner: Build, ask: Ask) -> None:
    with loaded(lambda body: counted(body, load_s=1.28)) as loader:
        seen = runner(loader).run(ask(num_ctx=4096), quiet)
    assert any("loaded for 1.3 s" in doubt for doubt in seen.doubts)


def test_a_prompt_that_the_engine_always_cuts_is_truncated(runner: Build, ask: Ask) -> None:
    with loaded(lambda body: generated(8, min(32, tokens_of(body))), num_ctx=32) as loader:
        seen = runner(loader).run(ask(num_ctx=4096), quiet)
    assert seen.outcome is Outcome.PROMPT_TRUNCATED


# ---- a server that goes down


def test_after_the_server_came_back_the_trial_runs_again(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    loader = StreamedLoader(DOWN, model)
    seen = runner(loader).run(ask(num_ctx=4096), quiet)
    assert seen.outcome is Outcome.DONE
    assert seen.counts_as_load
    assert (loader.loaded, loader.waited) == (2, 1)
    assert any("went down once" in doubt for doubt in seen.doubts)


def test_a_server_lost_in_mid_trial_is_waited_for_and_nothing_is_counted_twice(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    with OllamaStream(dying(after=2)) as server:
        loader = StreamedLoader(StreamedModel(server.url, down=True), model)
        seen = runner(loader).run(ask(num_ctx=4096, repeats=3), quiet)
    assert seen.outcome is Outcome.DONE
    assert len(seen.turns) == 3


def test_a_server_that_stays_away_costs_no_load(runner: Build, ask: Ask) -> None:
    loader = StreamedLoader(DOWN, comes_back=False)
    seen = runner(loader).run(ask(num_ctx=4096), quiet)
    assert (seen.outcome, seen.counts_as_load) == (Outcome.SERVER_DOWN, False)
    assert (loader.loaded, loader.waited) == (1, 1)
    assert seen.doubts == ()


def test_a_setting_that_takes_the_server_down_each_time_is_a_result(runner: Build, ask: Ask) -> None:
    loader = StreamedLoader(DOWN)
    seen = runner(loader).run(ask(num_ctx=4096), quiet)
    assert (seen.outcome, seen.counts_as_load) == (Outcome.SERVER_DOWN, True)
    assert loader.loaded == 1 + RETURNS
    assert "each of 3 times" in seen.reason


# ---- soaks


def test_a_soak_fills_the_context_by_the_counts_that_came_back(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    report = soak(runner(StreamedLoader(model)), ask(num_ctx=4096), seconds=0.1, watch=quiet)
    assert report.outcome is Outcome.DONE, report.reason
    assert 0.9 <= report.fill_max <= 1


def test_a_soak_fills_again_where_the_first_prompts_were_too_short(runner: Build, ask: Ask) -> None:
    asked: list[int] = []

    def answer(body: dict[str, Any]) -> Script:
        asked.append(len(body["prompt"]))
        # The longer the text, the fewer tokens it has: what was learned from short ones misleads.
        count = len(body["prompt"]) // (4 if len(asked) == 1 else 5)
        return generated(body["options"]["num_predict"], count)

    with loaded(answer) as loader:
        report = soak(runner(loader), ask(num_ctx=4096), seconds=0.0, watch=quiet)
    assert report.outcome is Outcome.DONE, report.reason
    assert report.fill_max >= 0.9
    assert report.turns > 1


def test_a_soak_begins_anew_after_the_server_came_back(runner: Build, ask: Ask, model: StreamedModel) -> None:
    report = soak(runner(StreamedLoader(DOWN, model)), ask(num_ctx=4096), seconds=0.1, watch=quiet)
    assert report.outcome is Outcome.DONE
    assert any("began anew" in doubt for doubt in report.doubts)


def test_a_soak_whose_server_stays_away_says_so(runner: Build, ask: Ask) -> None:
    loader = StreamedLoader(DOWN, comes_back=False)
    report = soak(runner(loader), ask(num_ctx=4096), seconds=0.1, watch=quiet)
    assert (report.outcome, report.reason, report.turns) == (Outcome.SERVER_DOWN, DOWN.line, 0)


# ---- beside a tenant


class Jobs:
    """A tenant whose jobs end as they are told, one each time somebody asks."""

    name = "comfyui"

    def __init__(self, *reports: JobsReport, error: str = "") -> None:
        self.running = False
        self._reports = list(reports)
        self._error = error

    def describe(self) -> str:
        return self.name

    def must_be_ready(self) -> None:
        """Always."""

    def held_bytes(self) -> int | None:
        return None

    def measure(self, watch: Watch) -> Peak:
        return Peak(bytes=None, source="", jobs=0)

    @contextmanager
    def job(self) -> Iterator[Jobs]:
        if self._error:
            raise TenantError(self._error, hint="Start it.")
        self.running = True
        yield self
        self.running = False

    def report(self) -> JobsReport:
        return self._reports.pop(0) if len(self._reports) > 1 else self._reports[0]


def test_a_soak_beside_a_tenant_tells_how_many_jobs_ran(runner: Build, ask: Ask) -> None:
    jobs = Jobs(JobsReport(done=0, failed=0), JobsReport(done=3, failed=0))
    running: list[bool] = []

    def answer(body: dict[str, Any]) -> Script:
        running.append(jobs.running)
        return counted(body)

    with loaded(answer) as loader:
        report = soak(runner(loader), ask(num_ctx=4096), seconds=0.1, watch=quiet, beside=jobs)
    assert report.outcome is Outcome.DONE, report.reason
    assert (report.beside, report.jobs) == ("comfyui", 3)
    assert "beside 3 jobs of comfyui" in report.reason
    assert all(running)
    assert not jobs.running


def test_a_failed_job_makes_the_soak_unstable_with_its_words(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    jobs = Jobs(JobsReport(done=1, failed=1, words=("CUDA out of memory",)))
    report = soak(runner(StreamedLoader(model)), ask(num_ctx=4096), seconds=60, watch=quiet, beside=jobs)
    assert report.outcome is Outcome.UNSTABLE
    assert "comfyui" in report.reason
    assert "CUDA out of memory" in report.reason
    assert report.broke is SoakLimit.TENANT
    assert report.turns == 1


def test_jobs_that_can_not_begin_say_nothing_of_the_setting(
    runner: Build, ask: Ask, model: StreamedModel
) -> None:
    jobs = Jobs(error="ComfyUI does not answer.")
    with pytest.raises(TenantError, match="ComfyUI does not answer"):
        soak(runner(StreamedLoader(model)), ask(num_ctx=4096), seconds=60, watch=quiet, beside=jobs)


def test_a_soak_alone_knows_of_no_jobs(runner: Build, ask: Ask, model: StreamedModel) -> None:
    report = soak(runner(StreamedLoader(model)), ask(num_ctx=4096), seconds=0.1, watch=quiet)
    assert (report.beside, report.jobs) == ("", None)
