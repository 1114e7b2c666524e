"""Commands for plugins: `plugin new`."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from bnn_keras import BnnError, catalog
from bnn_keras.cli.output import print_line
from bnn_keras.files import write_text
from bnn_keras.plugins import template


@click.group()
def plugin() -> None:
    """Add networks, schemes, optimizers, datasets and formats of your own.

    A plugin is a Python file or an installed module with catalog rows. See docs/adding.md.
    """


@plugin.command()
@click.argument("file", metavar="FILE.py")
def new(file: str) -> None:
    """Write a working example: a scheme with one part that learns, its experiment and its test.

    FILE.py is the plugin; its name becomes the name of the scheme. The experiment and the test are written beside it.
    """
    path = Path(file)
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier() or keyword.iskeyword(name):
        raise BnnError(f"got {file!r}; expected the name of a Python file, such as mymethod.py")
    if name in catalog.SCHEMES:
        raise BnnError(f"there is a scheme {name!r} already; give the file another name")
    texts = {path.with_name(other): text for other, text in template(name).items()}
    for existing in filter(Path.exists, texts):
        raise BnnError(f"{str(existing)!r} exists; remove it, or give another name")
    for target, text in texts.items():
        write_text(target, text)
        print_line(f"wrote {target}")
    click.echo(f"\nTry it:\n  bnnk --plugin {path} train lenet5 --experiment {path.with_suffix('.toml')}")
    click.echo(f"  pytest {path.with_name(f'test_{path.name}')}")


COMMANDS = (plugin,)
