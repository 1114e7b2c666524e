"""Prepare the pages of the site for MkDocs: pages of other folders, links between folders, fences, README's start."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Files outside of docs/ that the site has, with their path in the checkout.
ADDED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "examples/*.ipynb",
    "experiments/results/*",
    "tests/*.md",
)
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
FENCE = re.compile(r"^( *```\w+) (.+)$", re.MULTILINE)
FIRST_SCREEN = re.compile(r"<!-- first screen -->\n(.*?)<!-- end of the first screen -->", re.DOTALL)


def on_files(files, config):
    """Add the files of other folders."""
    for pattern in ADDED:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Return the text of a page as MkDocs reads it."""
    name = page.file.src_uri
    source = f"docs/{name}" if (ROOT / "docs" / name).exists() else name
    markdown = linked(markdown, source, name, files)
    if name == "index.md":
        first = FIRST_SCREEN.search((ROOT / "README.md").read_text())[1]
        markdown = markdown.replace("<!-- README -->", linked(first, "README.md", name, files))
    return FENCE.sub(fence, markdown)


def fence(match):
    """Replace the notes for the tests behind a fence by the name of the file that it holds, if it holds one."""
    file = re.search(r"\w+\.py$", match[2])
    return f'{match[1]} title="{file[0]}"' if file else match[1]


def linked(markdown, source, name, files):
    """Return text with the links of a file of the checkout as links of a page; those to other files become text."""

    def link(match):
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = "index.md" if path == "README.md" else path.removeprefix("docs/")
        if files.get_file_from_path(uri):
            return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(name) or '.')}{anchor})"
        return text if (ROOT / path).exists() and not image else match[0]

    return LINK.sub(link, markdown)
