"""``narthex settings``: every setting, its value, and where it came from."""

from __future__ import annotations

import click

from narthex.cli.options import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show every setting, its value, and where it came from.

    A flag of a command goes before the environment variable, that before narthex.toml, that before the
    default. `narthex init` writes a narthex.toml.
    """
    from narthex.settings import SETTINGS, resolve

    values = [resolve(setting.name) for setting in SETTINGS]
    if as_json:
        import json

        rows = [
            {
                "name": row.setting.name,
                "value": row.value,
                "source": row.source,
                "environment": row.setting.env,
                "toml": row.setting.toml or None,
                "help": row.setting.help,
            }
            for row in values
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from narthex.views.table import table

    cells = [
        (row.setting.name, row.text, row.source, row.setting.env, row.setting.toml or "–") for row in values
    ]
    click.echo(table(("setting", "value", "from", "environment variable", "in narthex.toml"), cells))
