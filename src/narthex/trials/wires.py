"""How a loaded engine is asked: one ``Wire`` for each kind, in a table by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from narthex.engines._base import RunningEngine
from narthex.outcomes import Outcome
from narthex.trials.llama_client import complete, tokenize
from narthex.trials.ollama_wire import OllamaWire
from narthex.trials.reply import Reply, Request, together
from narthex.trials.workload import Prompts


class Wire(Protocol):
    """Asks a loaded engine. ``RunningEngine.wire`` names the one to use."""

    @property
    def exact(self) -> bool:
        """Whether a prompt has exactly the tokens asked for, and an answer too."""
        ...

    def ask(
        self, engine: RunningEngine, prompts: Prompts, sizes: Sequence[int], request: Request
    ) -> list[Reply]:
        """One fresh prompt for each size in tokens, all at once. Failures are data."""
        ...


class LlamaWire:
    """llama-server's ``/completion`` with token ids."""

    exact = True

    def ask(
        self, engine: RunningEngine, prompts: Prompts, sizes: Sequence[int], request: Request
    ) -> list[Reply]:
        """One fresh prompt a slot, all at once."""
        try:
            ids = [prompts.tokens(size, partial(tokenize, engine.url)) for size in sizes]
        except (OSError, ValueError) as error:
            words = f"the text was not tokenized: {error}"
            return [Reply(outcome=Outcome.REQUEST_FAILED, error=words, lost=True)]
        # After Ctrl-C the engine is stopped, which ends its connections.
        return together([partial(complete, engine.url, prompt, request) for prompt in ids], cut=lambda: None)


WIRES: dict[str, Wire] = {"llama-server": LlamaWire(), "ollama": OllamaWire()}
