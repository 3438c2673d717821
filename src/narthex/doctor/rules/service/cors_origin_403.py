"""Ollama refuses a browser's page, or a name by which it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.service.places import quotes
from narthex.doctor.rules.service.steps import settings
from narthex.doctor.sign import Sign
from narthex.doctor.signs.comfyui import ORIGIN_REFUSED
from narthex.engines.ollama.durations import go_seconds

LOGGED = Sign(
    r"\[GIN\] [^|]*\| ?403 ?\| ?(?P<took>\S+) ?\| ?(?P<client>\S+) ?\| ?(?P<method>\w+) \"(?P<path>[^\"]*)\"",
    words=["| 403 |"],
)
BROWSER = Sign(
    r"(?:Access to \S+ at '(?P<url>[^']+)' )?(?:from origin '(?P<origin>[^']+)' )?"
    r"has been blocked by CORS policy"
    r"|Cross-Origin Request Blocked|No 'Access-Control-Allow-Origin' header"
    r"|CORS header ['‘’]?Access-Control-Allow-Origin"
    r"|Ollama requires additional (?:access|web) origins",  # what extensions say of the 403
    words=["blocked by cors policy", "cross-origin request blocked", "access-control-allow-origin' header",
           "cors header", "requires additional"],
)  # fmt: skip
EXTENSION = re.compile(r"(?P<scheme>(?:chrome|moz|safari-web)-extension)://")
TUNNEL = Sign(
    r"\bngrok http\b|cloudflared tunnel|tailscale (?:serve|funnel)",
    words=["ngrok http", "cloudflared tunnel", "tailscale serve", "tailscale funnel"],
)
_AT_ONCE_S = 0.02  # the refusal comes before any work
_CLOUD = re.compile(r"remote model is unavailable|cloud (?:is )?disabled|ollama cloud", re.IGNORECASE)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A 403 in Ollama's own log; a browser's words; ComfyUI's guard of the same kind."""
    logged = [hit for hit in evidence.hits(LOGGED) if _at_once(hit)]
    asked = [hit for hit in logged if hit["method"] == "OPTIONS"]
    browser = [hit for hit in evidence.hits(BROWSER) if _is_ours(evidence, hit)]
    comfy = evidence.hits(ORIGIN_REFUSED)
    if logged or browser:
        if (
            not asked
            and not browser
            and any(_CLOUD.search(one.plain) for one in evidence.lines("client_error"))
        ):
            return  # a model of the cloud that is switched off: another 403 of Ollama's
        yield _of_ollama(evidence, logged, asked, browser)
    elif comfy:
        yield _of_comfyui(comfy)


def _at_once(hit: Hit) -> bool:
    seconds = go_seconds(hit["took"])
    return seconds is None or seconds < _AT_ONCE_S


def _is_ours(evidence: Evidence, hit: Hit) -> bool:
    """A browser tells of all sites; only what goes to Ollama counts."""
    near = " ".join(entry.plain for entry in evidence.around(hit.entry, before=2, after=2))
    return bool(
        re.search(r":11434|/api/(?:chat|generate|tags|version|embed|pull)|/v1/|ollama", near, re.IGNORECASE)
    )


def _of_ollama(
    evidence: Evidence, logged: Sequence[Hit], asked: Sequence[Hit], browser: Sequence[Hit]
) -> Finding:
    origin = next((found for hit in browser if (found := hit.match.groupdict().get("origin"))), "")
    extension = EXTENSION.search(" ".join(hit.entry.plain for hit in browser))
    sure = bool(asked or browser)
    tunnel = evidence.first(TUNNEL)
    if sure:
        words = f"Ollama answered {len(logged) or 'the browser'}"
        words = (
            f"Ollama answered {evidence.count(LOGGED)} requests with 403 at once"
            if logged
            else "The browser tells that Ollama does not allow the page's origin"
        )
        words += (
            f", among them OPTIONS {asked[0]['path']}: a browser asks so before it calls from another page"
            if asked
            else ""
        )
        words += f". The page is {origin}" if origin else ""
    else:
        words = (
            f"Ollama answered {evidence.count(LOGGED)} requests with 403 at once, before any work: it knows "
            "two such refusals, an Origin that is not in OLLAMA_ORIGINS and a Host name that is not this "
            "machine's"
        )
    words += ". A tunnel stands before it, which passes the public name on as Host" if tunnel else ""
    return Finding(
        cause="cors_origin_403",
        title="Ollama refuses the page's origin"
        if sure
        else "Ollama refuses the origin or the name of the caller",
        severity=Severity.ERROR if sure else Severity.WARNING,
        confidence=0.9 if sure else 0.7,
        evidence=quotes(*asked[:2], *browser[:2], *logged[:2], tunnel),
        why=words + ".",
        ruled_out=(
            RuledOut(
                cause="proxy_intercepts_local",
                why="the 403 stands in Ollama's own access log, so Ollama wrote it"
                if logged
                else "the browser names the missing header, not a page of HTML",
            ),
        ),
        remedy=_remedy(origin or (f"{extension['scheme']}://*" if extension else ""), tunnel is not None),
        about=origin,
    )


def _remedy(origin: str, tunnel: bool) -> Remedy:
    origin = origin or "http://the-page:3000"
    commands = [*settings(f"OLLAMA_ORIGINS={origin}")]
    if tunnel:
        commands.insert(
            0,
            Command(
                text='ngrok http 11434 --host-header="localhost:11434"   '
                '(cloudflared: --http-host-header="localhost:11434")',
                safe=False,
                note="this opens Ollama to the internet without any password",
            ),
        )
    return Remedy(
        text="Name the page's origin in OLLAMA_ORIGINS (the scheme, the name and the port as the browser "
        "shows them; several with commas). «*» lets every page of every site use your models. A proxy "
        "before Ollama has to send a Host that Ollama knows: localhost:11434.",
        commands=tuple(commands),
        verify="The browser's question is answered with 204.",
        verify_commands=(
            Command(
                text=f"curl -i -X OPTIONS -H 'Origin: {origin}' -H 'Access-Control-Request-Method: POST' "
                "http://127.0.0.1:11434/api/chat",
                safe=True,
            ),
        ),
    )


def _of_comfyui(hits: Sequence[Hit]) -> Finding:
    hit = hits[0]
    return Finding(
        cause="cors_origin_403",
        title="ComfyUI refuses the page's origin",
        severity=Severity.ERROR,
        confidence=0.9,
        evidence=quotes(*hits[:2]),
        why=f"ComfyUI answered 403: the request came for {hit['host']} from a page of {hit['origin']}.",
        ruled_out=(RuledOut(cause="proxy_intercepts_local", why="ComfyUI itself tells of the refusal"),),
        remedy=Remedy(
            text="Open ComfyUI under the name that the page uses (localhost and 127.0.0.1 are two names), "
            "or let the proxy before it leave the Origin out. --enable-cors-header switches the guard "
            "off for one origin.",
            commands=(
                Command(text=f"start ComfyUI with --enable-cors-header http://{hit['origin']}", safe=False),
            ),
            verify="The page works, and no line tells of a 403.",
            verify_commands=(
                Command(
                    text=f"curl -i -H 'Origin: http://{hit['origin']}' http://{hit['host']}/system_stats",
                    safe=True,
                ),
            ),
        ),
        about="comfyui",
    )


RULE = Rule(
    slug="cors_origin_403",
    title="The browser's origin is refused",
    area="service",
    meaning="A page or a browser extension of another origin calls Ollama. Ollama answers pages of this "
    "machine only, unless OLLAMA_ORIGINS names more. While it listens on loopback it also refuses "
    "foreign Host names, as tunnels and reverse proxies send them.",
    signature=(
        '[GIN] … | 403 | 396µs | … | OPTIONS "/api/chat"',
        "Access to fetch at 'http://…:11434/api/chat' from origin '…' has been blocked by CORS policy",
    ),
    certain="The 403 is in Ollama's own access log and took less than a millisecond. The same call by "
    "curl, without an Origin header, works.",
    remedy=_remedy("", tunnel=False),
    look_alikes=(
        LookAlike(
            cause="proxy_intercepts_local",
            how="That 403 is a page of HTML, and Ollama's log does not know it.",
        ),
    ),
    signs=(LOGGED, BROWSER, TUNNEL),
    check=check,
)
