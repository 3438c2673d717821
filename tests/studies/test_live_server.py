"""A study of a server that narthex did not start, put together as the command does it."""

from __future__ import annotations

import msgspec
import pytest

from narthex.engines._base import Engine, EngineDevice, Limits
from narthex.errors import UsageError
from narthex.host.facts import HostFacts
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.profiles.choose import profile_from
from narthex.studies.baselines import House
from narthex.studies.live import ServerFacts, live_study
from narthex.studies.records import Question, StudyResult
from narthex.studies.screen import Silent
from narthex.testing.modelled_runner import ModelledRunner
from narthex.testing.samples import CARD, engine, host, soak_report
from narthex.testing.study_builders import dense_model, machine, question
from narthex.trials.soak import SoakReport
from narthex.trials.trial import ModelRef, Trial, Watch
from narthex.units import GIB, MIB

FREE = 7 * GIB
MODELLED = machine(
    all_layers=17, layer_bytes=416 * MIB, kv_bytes=4096, gpu_free_bytes=FREE - 600 * MIB, cores=8
)
LIMITS = Limits(
    fixed={"kv_type": "f16", "flash_attn": "auto", "parallel": 1, "cpu_moe": 0},
    why={"kv_type": "OLLAMA_KV_CACHE_TYPE is not set on the server"},
    one_batch=True,
)
MODEL = ModelRef(path="/blobs/sha256-1", identity="dense", name="Dense", layers=16, served_as="dense:7b")
NOW = KnobValues(num_ctx=16384, gpu_layers=8, batch=512, ubatch=512)
HOUSE = House(gpu_layers=6, num_ctx=8192)


def ollama() -> Engine:
    return msgspec.structs.replace(
        engine("0.33.0"),
        kind="ollama",
        path="http://127.0.0.1:11434",
        devices=(EngineDevice("CUDA0", CARD, FREE, FREE),),
        limits=LIMITS,
        variant="kv=f16 slots=1",
    )


def box() -> HostFacts:
    usual = host()
    card = msgspec.structs.replace(usual.gpus[0], total_bytes=FREE, free_bytes=FREE, used_bytes=0)
    return msgspec.structs.replace(usual, gpus=(card,))


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return dense_model(tmp_path_factory.mktemp("model") / "dense.gguf")


class Bench:
    """What a study ran, and what it soaked."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.runner = ModelledRunner(MODELLED)
        self.soaked: list[Trial] = []
        self.screen = Silent()
        self.stages: list[str] = []
        self.screen.watch = lambda stage, share: self.stages.append(stage)

    def soak(self, trial: Trial, seconds: float, watch: Watch) -> SoakReport:
        self.soaked.append(trial)
        return soak_report(seconds)

    def study(self, asked: Question) -> StudyResult:
        with Journal.open() as journal:
            return live_study(
                self.inspection,
                asked,
                self.runner,  # type: ignore[arg-type]
                journal,
                engine=ollama(),
                host=box(),
                house=HOUSE,
                current=NOW,
                model=MODEL,
                soak=self.soak,
                server=ServerFacts(
                    version="0.33.0", env={}, automatic_batch=lambda total_ctx: 1024, default_ctx=32768
                ),
                beside_bytes=256 * MIB,
                screen=self.screen,
            )


def asked(**values: object) -> Question:
    usual = question(min_ctx=16384, soak_s=60.0, pins={"batch": 512}, beside="comfyui", grow="ctx")
    return msgspec.structs.replace(usual, **values)


def test_it_asks_the_server_for_nothing_that_it_fixes(inspection: Inspection) -> None:
    bench = Bench(inspection)
    result = bench.study(asked())
    assert result.finished
    for trial in bench.runner.trials:
        knobs = trial.knobs
        assert (knobs.kv_type, knobs.flash_attn, knobs.parallel, knobs.cpu_moe) == ("f16", "auto", 1, 0)
        assert knobs.batch == knobs.ubatch
    baselines = {row.name: row.knobs for row in result.baselines}
    assert baselines["current"] == NOW
    assert (baselines["engine"].gpu_layers, baselines["engine"].batch) == (None, 1024)
    house = baselines["house"]
    assert (house.gpu_layers, house.batch, house.num_ctx) == (6, 256, 8192)


def test_its_answer_is_soaked_grown_and_kept_under_the_servers_own_name(inspection: Inspection) -> None:
    bench = Bench(inspection)
    result = bench.study(asked())
    assert result.chosen is not None
    assert [trial.knobs for trial in bench.soaked] == list(result.soaked_knobs)
    assert result.soaked_knobs[-1] == result.chosen
    made = profile_from(result, engine=ollama(), host=box())
    assert made.name.startswith("dense-7b-fastest-")
    assert (made.engine_kind, made.model.served_as, made.proven) == ("ollama", "dense:7b", True)


def test_it_tells_what_the_server_could_do_and_where_the_house_is_left(inspection: Inspection) -> None:
    bench = Bench(inspection)
    result = bench.study(asked(min_ctx=32768))
    assert bench.stages[-1].startswith("asking the plan what settings of the whole server")
    factors = {row["factor"] for row in result.extra["server_level"]}
    assert "kv_type" in factors
    assert result.extra["house_ratio"] > 0


def test_what_the_server_refuses_is_said_before_the_first_load(inspection: Inspection) -> None:
    bench = Bench(inspection)
    with pytest.raises(UsageError, match="OLLAMA_KV_CACHE_TYPE"):
        bench.study(asked(pins={"kv_type": "q8_0"}))
    assert not bench.runner.trials
