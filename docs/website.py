"""Build the docs site into build/site: all pages of the repository, and the notebooks with their outputs.

Pages keep their places, so a link means the same on the site and in the repository. The notebooks run first,
on the generated data. Any broken link or anchor ends the build. ``--fast`` leaves the notebooks' outputs out.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "site"
PAGES = ("*.md", "docs/*.md", "methods/*/README.md", "leaderboards/*/README.md", "benchmarks/README.md")
BACKBONES = "uss_bench/backbones/*/README.md"
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?(?:\s[^)]*)?\))")


def stage(folder: Path) -> None:
    """Copy all pages to a folder, with the files that they link to."""
    for pattern in (*PAGES, BACKBONES):
        for page in ROOT.glob(pattern):
            place = folder / page.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_linked(page, folder), encoding="utf-8")


def _linked(page: Path, folder: Path) -> str:
    """Return a page whose links to folders lead to their pages; copy what else it links to."""

    def one(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        found = (page.parent / target).resolve()
        if found.is_dir() and not (found / "README.md").is_file():
            return before.lstrip("![").removesuffix("](")  # a folder has no page to lead to
        if found.is_dir():
            return f"{before}{target.rstrip('/')}/README.md{after}"
        if found.is_file() and found.suffix not in (".md", ".ipynb"):
            place = folder / found.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, place)
        return f"{before}{target.replace('.ipynb', '.md')}{after}"

    return _LINK.sub(one, page.read_text(encoding="utf-8"))


def render(notebook: Path, folder: Path, *, execute: bool) -> None:
    """Run a notebook in an empty folder, and write it with its outputs as a page.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)
    if execute:
        with TemporaryDirectory() as place:
            NotebookClient(content, timeout=900, resources={"metadata": {"path": place}}).execute()
    _drop_progress(content)
    text, resources = MarkdownExporter().from_notebook_node(content)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in resources["outputs"].items():
        (folder / f"{notebook.stem}-{name}").write_bytes(picture)
        text = text.replace(f"]({name})", f"]({notebook.stem}-{name})")
    (folder / f"{notebook.stem}.md").write_text(text, encoding="utf-8")


def _drop_progress(content: Any) -> None:
    """Leave out what cells print on standard error: messages of progress, which no two runs share."""
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]


def navigation(config: Mapping[str, Any]) -> list[Any]:
    """Return the menu, with a page for every method that has one, and for backbones."""
    pages = sorted(ROOT.glob("methods/*/README.md"))
    rows: list[Any] = [{_title(page): page.relative_to(ROOT).as_posix()} for page in pages]
    rows += [{_title(page): page.relative_to(ROOT).as_posix()} for page in sorted(ROOT.glob(BACKBONES))]
    return [{"Methods": rows} if "Methods" in entry else entry for entry in config["nav"]]


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config_file = Path(__file__).parent / "mkdocs.yml"
    with TemporaryDirectory() as name:
        folder = Path(name) / "pages"
        stage(folder)
        for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
            render(notebook, folder / "docs" / "notebooks", execute="--fast" not in sys.argv)
        config: MkDocsConfig = load_config(
            str(config_file), docs_dir=str(folder), site_dir=str(SITE), strict=True
        )
        config["nav"] = navigation(config)
        build(config)
    print(f"{SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
