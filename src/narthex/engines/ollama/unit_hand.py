"""Starts a systemd unit anew, with a drop-in below /run for another environment."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping

from narthex.engines.ollama import processes
from narthex.engines.ollama.answering import ask_again, prove, wait_for
from narthex.engines.ollama.drop_in import drop_in
from narthex.engines.ollama.records import Server
from narthex.errors import EngineError

_VARIABLES = "narthex.env"
_COMMAND_S = 120


class UnitHand:
    """Restarts a systemd unit, with a drop-in for another environment."""

    def __init__(self, server: Server, unit: processes.Unit) -> None:
        self._server = server
        self._unit = unit.name
        self._systemctl = ["systemctl", *(["--user"] if unit.uid is not None else [])]
        self._drop_in = drop_in(unit)
        self._folder = self._drop_in.parent
        self.words = unit.name

    @property
    def changed(self) -> bool:
        """Whether the drop-in is there."""
        return self._drop_in.exists()

    def restart(self) -> Server:
        """``systemctl restart``."""
        self._run("restart", self._unit)
        return self._answering()

    def set_env(self, changes: Mapping[str, str | None]) -> Server:
        """A drop-in with the changes, and a restart."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.restore)
            self._write(changes)
            self._run("daemon-reload")
            self._run("restart", self._unit)
            server = self._answering()
            prove(server, changes)
            undo.pop_all()
            return server

    def restore(self) -> Server:
        """Away with the drop-in, and a restart."""
        if self.changed:
            self._drop_in.unlink()
            (self._folder / _VARIABLES).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' drop-ins may lie beside it
                self._folder.rmdir()
            self._run("daemon-reload")
            self._run("restart", self._unit)
        return self._answering()

    def _write(self, changes: Mapping[str, str | None]) -> None:
        """The drop-in. Variables go into a file of their own, since those of another EnvironmentFile= would
        win over Environment= lines; the last file read wins over all."""
        given = {name: value for name, value in changes.items() if value is not None}
        gone = [name for name, value in changes.items() if value is None]
        variables = self._folder / _VARIABLES
        lines = ["# Written by narthex for a study; it is taken away afterwards.", "[Service]"]
        lines += [f"EnvironmentFile={variables}"] if given else []
        lines += [f"UnsetEnvironment={name}" for name in gone]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            variables.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in given.items()))
            self._drop_in.write_text("\n".join(lines) + "\n")
        except OSError as error:
            raise EngineError(
                f"The drop-in for {self._unit} can't be written: {error}.", hint="Run narthex with sudo."
            ) from error

    def _run(self, *words: str) -> None:
        try:
            run = subprocess.run(
                [*self._systemctl, *words], capture_output=True, timeout=_COMMAND_S, check=False, text=True
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"systemctl {' '.join(words)}: {error}.", hint="Is systemd here?") from error
        if run.returncode:
            raise EngineError(
                f"systemctl {' '.join(words)} failed: {run.stderr.strip() or run.returncode}.",
                hint=f"See: journalctl --unit {self._unit}",
            )

    def _answering(self) -> Server:
        return wait_for(lambda: ask_again(self._server.url, self._server.source), self._unit)


def _quoted(value: str) -> str:
    """A value for an environment file of systemd."""
    escaped = "".join(f"\\{letter}" if letter in '\\"$`' else letter for letter in value)
    return f'"{escaped}"'
