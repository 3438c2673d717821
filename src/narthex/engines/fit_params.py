"""The engine's own dry run: ``llama-fit-params`` builds the real graphs and tells bytes, allocating nothing.

One more witness beside the plan, 0.3 to 1 s. It ships with llama.cpp since late 2025, beside llama-server.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from narthex.engines._base import DeviceBuffers, Engine
from narthex.engines.llama_probe import environment
from narthex.errors import EngineError
from narthex.knobs import KnobValues
from narthex.units import MIB

DRY_RUN_S = 60.0

_ROW = re.compile(r"^(\S+) (\d+) (\d+) (\d+)\s*$")


def dry_run(engine: Engine, model_path: str | Path, knobs: KnobValues) -> tuple[DeviceBuffers, ...]:
    """What the engine would allocate for a setting: one row a device, whole MiB, «Host» last.

    Logits are counted for every token of a micro-batch, as in an uncalibrated plan. With ``gpu_layers``
    None it counts all layers on the GPU. Raises EngineError where the engine has no dry run or refuses.
    """
    if engine.fit_params is None:
        raise EngineError(
            f"{engine.path} has no llama-fit-params beside it.",
            hint="Leave out --witness, or use an engine whose folder holds llama-fit-params.",
        )
    words = [engine.fit_params, *engine.extra_args, *arguments(model_path, knobs)]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DRY_RUN_S,
            env=environment(engine.env),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"The dry run failed: {error}", hint="Plan without --witness.") from None
    rows = parse(done.stdout)
    if done.returncode or not rows:
        raise EngineError(
            f"The dry run failed: {_last_line(done.stderr or done.stdout)}",
            hint="The engine may refuse this setting or not know this model.",
        )
    return rows


def arguments(model_path: str | Path, knobs: KnobValues) -> list[str]:
    """The command line of the dry run, program and the engine's extra arguments left out."""
    words = ["-m", str(model_path), "--fit-print", "on", "-c", str(knobs.num_ctx * knobs.parallel)]
    words += ["-b", str(knobs.batch), "-ub", str(knobs.ubatch), "-np", str(knobs.parallel)]
    words += ["-ctk", knobs.kv_type, "-ctv", knobs.kv_type, "-fa", knobs.flash_attn]
    if knobs.gpu_layers is not None:
        words += ["-ngl", str(knobs.gpu_layers)]
    if knobs.cpu_moe:
        words += ["-ncmoe", str(knobs.cpu_moe)]
    return words


def parse(text: str) -> tuple[DeviceBuffers, ...]:
    """Rows «CUDA0 18508 2048 345» of ``--fit-print on``: model, context and compute in MiB."""
    rows = (_ROW.match(line) for line in text.splitlines())
    return tuple(
        DeviceBuffers(
            device=row[1],
            model_bytes=int(row[2]) * MIB,
            context_bytes=int(row[3]) * MIB,
            compute_bytes=int(row[4]) * MIB,
        )
        for row in rows
        if row
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1]
