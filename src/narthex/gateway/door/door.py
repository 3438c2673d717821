"""``Door``: what every request passes first, whatever it asks for."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from narthex.errors import UsageError
from narthex.gateway.door.authority import authority_of
from narthex.gateway.door.body import read_body
from narthex.gateway.door.keys import Keys, read_keys
from narthex.gateway.door.origins import Origins
from narthex.gateway.trouble import Trouble
from narthex.policy.records import GatewayPolicy

__all__ = ["Door", "read_body"]

_CHANGING = frozenset(("POST", "PUT", "DELETE", "PATCH"))
_JSON = "application/json"
_UPLOADS = ("/api/blobs/",)  # of files, as they are
_COMFYUI = "/comfyui/"  # its page uploads pictures as forms
_OPEN = frozenset(("/healthz",))  # tells that it lives, and nothing else
_PREFLIGHT_S = "600"


class Door:
    """One gateway's. ``check`` costs some microseconds: what it found of a host and an origin it keeps."""

    def __init__(self, policy: GatewayPolicy, *, host: str, port: int, container: bool = False) -> None:
        """``container``: inside a Compose network, published on loopback: then it listens everywhere without
        keys. Raises UsageError for another bind without keys, and for a file of keys that is none."""
        self._origins = Origins(bound=host, hosts=policy.hosts, origins=policy.origins)
        self._keys = read_keys(Path(policy.keys)) if policy.keys is not None else Keys({})
        self._admin = policy.admin
        own = authority_of(f"[{host}]" if ":" in host else host)
        if not self._keys and not container and (own is None or not own.is_loopback):
            raise UsageError(
                f"At {host}:{port} everybody in the network could use the gateway: there it needs keys.",
                hint="Give keys in [gateway] of narthex.toml, listen at 127.0.0.1, or in a container whose "
                "port is published on loopback add --container.",
            )

    def check(self, request: web.BaseRequest, *, any_type: bool = False) -> str:
        """The name of the client's key, "" without keys. ``any_type``: this port takes more than JSON.

        Raises Trouble 400, 401, 403 or 415. A preflight of an origin that the policy names passes without a
        key; :meth:`cors` is its answer.
        """
        headers = request.headers
        hosts = headers.getall("Host", ())
        if len(hosts) != 1:
            words = "names no host" if not hosts else f"names {len(hosts)} hosts"
            raise Trouble(400, "bad_host", f"The request {words}.", remedy="Send one Host header.")
        self._check_target(request, hosts[0])
        if "Transfer-Encoding" in headers and "Content-Length" in headers:
            raise Trouble(400, "bad_framing", "The request tells its length twice, in two ways.")
        origin = headers.get("Origin")
        local = self._local(request) if self._origins.everywhere else ""
        verdict = self._origins.verdict(hosts[0], origin, headers.get("Sec-Fetch-Site"), local)
        if verdict.status:
            verdict.raise_it()
        if request.method == "OPTIONS":
            return self._check_preflight(origin)
        if request.method in _CHANGING and not any_type:
            self._check_type(request)
        return self._name(request) if self._keys else ""

    def cors(self, request: web.BaseRequest) -> dict[str, str]:
        """Headers for an answer to a web page whose origin the policy names; {} for all others."""
        origin = request.headers.get("Origin")
        if origin is None or not self._origins.is_listed(origin):
            return {}
        found = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if request.method != "OPTIONS":
            found["Access-Control-Expose-Headers"] = "*"
            return found
        found["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
        found["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Api-Key"
        found["Access-Control-Max-Age"] = _PREFLIGHT_S
        if "Access-Control-Request-Private-Network" in request.headers:
            found["Access-Control-Allow-Private-Network"] = "true"
        return found

    def _check_target(self, request: web.BaseRequest, host: str) -> None:
        """A target that names a host itself goes before the Host header: both must say the same."""
        target = request.raw_path
        if target.startswith("/"):
            return
        scheme, _, rest = target.partition("://")
        if scheme.lower() == "http" and rest.partition("/")[0].partition("?")[0].lower() == host.lower():
            return
        raise Trouble(400, "bad_target", "The request is for another host than its Host header names.")

    def _check_preflight(self, origin: str | None) -> str:
        if self._origins.is_listed(origin):
            return ""
        raise Trouble(
            403,
            "cors_off",
            "Web pages may not ask here.",
            remedy="A page that may is named in origins, in [gateway] of narthex.toml.",
        )

    def _check_type(self, request: web.BaseRequest) -> None:
        """A form of any web page can send other types without asking first."""
        kind = request.headers.get("Content-Type", "")
        if kind == _JSON or kind.partition(";")[0].strip().lower() == _JSON:
            return
        path = request.rel_url.raw_path  # what the routes are found by
        if path.startswith(_COMFYUI) or (self._admin and path.startswith(_UPLOADS)):
            return
        raise Trouble(
            415,
            "not_json",
            "The request has another content type than JSON, or none.",
            remedy="Send it with the header Content-Type: application/json.",
        )

    def _name(self, request: web.BaseRequest) -> str:
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            shown = request.headers.get("X-Api-Key", "")
        shown = shown.strip()
        name = self._keys.name_of(shown) if shown else None
        if name is not None:
            return name
        if request.rel_url.raw_path in _OPEN and request.method in ("GET", "HEAD"):
            return ""
        raise Trouble(
            401,
            "wrong_key" if shown else "no_key",
            "The key is not one of this gateway." if shown else "This gateway asks for a key.",
            remedy="Send it with the header Authorization: Bearer KEY.",
        )

    def _local(self, request: web.BaseRequest) -> str:
        found = request.transport.get_extra_info("sockname") if request.transport is not None else None
        return str(found[0]).removeprefix("::ffff:") if found else ""
