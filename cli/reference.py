"""The reference of all commands from their own help: `python -m bnn_keras.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bnn_keras.cli import main

_HEAD = """# Commands

The help of every command. Made by `python -m bnn_keras.cli.reference > docs/cli.md`; a test compares.

Exit codes: 0 done; 1 an error, in one line on standard error; 2 wrong usage; 130 interrupted with Ctrl-C.
"""


def markdown() -> str:
    """The text of docs/cli.md."""
    top = click.Context(main, info_name="bnnk", terminal_width=100, **main.context_settings)
    return _HEAD + "".join(
        f"\n## {one.command_path}\n\n```text\n{one.get_help()}\n```\n" for one in _contexts(top, main)
    )


def _contexts(context: click.Context, command: click.Command) -> Iterator[click.Context]:
    """A command's, and those of the commands in it."""
    yield context
    for name, inner in getattr(command, "commands", {}).items():
        yield from _contexts(click.Context(inner, context, name, terminal_width=100), inner)


if __name__ == "__main__":
    click.echo(markdown(), nl=False)
