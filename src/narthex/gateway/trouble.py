"""``Trouble``: why a request gets no answer from a model, with the figures and the way out."""

from __future__ import annotations

from typing import Any


class Trouble(Exception):
    """A classified failure on its way to a client.

    ``cause`` is a slug of the doctor's rules, or one of the gateway's own. ``message`` is one sentence with
    the figures, ``remedy`` the way out. ``retry_after_s`` is given where trying again later makes sense.
    ``lasting``: the same request would fail again, so it is remembered for a while. ``unreached``: nothing of
    the request came to an engine, so it can be sent again.
    """

    def __init__(
        self,
        status: int,
        cause: str,
        message: str,
        *,
        remedy: str = "",
        retry_after_s: float | None = None,
        lasting: bool = False,
        figures: dict[str, Any] | None = None,
        evidence: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.message = message
        self.remedy = remedy
        self.retry_after_s = retry_after_s
        self.lasting = lasting
        self.figures = figures or {}
        self.evidence = evidence
        self.unreached = False

    @property
    def text(self) -> str:
        """What a person reads: the sentence, the way out, and the cause's name."""
        way = f" {self.remedy}" if self.remedy else ""
        return f"{self.message}{way} [narthex: {self.cause}]"
