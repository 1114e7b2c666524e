"""Write the tables of options in docs/experiments.md: `python docs/keys.py`. They follow from `bnn_keras.catalog`."""

import re
from pathlib import Path

from bnn_keras import catalog

DOCUMENT = Path(__file__).with_name("experiments.md")
TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def default(options, key):
    """Return the default of a key as TOML; empty if there is none, or if the meaning tells it."""
    value = options.defaults().get(key)
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def listed(names):
    """Return names as text; those in one folder ("zoo/quicknet") as one."""
    return ", ".join(dict.fromkeys(f"`{name.split('/')[0]}/…`" if "/" in name else f"`{name}`" for name in names))


def rows(kind):
    """Return one row for each meaning of a key: the key, its meaning, and the defaults with the rows that have them."""
    meanings = {}
    for row in catalog.TABLES[kind].values():
        for key, field in row.options.model_fields.items():
            told = "" if field.description and "Default: " in field.description else default(row.options, key)
            meanings.setdefault((key, " ".join(field.description.split())), {}).setdefault(told, []).append(row.name)
    for (key, meaning), defaults in meanings.items():
        owners = {told: listed(names) for told, names in defaults.items()}
        cells = [f"{told} ({owner})" if len(owners) > 1 else told for told, owner in owners.items()]
        yield f"| `{key}` | {', '.join(owners.values())} | {meaning} | {', '.join(cells)} |\n"


def table(kind):
    """Return the table of the options of all rows of a kind."""
    return f"| key of `{kind}` | of | meaning | default |\n|---|---|---|---|\n" + "".join(rows(kind))


def updated(text):
    """Return the text of the document with the present tables."""
    return TABLE.sub(lambda match: match[1] + table(match[2]) + match[3], text)


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text()))
