"""Commands `completion install` and `completion show`: completion of commands, options and names in a shell."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from bnn_keras import BnnError
from bnn_keras.cli.output import print_line
from bnn_keras.errors import unknown
from bnn_keras.files import replacing

PROGRAM = "bnnk"
# For each shell: variable and default of a base folder, the file in it, and what the shell needs to read the file.
SHELLS = {
    "bash": (
        ("XDG_DATA_HOME", "~/.local/share"),
        f"bash-completion/completions/{PROGRAM}",
        "bash reads it with the package bash-completion; without that, add to ~/.bashrc: source {file}",
    ),
    "zsh": (
        ("ZDOTDIR", "~"),
        f".zfunc/_{PROGRAM}",
        "zsh reads it if ~/.zshrc has: fpath+={folder}; autoload -Uz compinit; compinit",
    ),
    "fish": (("XDG_CONFIG_HOME", "~/.config"), f"fish/completions/{PROGRAM}.fish", "fish reads it by itself"),
}

_shell = click.argument("shell", required=False, metavar="[SHELL]")


@click.group()
def completion() -> None:
    """Complete commands, options and names with the Tab key, in bash, zsh or fish."""


@completion.command()
@_shell
def install(shell: str | None) -> None:
    """Write the completion script where SHELL looks for it (default: the shell of $SHELL)."""
    shell = _known(shell)
    (variable, default), name, note = SHELLS[shell]
    file = Path(os.environ.get(variable) or default).expanduser() / name
    with replacing(file) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_script(shell))
    print_line(f"{file}: written. Open a new shell; {note.format(file=file, folder=file.parent)}")


@completion.command()
@_shell
def show(shell: str | None) -> None:
    """Print the completion script of SHELL (default: the shell of $SHELL)."""
    click.echo(_script(_known(shell)))


def _known(shell: str | None) -> str:
    """Return a shell that is known, by default that of $SHELL."""
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        where = "" if shell else f" of $SHELL {os.environ.get('SHELL', '')!r}"
        raise BnnError(f"{unknown('shell', name, SHELLS)}{where}; name one, such as `bnnk completion install bash`")
    return name


def _script(shell: str) -> str:
    kind = get_completion_class(shell)
    assert kind is not None  # click knows all SHELLS
    return kind(click.Command(PROGRAM), {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()


COMMANDS = (completion,)
