"""The clock of a server: times in its answers are its own, and another machine's clock may be wrong."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from narthex.engines.ollama.exchange import Exchange
from narthex.engines.ollama.records import ApiError, Server

_ASK_S = 10.0
_EXACT_S = 2.0  # an answer's Date is in whole seconds, and was on its way for a moment


def ahead_s(server: Server) -> float | None:
    """Seconds that the server's clock is ahead of ours; 0 on this machine. None where it does not tell.

    By the ``Date`` of an answer (RFC 9110), which Ollama sends with each. Raises ApiError.
    """
    if server.place != "elsewhere":
        return 0.0
    try:
        with Exchange(server.url, _ASK_S).open("GET", "/api/version", None, _ASK_S) as response:
            date = parsedate_to_datetime(response.headers.get("Date") or "")
    except TimeoutError as error:
        raise ApiError(f"no answer within {_ASK_S:g} s") from error
    except ValueError:
        return None
    ahead = date.timestamp() - time.time()
    return ahead if abs(ahead) > _EXACT_S else 0.0
