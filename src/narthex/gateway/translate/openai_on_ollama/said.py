"""``Said``: what Ollama says in a line of its stream, or in a whole answer."""

from __future__ import annotations

from typing import Any

import msgspec


class Function(msgspec.Struct):
    """What is called."""

    name: str = ""
    arguments: dict[str, Any] | None = None


class Call(msgspec.Struct):
    """A tool call; ids came with 0.13."""

    function: Function
    id: str = ""


class Message(msgspec.Struct):
    """Of ``/api/chat``."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[Call] | None = None


class Token(msgspec.Struct):
    """One token and how likely it was."""

    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[Token] | None = None


class Said(msgspec.Struct):
    """Of ``/api/chat`` and ``/api/generate``."""

    message: Message | None = None
    response: str = ""
    thinking: str = ""
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    logprobs: list[Token] | None = None
    error: Any = None

    @property
    def text(self) -> str:
        """What is said, on either route."""
        return self.message.content if self.message is not None else self.response

    @property
    def thought(self) -> str:
        """What comes before it."""
        return self.message.thinking if self.message is not None else self.thinking

    @property
    def calls(self) -> list[Call]:
        """The tool calls."""
        return (self.message.tool_calls if self.message is not None else None) or []

    @property
    def usage(self) -> dict[str, int]:
        """In OpenAI's shape; Ollama leaves out a 0."""
        prompt, answered = self.prompt_eval_count, self.eval_count
        return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


decode = msgspec.json.Decoder(Said).decode
