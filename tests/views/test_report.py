"""The page: whole, escaped, drawn from what was measured, and readable in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from narthex.journal.journal import Journal
from narthex.memory.plan import Device
from narthex.studies.records import StudyResult
from narthex.testing.studies import CHOSEN, MODEL, failure, record, study_result
from narthex.units import GIB, MIB
from narthex.views.report import svg
from narthex.views.report.charts import pareto_front
from narthex.views.report.memory import MemoryBar, MemoryPicture
from narthex.views.report.page import headline, render
from narthex.views.report.source import pictures, stored, unfinished

DATA = Path(__file__).resolve().parents[1] / "data" / "views"
PICTURE = MemoryPicture(
    device="CUDA0",
    kind="gpu",
    knobs=CHOSEN,
    free_bytes=19_950 * MIB,
    reserve_bytes=128 * MIB,
    bars=tuple(
        MemoryBar(
            num_ctx=ctx,
            model_bytes=18_100 * MIB,
            context_bytes=ctx * 136 * 1024,
            compute_bytes=100 * MIB,
            overhead_bytes=128 * MIB,
        )
        for ctx in (1024, 2048, 4096, 8192, 16384)
    ),
)


class Outline(HTMLParser):
    """Tags that were opened, and a complaint for each that was not closed in order."""

    VOID = frozenset({"meta", "br", "link", "input", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_asks_nobody_for_anything() -> None:
    page = render(study_result(), [PICTURE])
    tags = outline(page).seen
    assert not [tag for tag, _ in tags if tag in ("script", "link", "img", "iframe")]
    assert not re.search(r"""(src|href)\s*=|@import|url\(|https?://""", page)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags


def test_it_tells_the_verdict_the_trials_and_the_proof() -> None:
    page = render(study_result(), [PICTURE])
    assert (
        "5.00 s a turn at 8192 tokens of context: 5.5 times as fast as the engine&#39;s own placement."
        in page
    )
    assert "All 65 layers fit" in page
    assert "cudaMalloc failed" in page
    assert page.count('<span class="badge bad">out of memory while loading</span>') == 1
    assert "the card was at 83 °C" in page
    assert "power: this card does not tell" in page


def test_each_chart_has_a_title_and_a_description() -> None:
    page = render(study_result(), [PICTURE])
    tags = outline(page).seen
    charts = [attrs for tag, attrs in tags if tag == "svg"]
    assert len(charts) == 6  # memory, front, four curves of the soak
    names = {attrs.get("id") for _, attrs in tags}
    for chart in charts:
        assert chart["role"] == "img"
        assert set((chart["aria-labelledby"] or "").split()) <= names


def test_everything_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    result = study_result()
    result = msgspec.structs.replace(
        result,
        model=msgspec.structs.replace(MODEL, name=evil),
        engine=evil,
        verdict=evil,
        trials=(*result.trials, record(9, CHOSEN.with_(num_ctx=2048, kv_type=evil), failure(reason=evil))),
        extra={"limits": evil},
    )
    picture = msgspec.structs.replace(PICTURE, device=evil)
    page = render(result, [picture], notes=[evil])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7


def test_without_a_model_file_it_says_why_there_is_no_memory_picture() -> None:
    memory, gap = pictures(study_result())
    assert memory == ()
    assert gap == "the model file is not there any more."
    assert "No picture: the model file is not there any more." in render(
        study_result(), memory, memory_gap=gap
    )


def test_a_study_that_found_nothing_still_has_a_page() -> None:
    result = msgspec.structs.replace(
        study_result(),
        chosen=None,
        profile=None,
        soaks=(),
        baselines=(),
        trials=(record(1, CHOSEN, failure()),),
        verdict="Nothing fits.",
    )
    page = render(result)
    assert "Nothing is recommended." in page
    assert "No trial finished" in page
    outline(page)


def test_what_the_server_could_do_has_a_section_and_is_escaped() -> None:
    row = {
        "factor": "fit_target",
        "env": {"LLAMA_ARG_FIT_TARGET": "256"},
        "over": "the <b>best</b>",
        "why": "It leaves <i>more</i> free than is needed.",
        "cost": "It counts for every model.",
    }
    page = render(msgspec.structs.replace(study_result(), extra={"server_level": [row]}))
    assert "What the server could do" in page
    assert "LLAMA_ARG_FIT_TARGET=256" in page
    assert "<i>more</i>" not in page
    assert "What the server could do" not in render(study_result())


def test_a_tie_is_in_the_headline() -> None:
    result = msgspec.structs.replace(study_result(), tie=True)
    assert (
        headline(result) == "5.00 s a turn at 8192 tokens of context: a tie with the engine's own placement."
    )


def test_the_front_holds_what_no_other_trial_beats() -> None:
    result = study_result()
    front = pareto_front([r for r in result.trials if r.observation.turn_s is not None])
    assert [(r.trial.knobs.num_ctx, r.observation.turn_s) for r in front] == [(4096, 4.5), (8192, 5.0)]


def test_ticks_are_round_and_inside() -> None:
    assert svg.nice_ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert svg.nice_ticks(1.96, 2.04, 4) == [1.96, 1.98, 2.0, 2.02, 2.04]
    assert [text for _, text in svg.token_axis(4096, 16384, "").ticks] == ["4k", "8k", "16k"]
    assert [text for _, text in svg.time_axis(4.5, 112, "").ticks] == ["5", "10", "20", "50", "100"]


def test_the_memory_picture_is_the_planners(gemma: Path) -> None:
    from narthex.models.gguf import inspect_file

    inspection = inspect_file(gemma)
    model = msgspec.structs.replace(MODEL, path=str(gemma), identity=inspection.identity)
    devices = [msgspec.to_builtins(Device(name="CUDA0", kind="gpu", free_bytes=GIB, total_bytes=GIB))]
    result = msgspec.structs.replace(
        study_result(), model=model, chosen=CHOSEN.with_(gpu_layers=19), extra={"devices": devices}
    )
    memory, gap = pictures(result)
    assert gap == ""
    (picture,) = memory
    assert picture.device == "CUDA0"
    contexts = [bar.num_ctx for bar in picture.bars]
    assert contexts == sorted(contexts)
    assert CHOSEN.num_ctx in contexts
    assert [bar.need_bytes for bar in picture.bars] == sorted(bar.need_bytes for bar in picture.bars)
    outline(render(result, memory))


def journaled(journal: Journal, result: StudyResult, *, finish: bool) -> str:
    """A study with this result's rows."""
    study = journal.begin_study(
        key="k",
        question=msgspec.json.encode(result.question),
        model=result.model,
        engine_key=result.engine,
        host_key=result.host,
        argv=["tune", "model.gguf"],
    )
    for row in result.trials:
        journal.append_trial(study, row)
    if finish:
        journal.finish_study(study, verdict=result.verdict, result=msgspec.json.encode(result))
    return study


def test_a_stored_result_comes_back_as_it_was() -> None:
    with Journal.open() as journal:
        study = journaled(journal, study_result(), finish=True)
        body = journal.study(study).result
    assert body is not None
    assert stored(body, study) == study_result()


def test_a_study_that_was_cut_off_has_a_page_of_what_is_known() -> None:
    with Journal.open() as journal:
        study = journaled(journal, study_result(), finish=False)
        result = unfinished(journal.study(study), journal.trials(study), [], [])
    assert [row.name for row in result.baselines] == ["engine", "house"]
    page = render(result)
    assert "Not finished yet." in page
    assert "cut off" in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_no_page_is_wider_than_its_window(tmp_path: Path, width: int) -> None:
    """Real headless Chromium lays the page out; what sticks out of a scroll region is an error."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: the page was not laid out for real")
    (tmp_path / "page.html").write_text(render(study_result(), [PICTURE]), encoding="utf-8")
    frame = (DATA / "frame.html").read_text(encoding="utf-8").replace("WIDTH", str(width))
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files "
        "--virtual-time-budget=5000 --window-size=1300,4200 --dump-dom "
        f"--user-data-dir={tmp_path / 'profile'}"
    )
    said = subprocess.run(
        [browser, *flags.split(), f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = re.search(r"wide=(\d+) outside=(.*?) letters=([\d.]+) end", said)
    assert found, said[-2000:]
    assert int(found[1]) == width
    assert found[2] == ""
    assert float(found[3]) >= 9  # px
