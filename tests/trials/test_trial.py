"""A trial's model can be found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.models.gguf import inspect_file
from narthex.trials.trial import model_ref


def test_a_models_path_holds_from_any_folder(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gemma.parent)
    assert model_ref(inspect_file(gemma.name)).path == str(gemma)
