"""``LlamaLoader``: one model, loaded by a llama-server of its own for every setting."""

from __future__ import annotations

from pathlib import Path

from narthex.engines._base import Engine, RunningEngine, Watch
from narthex.engines.llama_launch import launch
from narthex.knobs import KnobValues


class LlamaLoader:
    """The :class:`narthex.engines._base.Loader` of llama-server."""

    def __init__(self, engine: Engine, model_path: str | Path, *, log_dir: Path) -> None:
        """``log_dir`` gets one file of output a start."""
        self.engine = engine
        self._model_path = model_path
        self._log_dir = log_dir

    def load(self, knobs: KnobValues, watch: Watch) -> RunningEngine:
        """A fresh process with this setting, ready. Raises LaunchFailed."""
        return launch(self.engine, self._model_path, knobs, log_dir=self._log_dir, watch=watch)

    def came_back(self, watch: Watch) -> bool:
        """No: each load starts a process of its own, so there is none to wait for."""
        return False
