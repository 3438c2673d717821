"""Steps that several remedies take: a setting of a service, a look at a URL."""

from __future__ import annotations

from narthex.doctor.finding import Command

_ASIDE = "it starts anew: answers that are being written end"


def unit_setting(setting: str, unit: str = "ollama") -> Command:
    """An environment variable of a systemd service."""
    return Command(
        text=f"sudo systemctl edit {unit}   # opens an editor; write there:\n"
        f'# [Service]\n# Environment="{setting}"\nsudo systemctl restart {unit}',
        safe=False,
        root=True,
        note=f"without the #; where {unit} is a systemd service; {_ASIDE}",
    )


def compose_setting(setting: str, service: str = "ollama") -> Command:
    """An environment variable of a container."""
    return Command(
        text=f"In compose.yaml, services › {service} › environment: {setting}, "
        f"then: docker compose up -d {service}",
        safe=False,
        note=f"where it runs in a container (docker run: -e '{setting}'); {_ASIDE}",
    )


def settings(setting: str, name: str = "ollama", *, in_container: bool | None = None) -> tuple[Command, ...]:
    """The same setting for both ways to run a service, or for the one that is known."""
    ways = []
    if in_container is not True:
        ways.append(unit_setting(setting, name))
    if in_container is not False:
        ways.append(compose_setting(setting, name))
    return tuple(ways)


def look(url: str, inside: str = "", *, live: bool = False) -> Command:
    """A GET that changes nothing, from this machine or from inside a container."""
    argv: tuple[str, ...] = ("curl", "-sS", "-m", "5", url)
    if inside:
        argv = ("docker", "exec", inside, *argv)
    return Command(text=" ".join(argv), safe=True, argv=argv if live else ())
