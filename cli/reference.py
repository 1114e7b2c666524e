"""The reference of all commands from their own help: `python -m bnn_keras.cli.reference > docs/cli.md`."""

from __future__ import annotations

import click
from bnn_keras.cli import main

_HEAD = """# Commands

The help of every command. Made by `python -m bnn_keras.cli.reference > docs/cli.md`; a test compares.

Exit codes: 0 done; 1 an error, in one line on standard error; 2 wrong usage; 130 interrupted with Ctrl-C.
"""


def markdown() -> str:
    """The text of docs/cli.md."""
    helps = [("bnnk", _help(main, "bnnk"))]
    helps += [(f"bnnk {name}", _help(command, f"bnnk {name}")) for name, command in main.commands.items()]
    return _HEAD + "".join(f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in helps)


def _help(command: click.Command, name: str) -> str:
    return command.get_help(click.Context(command, info_name=name, terminal_width=100))


if __name__ == "__main__":
    click.echo(markdown(), nl=False)
