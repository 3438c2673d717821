"""The figures of /metrics: what is counted, under which names, and that strangers can't blow it up."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from narthex.gateway.ask import Rank
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Holding, Room, Snapshot, Waiting
from narthex.gateway.trouble import Trouble
from narthex.gateway.watch.counts import OTHER, Names
from narthex.gateway.watch.figures import FIGURES
from narthex.gateway.watch.metrics import CLIENTS, Metrics
from narthex.gateway.watch.record import RequestRecord

BIG = Offer(key="o:big", backend="ollama", name="big:32b", model="big:32b", twin="b")
SMALL = Offer(key="o:small", backend="ollama", name="small:1b", model="small:1b", twin="s")
ANSWERED = RequestRecord(
    id="r-1",
    at=1.0,
    api="ollama",
    path="/api/chat",
    role="fast",
    ran="small:1b",
    key="o:small",
    waited_s=0.2,
    first_byte_s=0.03,
    decode_tps=40.0,
    prompt_tokens=100,
    output_tokens=20,
)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample, as Prometheus' own parser reads it; None where there is none."""
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def test_an_answer_is_counted_with_its_tokens_waits_and_speed() -> None:
    metrics = Metrics()
    metrics.done(ANSWERED)
    metrics.done(ANSWERED)
    labels = {"api": "ollama", "role": "fast", "status": "200", "cause": ""}
    assert value(metrics, "narthex_requests_total", **labels) == 2
    assert value(metrics, "narthex_prompt_tokens_total", model="small:1b") == 200
    assert value(metrics, "narthex_output_tokens_total", model="small:1b") == 40
    assert value(metrics, "narthex_waited_seconds_sum", rank="interactive") == pytest.approx(0.4)
    assert value(metrics, "narthex_first_byte_seconds_bucket", model="small:1b", le="0.025") == 0
    assert value(metrics, "narthex_first_byte_seconds_bucket", model="small:1b", le="0.05") == 2
    assert value(metrics, "narthex_decode_tokens_per_second_count", model="small:1b") == 2


def test_asking_twice_counts_nothing_twice() -> None:
    metrics = Metrics()
    metrics.done(ANSWERED)
    assert metrics.text() == metrics.text()


def test_a_failed_request_is_counted_by_its_cause() -> None:
    metrics = Metrics()
    metrics.done(msgspec.structs.replace(ANSWERED, status=503, cause="vram_oom_on_load", ran=""))
    assert value(metrics, "narthex_errors_total", cause="vram_oom_on_load") == 1
    assert value(metrics, "narthex_output_tokens_total", model="small:1b") is None


def test_a_swap_is_put_down_to_the_client_that_caused_it() -> None:
    metrics = Metrics()
    metrics.evicted(SMALL, 1.5, "ide")
    metrics.loaded(BIG, 20.0, ["ide", "openwebui"], ["o:small"])
    assert value(metrics, "narthex_evictions_total", model="small:1b", client="ide") == 1
    assert value(metrics, "narthex_loads_total", model="big:32b", client="ide") == 1
    assert value(metrics, "narthex_swap_seconds_total", client="ide") == pytest.approx(21.5)


def test_a_first_load_and_an_idle_unload_cost_nobody_gpu_time() -> None:
    metrics = Metrics()
    metrics.loaded(BIG, 20.0, ["ide"], [])
    metrics.evicted(BIG, 1.0, "")
    assert value(metrics, "narthex_swap_seconds_total", client="ide") is None
    assert value(metrics, "narthex_evictions_total", model="big:32b", client="") == 1


def test_a_failed_load_is_counted_by_model_and_cause() -> None:
    metrics = Metrics()
    metrics.failed(BIG, Trouble(507, "vram_oom_on_load", "It does not fit."))
    assert value(metrics, "narthex_load_failures_total", model="big:32b", cause="vram_oom_on_load") == 1
    assert value(metrics, "narthex_errors_total", cause="vram_oom_on_load") == 1


def test_a_snapshot_shows_queue_residents_and_vram_by_tenant() -> None:
    metrics = Metrics()
    metrics.known([BIG, SMALL])
    metrics.collect(
        Snapshot(
            room=Room(total=20 << 30, reserve=1 << 30, others=2 << 30),
            holdings=(
                Holding(key="o:big", state="ready", held=15 << 30, running=2, since=0.0, idle_since=None),
                Holding(key="o:small", state="loading", held=None, running=0, since=0.0, idle_since=None),
            ),
            waiting=(Waiting(ticket=1, wants="o:small", rank=Rank.BACKGROUND, client="c", since=0.0),),
            remembered=(("o:x", 9.0),),
        )
    )
    assert value(metrics, "narthex_queue_length", rank="background") == 1
    assert value(metrics, "narthex_queue_length", rank="interactive") == 0
    assert value(metrics, "narthex_vram_bytes", tenant="big:32b") == 15 << 30
    assert value(metrics, "narthex_vram_bytes", tenant="small:1b") is None  # not known is not zero
    assert value(metrics, "narthex_vram_bytes", tenant="others") == 2 << 30
    assert value(metrics, "narthex_resident", model="small:1b", state="loading") == 1
    assert value(metrics, "narthex_running_requests", model="big:32b") == 2
    assert value(metrics, "narthex_remembered_failures") == 1
    assert value(metrics, "narthex_vram_total_bytes") == 20 << 30


def test_a_model_that_is_gone_is_gone_from_the_page() -> None:
    metrics = Metrics()
    metrics.known([BIG])
    there = Holding(key="o:big", state="ready", held=1, running=0, since=0.0, idle_since=0.0)
    metrics.collect(Snapshot(room=Room(), holdings=(there,), waiting=(), remembered=()))
    metrics.collect(Snapshot(room=Room(), holdings=(), waiting=(), remembered=()))
    assert value(metrics, "narthex_resident", model="big:32b", state="ready") is None
    assert value(metrics, "narthex_vram_total_bytes") is None


def test_names_from_outside_end_as_other() -> None:
    metrics = Metrics()
    for number in range(CLIENTS + 20):
        metrics.loaded(BIG, 1.0, [f"agent-{number}"], [])
    assert value(metrics, "narthex_loads_total", model="big:32b", client=OTHER) == 20


def test_a_name_that_is_known_stays_itself_when_the_list_is_full() -> None:
    names = Names(1)
    assert [names.of(name) for name in ("a", "b", "a", "")] == ["a", OTHER, "a", ""]


def test_every_figure_is_on_the_page_with_its_meaning() -> None:
    page = Metrics().text().decode()
    for figure in FIGURES:
        assert f"# HELP {figure.name} {figure.help}" in page
