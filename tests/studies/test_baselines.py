"""What a study is held against, also on a server that fixes some of it."""

from __future__ import annotations

from narthex.engines._base import Limits
from narthex.knobs import KnobValues
from narthex.studies.baselines import BaselineSetting, House, baselines_of
from narthex.testing.study_builders import question, space

SERVER = Limits(fixed={"kv_type": "q8_0", "flash_attn": "on", "parallel": 2}, one_batch=True)
SPACE = space()


def of(current: KnobValues | None = None, house: House | None = None, **given: object) -> dict[str, object]:
    rows = baselines_of(question(), SPACE, current, house, 16, **given)  # type: ignore[arg-type]
    return {row.name: row for row in rows}


def knobs_of(row: object) -> KnobValues:
    assert isinstance(row, BaselineSetting)
    return row.knobs


def test_the_server_decides_what_it_fixes_in_every_baseline() -> None:
    rows = of(KnobValues(num_ctx=8192, gpu_layers=20), limits=SERVER, batch=1024)
    for row in rows.values():
        found = knobs_of(row)
        assert (found.kv_type, found.flash_attn, found.parallel) == ("q8_0", "on", 2)
        assert found.batch == found.ubatch


def test_ollamas_own_placement_leaves_everything_to_it() -> None:
    engine = knobs_of(of(limits=SERVER, batch=1024)["engine"])
    assert (engine.gpu_layers, engine.threads, engine.batch) == (None, None, 1024)


def test_the_house_defaults_are_19_layers_and_one_batch_of_256() -> None:
    house = knobs_of(of(limits=SERVER)["house"])
    assert (house.gpu_layers, house.batch, house.ubatch, house.num_ctx) == (19, 256, 256, 4096)
    assert house.threads == 16


def test_a_start_point_of_the_policy_is_the_house_baseline() -> None:
    house = knobs_of(of(house=House(num_ctx=3500, threads=6))["house"])
    assert (house.num_ctx, house.threads, house.gpu_layers) == (3500, 6, 19)


def test_a_setting_of_today_that_the_server_cannot_run_says_why() -> None:
    row = of(KnobValues(batch=1024, ubatch=128), limits=SERVER)["current"]
    assert isinstance(row, BaselineSetting)
    assert "one value for both" in row.why_not
