"""What a study's answer would do on a card with another memory bandwidth. Predicted, never measured."""

from __future__ import annotations

from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection
from narthex.studies.cost_model import CostModel
from narthex.studies.live_space import cpu_share
from narthex.studies.records import StudyResult
from narthex.studies.space import Candidate, Space
from narthex.trials.roofline import traffic

USUAL_SHARE = 0.75
"""Share of its memory bandwidth that a workstation card reaches while decoding a large model: an assumption;
published llama.cpp figures of such cards lie between 0.65 and 0.85."""


def predict_turn_s(
    result: StudyResult,
    inspection: Inspection,
    knobs: KnobValues,
    *,
    here_bytes_s: float,
    there_bytes_s: float,
) -> float | None:
    """A turn's predicted seconds for one setting on a card with ``there_bytes_s``.

    The cost model is fitted to the study's own trials on this card (``here_bytes_s``); what the GPU reads
    is taken to come at :data:`USUAL_SHARE` of the other card's bandwidth, what the CPU reads stays.
    ``knobs.gpu_layers`` None stands for what the engine placed. None: the study has no finished trial, or
    it is not known what the engine placed.
    """
    every = inspection.layers + 1
    shares = tuple(cpu_share(inspection, KnobValues(gpu_layers=n), result.question) for n in range(every + 1))
    space = Space(
        candidates=(),
        all_layers=every,
        min_ctx=result.question.min_ctx or knobs.num_ctx,
        noise_gpu=0.01,
        noise_split=0.015,
        layer_shares=shares,
    )
    layers = knobs.gpu_layers
    if layers is None:
        placed = [r.observation.report for r in result.trials if r.trial.knobs == knobs]
        layers = next((report.offloaded_layers for report in placed if report), None)
    model = CostModel.of(result.question.turn, space, result.trials)
    if layers is None or not model.samples:
        return None
    placed_knobs = knobs.with_(gpu_layers=layers)
    share = cpu_share(inspection, placed_knobs, result.question)
    depth = result.question.turn.depth + result.question.turn.prompt_tokens
    roof_s = traffic(inspection, placed_knobs, depth=depth).gpu_bytes / (USUAL_SHARE * there_bytes_s)
    candidate = Candidate(knobs=knobs, cpu_share=share)
    return model.on_other_card(candidate, there_bytes_s / here_bytes_s, roof_s)
