"""Builds the documentation as HTML, without a network: `make docs`.

Each Markdown file of the repository becomes a page at the same place, and README.md becomes
index.html. A link to another file of the repository leads to a copy of that file. A link to a
missing file or anchor is an error. The menu is docs/README.md.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

HERE = Path(__file__).parent
LEFT_OUT = {".git", ".ci", ".venv", "build", "dist", "node_modules", "out"}
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass
class Page:
    """A Markdown file. `path` is relative to the repository."""

    path: Path
    tokens: list[Token]
    anchors: set[str] = field(default_factory=set)
    title: str = ""


def output_path(path: Path) -> Path:
    """Returns the path of the page's HTML file."""
    name = "index.html" if path.name == "README.md" else f"{path.stem}.html"
    return path.with_name(name)


def slug(text: str, taken: set[str]) -> str:
    """Returns the anchor of a heading as GitHub makes it."""
    base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
    found, number = base, 0
    while found in taken:
        number += 1
        found = f"{base}-{number}"
    return found


def plain(tokens: Iterable[Token]) -> str:
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline"))


def read(root: Path, path: Path) -> Page:
    """Parses a file and gives each heading its anchor."""
    page = Page(path, MARKDOWN.parse((root / path).read_text()))
    for opening, inline in zip(page.tokens, page.tokens[1:], strict=False):
        if opening.type == "heading_open":
            text = plain(inline.children or [])
            opening.attrs["id"] = slug(text, page.anchors)
            page.anchors.add(str(opening.attrs["id"]))
            page.title = page.title or text
    return page


def links(tokens: Iterable[Token]) -> Iterator[tuple[Token, str]]:
    """Yields each token that names a target, with the attribute."""
    for token in tokens:
        yield from links(token.children or [])
        if token.type in ("link_open", "image"):
            yield token, "href" if token.type == "link_open" else "src"


class Site:
    """All pages, and the files that they link to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = sorted(path.relative_to(root) for path in root.rglob("*.md"))
        kept = [path for path in found if not LEFT_OUT & set(path.parts)]
        self.pages = {path: read(root, path) for path in kept}
        self.files: set[Path] = set()
        self.directories: set[Path] = set()
        self.problems: list[str] = []

    def resolve(self, page: Page, target: str) -> str:
        """Returns the link of the HTML page for a link of the Markdown page."""
        parts = urlsplit(target)
        if parts.scheme:
            return target
        path = page.path
        if parts.path:
            path = Path(os.path.normpath(page.path.parent / unquote(parts.path)))
        if (self.root / path).is_dir() and path / "README.md" in self.pages:
            path /= "README.md"
        if path in self.pages:
            if parts.fragment and parts.fragment not in self.pages[path].anchors:
                self.problems.append(f"{page.path}: no heading {target}")
            path = output_path(path)
        elif (self.root / path).is_file():
            self.files.add(path)
        elif (self.root / path).is_dir():
            self.directories.add(path)
            path /= "index.html"
        else:
            self.problems.append(f"{page.path}: no file {target}")
        link = os.path.relpath(path, page.path.parent)
        return link + (f"#{parts.fragment}" if parts.fragment else "")

    def menu(self, page: Page) -> str:
        """Renders docs/README.md as a list of links, seen from the page."""
        up = os.path.relpath(".", page.path.parent)
        lines = [f'<a class="home" href="{up}/index.html">netsonde</a>']
        index = self.pages[Path("docs/README.md")]
        for opening, inline in zip(index.tokens, index.tokens[1:], strict=False):
            if opening.type == "heading_open" and opening.tag == "h2":
                lines.append(f"<h2>{html.escape(plain(inline.children or []))}</h2>")
            if opening.type == "td_open":
                for token, _ in links([inline]):
                    target = Path(os.path.normpath(Path("docs") / str(token.meta["typed"])))
                    if (self.root / target).is_dir():
                        target /= "README.md"
                    lines.append(self.entry(page, self.pages[target]))
        return "\n".join(lines)

    def entry(self, page: Page, other: Page) -> str:
        here = ' aria-current="page"' if other is page else ""
        link = os.path.relpath(output_path(other.path), page.path.parent)
        return f'<a href="{link}"{here}>{html.escape(other.title)}</a>'

    def build(self, output: Path) -> None:
        """Writes the site. Raises SystemExit with all broken links."""
        shutil.rmtree(output, ignore_errors=True)
        for page in self.pages.values():
            for token, name in links(page.tokens):
                token.meta["typed"] = token.attrs[name]
                token.attrs[name] = self.resolve(page, str(token.attrs[name]))
        if self.problems:
            raise SystemExit("\n".join(self.problems))
        for page in self.pages.values():
            text = MARKDOWN.renderer.render(page.tokens, MARKDOWN.options, {})
            write(output / output_path(page.path), self.framed(page, text))
        for path in self.directories:
            text, files = self.listing(path)
            self.files |= files
            write(output / path / "index.html", self.framed(Page(path / "README.md", []), text))
        for path in self.files:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / path, output / path)
        shutil.copy(HERE / "style.css", output / "style.css")

    def listing(self, path: Path) -> tuple[str, set[Path]]:
        """Returns a list of the files of a directory that has no page, and the files."""
        files = {one for one in (self.root / path).iterdir() if one.is_file()}
        rows = "".join(f'<li><a href="{one.name}">{one.name}</a></li>' for one in sorted(files))
        return f"<h1>{path}</h1><ul>{rows}</ul>", {one.relative_to(self.root) for one in files}

    def framed(self, page: Page, text: str) -> str:
        """Puts the text of a page between the menu and the head."""
        values = {
            "TITLE": html.escape(page.title or str(page.path.parent)),
            "UP": os.path.relpath(".", page.path.parent),
            "MENU": self.menu(page),
            "TEXT": text,
        }
        frame = (HERE / "page.html").read_text()
        return re.sub("@([A-Z]+)@", lambda found: values[found[1]], frame)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    Site(HERE.parents[1]).build(Path(sys.argv[1]))
