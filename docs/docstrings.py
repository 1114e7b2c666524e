"""Fence the examples of docstrings, which Markdown takes for quotations otherwise."""

import re

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*?(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)


def fenced(match):
    """Return an example between fences of the same indentation."""
    return f"{match[1]}```pycon\n{match[0].rstrip()}\n{match[1]}```\n"


class Examples(griffe.Extension):
    """Put each doctest of a docstring into a fence."""

    def on_object(self, *, obj, **kwargs):
        """Change the docstring of an object that was loaded."""
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)
