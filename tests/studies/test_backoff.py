"""After a failure one parameter goes down, in the order of the policy."""

from __future__ import annotations

from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.studies.backoff import back_off
from narthex.studies.records import Proposal, Stop
from narthex.testing.study_builders import knobs, record, space
from narthex.trials.trial import TrialRecord

ORDER = ("num_ctx", "gpu_layers", "batch")
SPACE = space(planned=False, layers=range(28, 34))


def after(
    start: KnobValues, *failures: TrialRecord, order: tuple[str, ...] = ORDER, floor: int = 4096
) -> Proposal | Stop:
    return back_off(start, Outcome.OUT_OF_MEMORY, SPACE, order, floor, failures)


def changed(start: KnobValues, step: Proposal | Stop) -> dict[str, tuple[object, object]]:
    assert isinstance(step, Proposal)
    return start.difference(step.knobs)


def test_the_context_goes_first() -> None:
    start = knobs(33, num_ctx=16384)
    assert changed(start, after(start)) == {"num_ctx": (16384, 8192)}


def test_the_context_never_goes_below_what_was_asked_for() -> None:
    start = knobs(33, num_ctx=8192)
    assert changed(start, after(start, floor=8192)) == {"gpu_layers": (33, 32)}


def test_layers_come_after_the_context() -> None:
    start = knobs(33, num_ctx=4096)
    assert changed(start, after(start)) == {"gpu_layers": (33, 32)}


def test_the_micro_batch_comes_last() -> None:
    start = knobs(28, num_ctx=4096, ubatch=512)
    assert changed(start, after(start)) == {"ubatch": (512, 128)}


def test_another_order_is_followed() -> None:
    start = knobs(33, num_ctx=8192, ubatch=512)
    assert changed(start, after(start, order=("batch", "gpu_layers", "num_ctx"))) == {"ubatch": (512, 128)}


def test_each_failure_of_one_parameter_doubles_the_step() -> None:
    start = knobs(33, num_ctx=4096)
    first, second = knobs(32, num_ctx=4096), knobs(30, num_ctx=4096)
    assert changed(first, after(first, record(start), record(first))) == {"gpu_layers": (32, 30)}
    more = after(second, record(start), record(first), record(second))
    assert changed(second, more)["gpu_layers"][1] in (28, 29)


def test_with_nothing_left_to_lower_it_stops() -> None:
    assert isinstance(after(knobs(28, num_ctx=4096, ubatch=128)), Stop)


def test_what_was_tried_is_not_tried_again() -> None:
    start = knobs(33, num_ctx=16384)
    tried = record(knobs(33, num_ctx=8192), 4.0)
    assert changed(start, after(start, tried)) == {"num_ctx": (16384, 4096)}


def test_the_step_says_why() -> None:
    step = after(knobs(33, num_ctx=16384))
    assert isinstance(step, Proposal)
    assert step.why == "out of memory: context 16384 → 8192"


def test_where_batch_and_micro_batch_are_one_value_they_are_one_parameter() -> None:
    one = space(planned=False, layers=range(28, 34), ubatches=(128, 256, 512), one_batch=True)
    start = knobs(28, num_ctx=4096, batch=512, ubatch=512)
    step = back_off(start, Outcome.OUT_OF_MEMORY, one, ORDER, 4096)
    assert isinstance(step, Proposal)
    assert (step.knobs.batch, step.knobs.ubatch) == (256, 256)
    assert step.why == "out of memory: micro-batch 512 → 256"
