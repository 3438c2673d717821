"""``narthex tune``: find, prove and keep the best setting; or run the same study on recordings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narthex.cli.options import check_threads, json_option, offer_files, plain_option
from narthex.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from narthex.engines._base import Engine
    from narthex.host.facts import HostFacts
    from narthex.journal.journal import Journal
    from narthex.knobs import KnobValues
    from narthex.studies.records import Question, StudyResult
    from narthex.trials.workload import Prompts
    from narthex.views.progress import Progress

_DEMO_TURN = (256, 64, 32)  # depth, prompt, generated: a minute or two on two cores
_DEMO_SOAK_S = 20.0


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL]", shell_complete=offer_files)
@click.option(
    "--goal",
    type=click.Choice(("balanced", "fastest", "longest")),
    default="balanced",
    show_default=True,
    help="fastest: least turn time; longest: most context; balanced: the knee between them.",
)
@click.option("--ctx", type=click.IntRange(1, 2**30), metavar="N", help="Context a slot must have at least.")
@click.option("--min-tps", type=float, metavar="X", help="For «longest»: the decode tokens/s to keep.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Slots.")
@click.option("--allow-kv", multiple=True, type=click.Choice(("q4_0",)), help="A KV type below q8_0.")
@click.option("--reserve", metavar="SIZE", help="VRAM to leave free, as in 512MiB.")
@click.option("--soak", metavar="T", help="How long the winner must survive; 0: unproven.  [default: 150s]")
@click.option("--workload", metavar="W", help="What is asked: chat, document, code or agent.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Your own prompts.")
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Tokens before a turn.  [3072]")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="A turn's prompt.  [512; by the workload]",
)
@click.option(
    "--generate", type=click.IntRange(min=1), metavar="N", help="A turn's answer.  [256; by the workload]"
)
@click.option("--strategy", default="guided", show_default=True, help="guided, grid, random or tpe.")
@click.option("--engine-path", metavar="PATH", help="The llama-server to use.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="ARG", help="Given to its every start.")
@click.option("--set", "pins", multiple=True, metavar="KNOB=VALUE", help="Fix a knob.")
@click.option("--current", multiple=True, metavar="KNOB=VALUE", help="What you run now, as a baseline.")
@click.option("--demo", is_flag=True, help="A short workload and a 20 s soak; its profile is marked.")
@click.option("--max-loads", type=click.IntRange(min=1), metavar="N", help="Engine loads at most.")
@click.option("--budget", metavar="T", help="No new try after this much time, as in 30m.")
@click.option("--seed", type=int, default=0, show_default=True, help="For what is random.")
@click.option("--fresh", is_flag=True, help="Begin anew, do not continue an unfinished study.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the HTML report too.")
@click.option("--replay", "replays", multiple=True, metavar="FILE…", help="Run on recordings instead.")
@plain_option
@json_option
def command(**given: Any) -> int:
    """Find, prove and keep the best setting for MODEL.

    It measures what you have now, the house defaults and the engine's own placement, searches, confirms
    the winner against the best of them, and soaks it. Started again after an interruption, it continues.

    «narthex tune --replay FILE…» runs the same study on recorded measurements; nothing is stored.
    """
    words, replays = _files(given["words"], given["replays"])
    if len(words) > 1:
        raise UsageError(f"One model at a time, not {len(words)}.", hint="Run «narthex tune» for each.")
    if replays:
        return _replay(words[0] if words else None, replays, given)
    if not words:
        raise UsageError("Which model?", hint="narthex tune MODEL, or narthex tune --replay FILE.")
    return _live(words[0], given)


def _files(words: Sequence[str], replays: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that are no recordings, and the recordings: ``--replay A.json B.json`` gives B as a word."""
    if not replays:
        return list(words), []
    more = [word for word in words if word.lower().endswith(".json")]
    return [word for word in words if word not in more], [*replays, *more]


def _question(given: dict[str, Any], workload: str, layers: int | None = None) -> Question:
    """The question as asked, the turn fitted into the context."""
    from narthex import settings
    from narthex.studies.records import Goal, Question
    from narthex.trials.manual import read_settings
    from narthex.units import parse_duration, parse_size

    demo, pins = given["demo"], read_settings(given["pins"], layers=layers)
    soak_s = parse_duration(given["soak"]) if given["soak"] else settings.get("soak")
    return Question(
        goal=Goal(given["goal"]),
        min_ctx=given["ctx"],
        min_decode_tps=_speed(given["min_tps"]),
        parallel=pins.get("parallel", given["parallel"]),
        allow_kv=tuple(dict.fromkeys((*settings.get("allow_kv"), *given["allow_kv"]))),
        backoff_order=settings.get("backoff"),
        reserve_bytes=parse_size(given["reserve"]) if given["reserve"] else settings.get("reserve"),
        turn=_turn(given),
        workload=workload,
        repeats=2 if demo else settings.get("repeats"),
        soak_s=_DEMO_SOAK_S if demo and not given["soak"] else soak_s,
        max_loads=given["max_loads"],
        budget_s=parse_duration(given["budget"]) if given["budget"] else None,
        strategy=given["strategy"],
        seed=given["seed"],
        demo=demo,
        pins=pins,
        current=_current(given, layers),
    )


def _speed(asked: float | None) -> float | None:
    if asked is not None and not 0 < asked < float("inf"):
        raise UsageError(f"--min-tps can't be {asked:g}.", hint="Give a number of tokens/s above 0.")
    return asked


def _turn(given: dict[str, Any]) -> Any:
    from narthex.trials.trial import Turn
    from narthex.trials.workload import WORKLOADS

    own = WORKLOADS[given["workload"] or "chat"].turn if given["workload"] in WORKLOADS else Turn()
    usual = _DEMO_TURN if given["demo"] else (own.depth, own.prompt_tokens, own.generate)
    prompt, generate = given["prompt_tokens"] or usual[1], given["generate"] or usual[2]
    depth = usual[0] if given["depth"] is None else given["depth"]
    if given["ctx"] is not None and depth + prompt + generate > given["ctx"]:
        if given["depth"] is not None or prompt + generate > given["ctx"]:
            raise UsageError(
                f"A turn of {depth} + {prompt} + {generate} tokens does not fit a context of {given['ctx']}.",
                hint="Give a larger --ctx, or a smaller --depth, --prompt-tokens or --generate.",
            )
        depth = given["ctx"] - prompt - generate
    return Turn(depth=depth, prompt_tokens=prompt, generate=generate)


def _replay(model: str | None, replays: Sequence[str], given: dict[str, Any]) -> int:
    from narthex.studies.replaying import replay_file

    question = _question(given, given["workload"] or "chat")
    inspection = None
    if model is not None:
        from narthex.models.catalog import find_model
        from narthex.models.gguf import inspect_file

        inspection = inspect_file(find_model(model))
    results = []
    for path in replays:
        screen = _progress(f"replaying {Path(path).name}", given)
        with screen:
            if given["ctx"] is not None:
                screen.note(f"A recording holds no contexts: all speeds are of depth {question.turn.depth}.")
            results.append(replay_file(Path(path), question, inspection=inspection, screen=screen))
    return _show(results, given)


def _current(given: dict[str, Any], layers: int | None) -> KnobValues | None:
    """What the user says that they run now."""
    from narthex import settings
    from narthex.knobs import KnobValues
    from narthex.trials.manual import read_settings

    if not given["current"]:
        return None
    base = KnobValues(num_ctx=given["ctx"] or settings.get("house_ctx"), parallel=given["parallel"])
    return base.with_(**read_settings(given["current"], layers=layers))


def _progress(title: str, given: dict[str, Any]) -> Progress:
    from narthex.views.progress import Progress

    return Progress(title, plain=given["plain"])


def _show(results: Sequence[StudyResult], given: dict[str, Any]) -> int:
    """Print the answers: JSON on stdout, one object, or a list where there are several."""
    if given["as_json"]:
        import msgspec

        from narthex.views.json import tune_json

        data = [tune_json(result) for result in results]
        body = msgspec.json.encode(data[0] if len(data) == 1 else data)
        click.echo(msgspec.json.format(body, indent=2).decode())
    else:
        from narthex.views.text import study_table

        click.echo("\n\n".join(study_table(result) for result in results))
    if given["report"] is not None:
        from narthex.views.report.source import write_page

        write_page(results[-1], given["report"])
        click.echo(f"The report is in {given['report']}.", err=True)
    sys.stdout.flush()
    if not all(result.finished for result in results):
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.OK if all(result.chosen for result in results) else ExitCode.NOTHING_WORKED)


def _live(model: str, given: dict[str, Any]) -> int:
    """The study on a real engine."""
    from narthex import paths, settings
    from narthex.engines.llama_loader import LlamaLoader
    from narthex.engines.llama_server import find_engine
    from narthex.host.collect import collect_host
    from narthex.journal.journal import Journal
    from narthex.models.catalog import find_model
    from narthex.models.gguf import inspect_file
    from narthex.studies.baselines import House
    from narthex.studies.live import live_study, tenants_words
    from narthex.trials.runner import EngineRunner

    path = find_model(model)
    inspection = inspect_file(path)
    prompts = _prompts(given)
    question = _question(given, prompts.label, inspection.layers)
    engine = find_engine(given["engine_path"], tuple(given["engine_args"]))
    host = collect_host()
    for threads in (question.pins.get("threads"), question.current.threads if question.current else None):
        check_threads(threads, host)
    loader = LlamaLoader(engine, path, log_dir=paths.state_dir() / "engine")
    runner = EngineRunner(loader, inspection, prompts=prompts)
    title = _title(inspection.name, question, engine.build)
    with Journal.open() as journal, _progress(title, given) as screen:
        for words in tenants_words(host):
            screen.note(f"{words}: that is not counted as free.")
        result = live_study(
            inspection,
            question,
            runner,
            journal,
            engine=engine,
            host=host,
            house=House(gpu_layers=settings.get("house_gpu_layers"), batch=settings.get("house_batch")),
            current=_newest_profile(journal, inspection.identity, question),
            keep=lambda found: _keep(journal, found, engine, host),
            screen=screen,
            argv=sys.argv[1:],
            fresh=given["fresh"],
        )
    return _show([result], given)


def _title(name: str, question: Question, build: str) -> str:
    demo = " (a demo: short workload, short soak)" if question.demo else ""
    return f"Tuning {name}, goal {question.goal.value}, on llama-server {build}{demo}"


def _prompts(given: dict[str, Any]) -> Prompts:
    from narthex.trials.workload import Prompts, read_prompts

    if given["prompts"] is not None:
        return Prompts(own=read_prompts(given["prompts"]))
    return Prompts(given["workload"] or "chat")


def _newest_profile(journal: Journal, identity: str, question: Question) -> KnobValues | None:
    """What the user has now: the newest profile of this model that can hold the turn. A demo's counts in a
    demo only."""
    from narthex.profiles.store import list_profiles

    need = question.turn.depth + question.turn.prompt_tokens + question.turn.generate
    for profile in list_profiles(journal):
        real = question.demo or not profile.demo
        if profile.model.identity == identity and real and profile.knobs.num_ctx >= need:
            return profile.knobs
    return None


def _keep(journal: Journal, result: StudyResult, engine: Engine, host: HostFacts) -> str:
    """Store the answer as a profile; returns its name."""
    from narthex.profiles.choose import profile_from
    from narthex.profiles.store import save_profile

    return save_profile(journal, profile_from(result, engine=engine, host=host)).name
