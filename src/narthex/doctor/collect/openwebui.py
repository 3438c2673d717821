"""OpenWebUI: whether it answers, its settings that matter, and whether its base URLs lead to an Ollama.

The URLs are asked from where OpenWebUI is: here for a process of this machine, and inside its container by
``docker exec``. Where that can't be done, its networks tell what can't work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from narthex.doctor.collect import reach
from narthex.doctor.collect.asking import all_within, get
from narthex.doctor.collect.collected import Collected, gap, together
from narthex.doctor.collect.docker_view import DockerView, SeenContainer, docker_view
from narthex.doctor.collect.networks import reason
from narthex.doctor.collect.programs import is_openwebui
from narthex.doctor.collect.proxies import proxies_in
from narthex.doctor.collect.scope import Scope
from narthex.doctor.collect.spots import Spot, spots
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.redact import hide_secrets, safe_environment
from narthex.host.processes import environment

NAME = "OpenWebUI"
TIME_S = 10.0
PORTS = (3000, 8080)  # as its README publishes it, and its own
_ANSWER_S = 2.0
_EXEC_S = 5.0
_MOST_URLS = 6
_SHOWN = re.compile(
    r"OLLAMA_BASE_URLS?|OLLAMA_API_BASE_URL|ENABLE_OLLAMA_API|USE_OLLAMA_DOCKER|K8S_FLAG"
    r"|DEFAULT_MODELS|DEFAULT_MODEL_PARAMS|TASK_MODEL(_EXTERNAL|_PARAMS)?|ENABLE_\w+_GENERATION"
    r"|AIOHTTP_CLIENT_\w*TIMEOUT\w*|RAG_EMBEDDING_\w+|RAG_OLLAMA_BASE_URL|ENABLE_ASYNC_EMBEDDING"
    r"|ENABLE_PERSISTENT_CONFIG|RESET_CONFIG_ON_START|ENABLE_BASE_MODELS_CACHE|MODELS_CACHE_TTL"
    r"|ENABLE_IMAGE_GENERATION|IMAGE_GENERATION_ENGINE|COMFYUI_BASE_URL|CORS_ALLOW_ORIGIN|HOST|PORT|WEBUI_URL|WEBUI_AUTH"
)
_FALSE = ("false", "0", "no")


def collect(scope: Scope) -> Collected:
    """Every OpenWebUI that can be found. Nothing is said where there is none."""
    if not scope.is_this_machine:
        return Collected()
    found = all_within(2 * _ANSWER_S + _EXEC_S, [_looker(scope, spot) for spot in find(scope)])
    return together(part for part in found if part is not None)


def find(scope: Scope) -> list[Spot]:
    """Where one may answer; looked for once a run."""
    return scope.once(
        "openwebui spots", lambda: spots(scope, "openwebui", ports=PORTS, inside=8080, is_one=is_openwebui)
    )


def _looker(scope: Scope, spot: Spot) -> Callable[[], Collected]:
    return lambda: _look(scope, spot)


def _look(scope: Scope, spot: Spot) -> Collected:
    config = get(f"{spot.url}/api/config", _ANSWER_S)
    version = config.record.get("version")
    is_one = isinstance(version, str) and ("features" in config.record or "name" in config.record)
    if not is_one and not spot.sure:
        return Collected()
    readings: list[Reading] = []
    facts: tuple[Fact, ...] = ()
    if is_one:
        healthy = get(f"{spot.url}/health", _ANSWER_S).record.get("status") is True
        readings += _there(spot, str(version), healthy)
        facts = (Fact(text=f"OpenWebUI {version} answers at {spot.url}."),)
    else:
        why = config.error or "what answers there is no OpenWebUI"
        text = f"no OpenWebUI at {spot.url} ({spot.source}): {why}"
        readings.append(Reading(name="openwebui.answers", about=spot.url, value=False, text=text))
    env = _environment(spot)
    if env is None:
        readings.append(gap("openwebui.env", "its environment can't be read from here", spot.url))
        return Collected(readings=tuple(readings), facts=facts)
    shown = safe_environment({name: env[name] for name in sorted(env) if _SHOWN.fullmatch(name)})
    words = " ".join(f"{name}={value}" for name, value in shown.items()) or "nothing that matters is set"
    text = _one_line(f"settings of {spot.url}: {words}")
    readings.append(Reading(name="openwebui.env", about=spot.url, value=shown, text=text))
    readings += _backends(scope, spot, env)
    return Collected(readings=tuple(readings), facts=facts, skipped=_saved(spot, env))


def _there(spot: Spot, version: str, healthy: bool) -> Iterator[Reading]:
    text = f"OpenWebUI {version} answers at {spot.url} ({spot.source})"
    yield Reading(name="openwebui.answers", about=spot.url, value=True, text=text)
    yield Reading(name="openwebui.version", about=spot.url, value=version, text=f"{spot.url} is {version}")
    words = "is well" if healthy else "does not say that it is well"
    yield Reading(name="openwebui.health", about=spot.url, value=healthy, text=f"{spot.url}/health {words}")


def _environment(spot: Spot) -> dict[str, str] | None:
    """Its variables, secrets too; None where they can't be read."""
    if spot.container is not None:
        return spot.container.all_env
    return (environment(spot.pid) or None) if spot.pid is not None else None


def _saved(spot: Spot, env: Mapping[str, str]) -> tuple[Skipped, ...]:
    """What is saved in its own settings page goes before its environment, and can't be read without login."""
    if env.get("ENABLE_PERSISTENT_CONFIG", "").lower() in _FALSE:
        return ()
    why = (
        "can't tell what was saved in its admin settings, which go before the environment: that needs a login"
    )
    return (Skipped(what=f"OpenWebUI at {spot.url}", why=why),)


def base_urls(env: Mapping[str, str], *, in_container: bool) -> list[str]:
    """The Ollama URLs that an OpenWebUI with this environment starts with."""
    if env.get("ENABLE_OLLAMA_API", "").lower() in _FALSE:
        return []
    told = env.get("OLLAMA_BASE_URLS") or env.get("OLLAMA_BASE_URL") or _older(env) or ""
    found = [url.strip().rstrip("/") for url in told.split(";") if url.strip()]
    if found == ["/ollama"] or (not found and told == "/ollama") or (not found and not told):
        bundled = env.get("USE_OLLAMA_DOCKER", "").lower() == "true"
        # The image's own default «/ollama» stands for the host's Ollama, or the one in the image.
        outside = in_container and not bundled and told == "/ollama"
        found = ["http://host.docker.internal:11434" if outside else "http://localhost:11434"]
    return list(dict.fromkeys(found))[:_MOST_URLS]


def _older(env: Mapping[str, str]) -> str:
    """As it was called in 2023 and 2024."""
    return env.get("OLLAMA_API_BASE_URL", "").removesuffix("/api")


def _backends(scope: Scope, spot: Spot, env: Mapping[str, str]) -> list[Reading]:
    told = base_urls(env, in_container=spot.container is not None)
    closed = [_with_login(hide_secrets(url)) for url in told if "@" in url]
    urls = [url for url in told if "@" not in url]
    return [*closed, *(_ask(scope, spot, env, urls) if urls else ())]


def _with_login(shown: str) -> Reading:
    return gap(
        "openwebui.backend", f"{shown} holds a user name or password, which narthex does not send", shown
    )


def _ask(scope: Scope, spot: Spot, env: Mapping[str, str], urls: list[str]) -> list[Reading]:
    if spot.container is None:
        proxies = {name.lower().removesuffix("_proxy"): url for name, url in proxies_in(env).items()}
        answers = all_within(_EXEC_S, [_reacher(url, proxies) for url in urls])
        return [_backend(spot, url, answer) for url, answer in zip(urls, answers, strict=True)]
    inside, why = _from_inside(scope, spot.container, urls)
    if inside is not None:
        return [_backend(spot, url, inside.get(url)) for url in urls]
    view = docker_view(scope)
    return [_reasoned(spot, url, spot.container, view, why) for url in urls]


def _reacher(url: str, proxies: dict[str, str]) -> Callable[[], dict[str, Any]]:
    return lambda: reach.look(url, proxies)


def _from_inside(
    scope: Scope, container: SeenContainer, urls: list[str]
) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """What Python inside the container says to each URL; None and why, where it can't be asked."""
    script = Path(reach.__file__).read_text()
    why = ""
    for python in ("python3", "python"):
        words = ["docker", "exec", container.id, python, "-c", script, *urls]
        ran = scope.children.run(words, seconds=_EXEC_S)
        if ran.status == 0:
            try:
                return msgspec.json.decode(ran.out, type=dict[str, dict[str, Any]]), ""
            except msgspec.DecodeError:
                return None, "what came back from inside could not be read"
        if ran.missing:
            return None, "there is no docker command here"
        if ran.late:
            return None, f"docker exec took longer than {_EXEC_S:g} s"
        why = _one_line(ran.err)[:200] or f"docker exec ended with {ran.status}"
    return None, why


def _backend(spot: Spot, url: str, answer: Mapping[str, Any] | None) -> Reading:
    shown, origin = hide_secrets(url), "inside its container" if spot.container else "this machine"
    if answer is None:
        answer = {"error": f"no answer within {_EXEC_S:g} s"}
    if answer.get("public"):
        return gap("openwebui.backend", f"{shown} is an address of the internet, which is not asked", shown)
    version, error = answer.get("version"), str(answer.get("error", ""))
    inside = spot.container is not None
    value = {"reachable": version is not None, "error": error, "from_inside": inside, "url": spot.url}
    told = f"Ollama {version} answers" if version is not None else error
    text = _one_line(f"OpenWebUI at {spot.url} reaches {shown} from {origin}: {told}")
    if version is None:
        text = _one_line(f"OpenWebUI at {spot.url} does not reach {shown} from {origin}: {told}")
    return Reading(name="openwebui.backend", about=shown, value=value, text=text)


def _reasoned(spot: Spot, url: str, container: SeenContainer, view: DockerView, why: str) -> Reading:
    shown = hide_secrets(url)
    error = reason(url, container, view.containers, desktop=view.is_desktop)
    if error is None:
        return gap(
            "openwebui.backend", f"{shown} could not be asked from inside {container.name}: {why}", shown
        )
    value = {"reachable": False, "error": error, "from_inside": False, "url": spot.url}
    text = f"OpenWebUI in container {container.name} can't reach {shown}: {error}"
    return Reading(name="openwebui.backend", about=shown, value=value, text=text)


def _one_line(text: str) -> str:
    return hide_secrets(" ".join(text.split()))
