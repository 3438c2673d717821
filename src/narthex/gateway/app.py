"""``Gateway``: one request after the other, from the door to the answer."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec
from aiohttp import web

from narthex.gateway.ask import Api, Ask
from narthex.gateway.asking import edited, read_ask
from narthex.gateway.conductor import Conductor, Granted
from narthex.gateway.door.door import Door, read_body
from narthex.gateway.fleet import NEW_S, OLD_S
from narthex.gateway.framing import refusal
from narthex.gateway.hands.llama import NOT_LOADED
from narthex.gateway.lease import StudyLease
from narthex.gateway.offer import Offer
from narthex.gateway.relay.relay import Relay
from narthex.gateway.routing.router import Route, Router
from narthex.gateway.routing.wishes import pins
from narthex.gateway.telling import Telling
from narthex.gateway.translate import translation_for
from narthex.gateway.trouble import Trouble
from narthex.gateway.turn import Turn
from narthex.gateway.watch.capture import Capture
from narthex.policy.records import GatewayPolicy

Handler = Callable[[web.BaseRequest, str, str], Awaitable[web.StreamResponse]]
"""Takes the request, the name of its client's key, and the request's id."""
ASKS = (
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
FAULT = "gateway_fault"
_TOO_LONG = "context_too_large"
_UNKNOWN = frozenset(("model_not_found", "ollama_unreachable"))
_HANGS = "model_load_hangs"
_IN_ASCII = str.maketrans({"«": '"', "»": '"', "·": ",", "–": "-", "’": "'", "\n": " "})


class Gateway:
    """The handler of the server. Its parts are made and started by :mod:`narthex.gateway.server`."""

    def __init__(
        self,
        policy: GatewayPolicy,
        *,
        door: Door,
        router: Router,
        conductor: Conductor,
        relay: Relay,
        telling: Telling,
        lease: StudyLease[Granted],
        keep_alive_of: Callable[[Offer], float],
        catch_up: Callable[[float], Awaitable[None]],
        capture: Capture | None = None,
    ) -> None:
        """``keep_alive_of``: how long an idle offer stays by its roles, in seconds; negative: for ever.
        ``catch_up`` looks again at what there is, where the last look is so many seconds old."""
        self.policy, self.door, self.router = policy, door, router
        self.conductor, self.relay, self.telling = conductor, relay, telling
        self.lease, self.capture, self._keep_alive_of = lease, capture, keep_alive_of
        self._catch_up = catch_up
        self.under_way = 0
        self._run, self._numbers = secrets.token_hex(3), itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._routes: dict[tuple[str, str], Handler] = {("POST", path): self._ask for path in ASKS}
        self._below: list[tuple[str, str, Handler]] = []

    def add_routes(self, routes: Mapping[tuple[str, str], Handler]) -> None:
        """More routes, by method and path. Method «*» is any; a path that ends in «/» takes all below it."""
        for (method, path), handler in routes.items():
            if path.endswith("/") and path != "/":
                self._below.append((method, path, handler))
            else:
                self._routes[method, path] = handler

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request comes here."""
        number = f"{self._run}-{next(self._numbers)}"
        path = request.rel_url.raw_path
        self.under_way += 1
        try:
            client = self.door.check(request)
            if request.method == "OPTIONS":  # of a page that the policy names; others were refused
                return web.Response(status=204, headers=self.door.cors(request))
            handler = self._routes.get((request.method, path)) or self._other(request.method, path)
            return self._shown_to(request, await handler(request, client, number))
        except Trouble as trouble:
            _must_be_first(request)
            return self._shown_to(request, refused(trouble, path, number))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            self.telling.fault(number, error)
            _must_be_first(request)
            return refused(_fault(error), path, number)
        finally:
            self.under_way -= 1

    def _shown_to(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        """With what lets a web page read it that the policy names."""
        if "Origin" in request.headers and not response.prepared:
            response.headers.update(self.door.cors(request))
        return response

    def _other(self, method: str, path: str) -> Handler:
        """Raises Trouble 404 or 405."""
        for verb, prefix, handler in self._below:
            if path.startswith(prefix) and verb in (method, "*"):
                return handler
        known = [verb for verb, known in self._routes if known == path]
        if known:
            words = f"{path} takes {' or '.join(sorted(known))}, not {method[:16]}."
            raise Trouble(405, "wrong_method", words)
        raise Trouble(
            404, "unknown_path", "There is nothing at this path.", remedy="GET /readyz tells what is served."
        )

    # requests for a model

    async def _ask(self, request: web.BaseRequest, client: str, number: str) -> web.StreamResponse:
        received = self._loop.time()
        body = await read_body(request, self.policy.body)
        ask = read_ask(
            request.rel_url.raw_path,
            request.headers,
            body,
            request_id=number,
            client=client,
            now=received,
            task_header=self.policy.task_header,
        )
        turn = Turn(ask)
        try:
            if ask.empty:
                return await self._load_only(ask, turn)
            return await self._answer(request, ask, turn)
        except Trouble as trouble:
            turn.status, turn.cause = trouble.status, trouble.cause
            raise
        except (asyncio.CancelledError, ConnectionError):
            turn.status, turn.cause = 499, "client_left"
            raise
        except Exception:
            turn.status, turn.cause = 500, FAULT
            raise
        finally:
            self.telling.asked(turn.record(self._loop.time() - received))

    async def _answer(self, request: web.BaseRequest, ask: Ask, turn: Turn) -> web.StreamResponse:
        """On the route's first choice that can be had; once more on a larger one where the engine says that
        the prompt is too long."""
        route = await self._routed(ask)
        try:
            return await self._on(route, request, ask, turn)
        except Trouble as trouble:
            other = await self._other_way(route, ask, trouble)
            if other is None:
                raise
            return await self._on(other, request, ask, turn)

    async def _routed(self, ask: Ask) -> Route:
        """Raises Trouble. A name that is not known may be a model's that was just pulled."""
        await self._catch_up(OLD_S)
        try:
            return self.router.route(ask)
        except Trouble as trouble:
            if trouble.cause not in _UNKNOWN:
                raise
        await self._catch_up(NEW_S)
        return self.router.route(ask)

    async def _other_way(self, route: Route, ask: Ask, trouble: Trouble) -> Route | None:
        """The same way where the engine was gone before it was asked, a larger setting where the prompt is
        too long; None where asking again makes no sense. Nothing was sent to the client yet."""
        if trouble.cause == NOT_LOADED or trouble.unreached:
            self.conductor.doubt()
            await self.conductor.look_briefly()
            return route
        needed = trouble.figures.get("n_prompt_tokens") if trouble.cause == _TOO_LONG else None
        return self.router.larger(ask, route, int(needed)) if needed else None

    async def _on(self, route: Route, request: web.BaseRequest, ask: Ask, turn: Turn) -> web.StreamResponse:
        granted = await self._place(route, ask, turn)
        captured = self.capture.begin(ask.id, ask.body) if self.capture is not None else None
        try:
            offer, hand = self.conductor.offer(granted.offer_key), self.conductor.hand(granted.offer_key)
            turn.offer = offer
            keep_alive_s = self._stay(route, offer, ask)
            upstream = hand.upstream(offer)
            translation = translation_for(ask, offer, upstream, keep_alive_s=keep_alive_s)
            if translation is not None:
                body = translation.body
            else:
                body = edited(ask, offer, upstream, keep_alive_s=keep_alive_s)

            async def explain(words: str, status: int | None) -> Trouble:
                trouble = await hand.explain(offer, words, status)
                if (
                    trouble.cause == _HANGS and offer.backend == "llama-server"
                ):  # it would keep the next one, too
                    self.conductor.let_go(offer.key, "it hangs")
                if status is None:  # who asks again is not sent to an engine that is gone
                    self.conductor.doubt()
                    await self.conductor.look_briefly()
                return trouble

            turn.tapped = await self.relay.relay(
                request,
                ask,
                upstream,
                body,
                headers=_headers(ask.id, route, offer, granted) | self._cors(request),
                translation=translation,
                explain=explain,
                copy=captured.feed if captured is not None else None,
            )
            turn.status = turn.tapped.status
            if turn.tapped.trouble is not None:  # told within the stream, whose status was said already
                turn.cause = turn.tapped.trouble.cause
            return turn.tapped.response
        finally:
            self.conductor.release(granted)
            if captured is not None:
                captured.end()

    async def _place(self, route: Route, ask: Ask, turn: Turn) -> Granted:
        """The first choice's that can be had. Raises Trouble. What another try came to counts no more."""
        turn.route, turn.granted, turn.offer = route, None, None
        self.lease.check(route.wait_s)
        turn.granted = await self.conductor.acquire(
            [offer.key for offer in route.choices],
            rank=ask.rank,
            client=ask.client,
            wait_s=route.wait_s,
            hold_s=route.hold_s,
        )
        return turn.granted

    def _cors(self, request: web.BaseRequest) -> dict[str, str]:
        return self.door.cors(request) if "Origin" in request.headers else {}

    def _stay(self, route: Route, offer: Offer, ask: Ask) -> float:
        """How long it stays once it is idle, in seconds: what the client may ask for, else the longest of
        its roles'; negative: for ever."""
        pinned = ask.keep_alive is not None and pins(ask.keep_alive)  # which the route has allowed
        stays = (route.keep_alive_s, self._keep_alive_of(offer))
        keep_alive_s = -1.0 if min(stays) < 0 else max(stays)
        self.conductor.keep(offer.key, keep_alive_s, pinned=pinned)
        return keep_alive_s

    async def _load_only(self, ask: Ask, turn: Turn) -> web.StreamResponse:
        """Ollama's request without a prompt: load, or with a keep_alive of 0 unload."""
        route = await self._routed(ask)
        turn.route = route
        reason, headers = "load", {"X-Narthex-Request-Id": ask.id}
        if ask.keep_alive in (0, "0", "0s", "0m"):
            reason = "unload"
            present = {row.key for row in self.conductor.snapshot().holdings}
            for offer in route.choices[:1]:
                if offer.key in present:
                    self.conductor.let_go(offer.key, "a client asked for it")
        else:
            granted = await self._place(route, ask, turn)
            try:
                offer = turn.offer = self.conductor.offer(granted.offer_key)
                self._stay(route, offer, ask)
                headers = _headers(ask.id, route, offer, granted)
            finally:
                self.conductor.release(granted)
        turn.status = 200
        answer = {
            "model": ask.model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            **({"message": {"role": "assistant", "content": ""}} if ask.kind == "chat" else {"response": ""}),
            "done": True,
            "done_reason": reason,
        }
        body = msgspec.json.encode(answer)
        return web.Response(body=body, headers=headers, content_type="application/json")


def refused(trouble: Trouble, path: str, number: str) -> web.Response:
    """A trouble as the answer, in the dialect of the path."""
    api: Api = "openai" if path.startswith("/v1/") else "ollama"
    status, headers, body = refusal(trouble, api, number)
    return web.Response(status=status, headers=headers, body=body)


def _must_be_first(request: web.BaseRequest) -> None:
    """Raises ConnectionError where a part of an answer is out: a second one would be taken for more of it."""
    if request.writer.output_size:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")


def _fault(error: Exception) -> Trouble:
    return Trouble(
        500,
        FAULT,
        f"narthex itself failed at this request ({type(error).__name__}).",
        remedy="Its log has the details under the request's id; please report it.",
    )


def _headers(number: str, route: Route, offer: Offer, granted: Granted) -> dict[str, str]:
    found = {
        "X-Narthex-Request-Id": number,
        "X-Narthex-Model": _plain(offer.name),
        "X-Narthex-Waited-Ms": str(round(granted.waited_s * 1000)),
    }
    if offer.profile:
        found["X-Narthex-Profile"] = _plain(offer.profile)
    if route.role:
        found["X-Narthex-Role"] = _plain(route.role)
    if granted.instead or route.instead:
        found["X-Narthex-Instead"] = _plain(granted.instead or route.instead)
    return found


def _plain(text: str) -> str:
    """What a header can hold: other signs than ASCII's are percent-encoded."""
    text = text.translate(_IN_ASCII)
    plain = text.isascii() and text.isprintable()
    return text if plain else quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~%")
