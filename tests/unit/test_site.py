"""The documentation as HTML: each link and anchor exists, and a browser renders each page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = Path(__file__).parents[2]
BUILDER = REPOSITORY / "deploy/docs/build_site.py"
WIDTHS = (390, 1200)
# Reads each frame after it has loaded. Wide tables and code scroll in their own box.
INSPECTOR = """
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument;
    const root = page.documentElement;
    return {
      url: frame.getAttribute("src"),
      width: frame.clientWidth,
      heading: page.querySelector("main h1")?.getBoundingClientRect().height || 0,
      overflow: root.scrollWidth - root.clientWidth,
      sheets: page.styleSheets.length,
      images: [...page.images].filter((image) => !image.naturalWidth).map((image) => image.src),
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map((one) => one.name),
    };
  });
  document.getElementById("found").textContent = JSON.stringify(found);
};
"""


class References(HTMLParser):
    """The targets and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.targets.append(value or "")
            elif name == "id":
                self.anchors.add(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    # Without a network, because a reader may have none.
    command = ["unshare", "--net", sys.executable, str(BUILDER), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_each_link_leads_to_a_file_and_an_anchor(site: Path) -> None:
    pages = {page: References(page.read_text()) for page in site.rglob("*.html")}
    assert len(pages) > 30
    dead = []
    for page, references in pages.items():
        for target in references.targets:
            parts = urlsplit(target)
            if parts.scheme:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            found = pages[file].anchors if file in pages else set()
            if not file.is_file() or (parts.fragment and parts.fragment not in found):
                dead.append(f"{page.relative_to(site)}: {target}")
    assert dead == []


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = re.findall(
            r'<(?:script|link|img|iframe)[^>]*(?:href|src)="(\w+:[^"]*)', page.read_text()
        )
        assert set(loads) <= {"data:,"}, page
        assert "<script" not in page.read_text()
    assert "url(" not in (site / "style.css").read_text()


def test_a_missing_anchor_is_reported(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Start\n\n[b](docs/README.md#two) [c](c.md)\n")
    (tmp_path / "docs/README.md").write_text("# Docs\n\n## One\n")
    (tmp_path / "deploy/docs").mkdir(parents=True)
    shutil.copy(BUILDER, tmp_path / "deploy/docs/build_site.py")
    command = [sys.executable, str(tmp_path / "deploy/docs/build_site.py"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "README.md: no heading docs/README.md#two", "README.md: no file c.md"
    ]  # fmt: skip


class Served(SimpleHTTPRequestHandler):
    """Serves the site and keeps each request that failed."""

    failed: list[str]

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if code not in (200, 304):
            self.failed.append(f"{self.requestline} {code}")


@pytest.fixture
def server(site: Path) -> Iterator[tuple[str, list[str]]]:
    """Returns the URL of the site and the list of failed requests."""
    handler: Any = type("Handler", (Served,), {"failed": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", handler.failed
        server.shutdown()


def test_browser_renders_each_page(
    site: Path, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, failed = server
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))
    frames = "".join(
        f'<iframe src="{page}" width="{width}" height="900"></iframe>'
        for page in pages for width in WIDTHS
    )  # fmt: skip
    inspector = site / "inspector.html"
    no_icon = '<link rel="icon" href="data:,">'  # else Chromium may ask for favicon.ico
    script = f'<pre id="found"></pre><script>{INSPECTOR}</script>'
    inspector.write_text(f"{no_icon}{frames}{script}")
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"),
        *("--timeout=120000", "--dump-dom", f"{url}inspector.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    inspector.unlink()
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr
    found = json.loads(html.unescape(text[1]))
    assert len(found) == len(pages) * len(WIDTHS)
    for page in found:
        assert page["heading"] > 20, page
        assert page["overflow"] <= 0, page
        assert page["sheets"] == 1, page
        assert page["images"] == [], page
        assert all(one.startswith((url, "data:")) for one in page["loaded"]), page
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    assert failed == []
