"""``narthex tune``: find, prove and keep the best setting; or run the same study on recordings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narthex.cli.options import (
    check_threads,
    engine_option,
    json_option,
    offer_files,
    ollama_option,
    plain_option,
    with_vram,
)
from narthex.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from narthex.cli.bench import Bench
    from narthex.cli.target import Target
    from narthex.cli.tuning import Tuning
    from narthex.knobs import KnobValues
    from narthex.studies.records import Question, StudyResult
    from narthex.tenants._base import Tenant
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
@click.option(
    "--grow",
    type=click.Choice(("ctx", "none")),
    help="ctx: after its proof the context rises, each step soaked.  [by narthex.toml]",
)
@click.option(
    "--beside", metavar="NAME", help="Leave room for a tenant, as comfyui, and soak while it works."
)
@engine_option
@ollama_option
@click.option("--vram", metavar="SIZE", help="The card of an Ollama that is not on this machine, as in 20GB.")
@click.option(
    "--restart-container", is_flag=True, help="Ollama's container or unit may be started anew, if that helps."
)
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
    """Find, prove and keep the best setting for MODEL: a file, «demo», or a name in Ollama.

    It measures what you have now, the house defaults and the engine's own placement, searches, confirms
    the winner against the best of them, and soaks it. Started again after an interruption, it continues.

    In Ollama, what is loaded is unloaded first and put back at the end.

    «narthex tune --replay FILE…» runs the same study on recorded measurements; nothing is stored.
    """
    words, replays = _files(given["words"], given["replays"])
    if len(words) > 1:
        raise UsageError(f"One model at a time, not {len(words)}.", hint="Run «narthex tune» for each.")
    if given["report"] is not None:
        from narthex.views.report.source import must_be_writable

        must_be_writable(given["report"])
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


def _question(given: dict[str, Any], workload: str, layers: int | None = None, name: str = "") -> Question:
    """The question as asked, the turn fitted into the context. ``name``: the model's, for the policy."""
    from narthex import settings
    from narthex.house import backoff_order, growth
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
        backoff_order=backoff_order(name),
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
        grow={"ctx": "ctx", "none": "", None: growth(name)}[given["grow"]],
        beside=given["beside"] or "",
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


def _show(results: Sequence[StudyResult], given: dict[str, Any], under: StudyResult | None = None) -> int:
    """Print the answers: JSON on stdout, one object, or a list where there are several recordings.

    ``under``: the same study under proposed settings of the server. It stands beside the answer and decides
    nothing: the server is as it was before.
    """
    if given["as_json"]:
        import msgspec

        from narthex.views.json import tune_json

        data = [tune_json(result) for result in results]
        if under is not None:
            data[0]["under_server_settings"] = tune_json(under)
        body = msgspec.json.encode(data[0] if len(data) == 1 else data)
        click.echo(msgspec.json.format(body, indent=2).decode())
    else:
        from narthex.views.text import study_table

        shown = [*results, *([under] if under is not None else [])]
        click.echo("\n\n".join(study_table(result) for result in shown))
    if given["report"] is not None:
        from narthex.views.report.source import write_page

        write_page(results[-1], given["report"])
        click.echo(f"The report is in {given['report']}.", err=True)
    sys.stdout.flush()
    if not all(result.finished for result in results):
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.OK if all(result.chosen for result in results) else ExitCode.NOTHING_WORKED)


def _live(model: str, given: dict[str, Any]) -> int:
    """The study on a real engine. What can be refused is refused before anything is unloaded."""
    from narthex.cli.bench import bench, cores_of
    from narthex.cli.target import find_target
    from narthex.cli.tuning import Tuning, study
    from narthex.journal.journal import Journal
    from narthex.studies.limits import check_question
    from narthex.studies.strategies import strategy

    target = find_target(
        model,
        engine=given["engine"],
        engine_path=given["engine_path"],
        engine_args=given["engine_args"],
        ollama=given["ollama"],
    )
    target = with_vram(target, given["vram"])
    prompts = _prompts(given)
    name = target.model.served_as or target.model.name
    question = _question(given, prompts.label, target.inspection.layers, name)
    if not (given["restart_container"] and _has_leftovers(target)):
        check_question(question, target.engine.limits)
    strategy(question.strategy)
    for threads in _threads(question):
        check_threads(threads, cores_of(target))
    tenant = _tenant(given["beside"])
    with Journal.open() as journal, _progress(_title(target, question), given) as screen:
        journal.must_be_writable()
        for note in _notes(target, name):
            screen.note(note)
        restart = given["restart_container"]
        with bench(
            target,
            say=screen.note,
            who="narthex tune",
            left=lambda: screen.left_s,
            prompts=prompts,
            restart=restart,
        ) as ready:
            check_question(question, ready.target.engine.limits)  # it may have the user's own settings by now
            tuning = Tuning(journal, question, screen, tenant, given["fresh"])
            result, under = study(tuning, ready), None
            if restart and ready.target.server is not None:
                under = _under_server_settings(tuning, ready, result, prompts)
    return _show([result], given, under)


def _has_leftovers(target: Target) -> bool:
    """Whether a killed run left the settings of its last study in that server; the bench puts them back."""
    from narthex.engines.ollama.hand import hand_for

    hand = hand_for(target.server) if target.server is not None else None
    return hand is not None and hand.changed


def _under_server_settings(
    tuning: Tuning, ready: Bench, result: StudyResult, prompts: Prompts
) -> StudyResult | None:
    """The same question with the best server-wide setting, where the server may be started anew."""
    from narthex.cli.bench import bench_of
    from narthex.cli.target import retarget
    from narthex.cli.tuning import with_server_settings
    from narthex.engines.ollama.hand import find_hand

    server = ready.target.server
    assert server is not None
    hand, why_not = find_hand(server)
    if hand is None:
        tuning.screen.note(f"server-wide settings are only proposed: {why_not}")
        return None
    return with_server_settings(
        tuning, ready, result, hand, lambda new: bench_of(retarget(ready.target, new), prompts)
    )


def _notes(target: Target, name: str) -> Iterator[str]:
    """What a person should know before it begins: the house's words on this model, and the server's gaps."""
    from narthex.house import model_notes

    yield from model_notes(name)
    if target.server is not None:
        yield from target.engine.gaps


def _tenant(name: str | None) -> Tenant | None:
    if name is None:
        return None
    from narthex.policy import load_policy
    from narthex.tenants.find import find_tenant

    tenant = find_tenant(name, load_policy())
    tenant.must_be_ready()
    return tenant


def _threads(question: Question) -> tuple[int | None, ...]:
    return question.pins.get("threads"), question.current.threads if question.current else None


def _title(target: Target, question: Question) -> str:
    demo = " (a demo: short workload, short soak)" if question.demo else ""
    engine = target.engine
    return (
        f"Tuning {target.inspection.name}, goal {question.goal.value}, on {engine.kind} {engine.build}{demo}"
    )


def _prompts(given: dict[str, Any]) -> Prompts:
    from narthex.trials.workload import Prompts, read_prompts

    if given["prompts"] is not None:
        return Prompts(own=read_prompts(given["prompts"]))
    return Prompts(given["workload"] or "chat")
