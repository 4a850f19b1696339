"""What a board looks like in text, Markdown, LaTeX, CSV and HTML, also of records with hostile content."""

from __future__ import annotations

import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from board_records import FLOORS, HOSTILE, write_runs

from uss_bench.board import compute, latex, markdown, page, sheets, terminal, text
from uss_bench.board.model import Board
from uss_bench.claims import Claim
from uss_bench.results.collection import gather, read_entries
from uss_bench.statistics.intervals import Interval


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def boards(folder) -> list[Board]:
    """Two tables, of which one is hostile in every word that a record chooses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "_sampling", lambda *_: None)
        patch.setattr(compute, "interval_of", lambda *_: Interval(12.34, 56.78, "too few images"))
        patch.setattr(compute, "tiers_of", lambda settings, *_: [2, 1, 1, 3][: len(settings)])
        for tau in (0.05, 0.1, 0.2):
            write_runs(folder, "alpha", 0.4 + tau, params={"tau": tau}, selected_skill=0.8)
        write_runs(folder, "beta", 0.7)
        write_runs(folder, "gamma", 0.6)
        write_runs(folder, "constant", 0.2, backbone="none", sha256="")
        write_runs(
            folder,
            "evil",
            seeds=(0, 1),
            dataset="d",
            backbone=HOSTILE,
            params={HOSTILE: HOSTILE},
            classes=[HOSTILE, "b", "c"],
            labels_used=[HOSTILE],
            notes=[HOSTILE],
            command=HOSTILE,
            environment={"device": HOSTILE},
        )
        write_runs(folder, "evil", seeds=(0,), dataset="d", backbone=HOSTILE, params={HOSTILE: 1})
        evil = Claim(
            paper=HOSTILE,
            table=HOSTILE,
            label=HOSTILE,
            method="evil",
            source="own",
            dataset="d",
            backbone=HOSTILE,
            printed_backbone=HOSTILE,
            protocol=HOSTILE,
            accuracy=51.7,
            miou=23.4,
            notes=(HOSTILE,),
        )
        found = gather(read_entries([folder])[0])
        return compute.boards(found, [evil], is_stale=lambda cell: cell.method.name == "alpha", floors=FLOORS)


@pytest.fixture(scope="module")
def town(boards) -> Board:
    return next(board for board in boards if board.key.dataset == "town")


# --- Words ---------------------------------------------------------------------------------------


def test_ranks_are_words(town):
    ranks = {row.name: text.rank(row.measures[town.primary]) for row in town.every_row}
    assert ranks == {
        "beta": "1st",
        "gamma": "tied with 1st",
        "alpha": "tier 2",
        "alpha: tau=0.2": "–",
        "alpha: tau=0.05": "–",
        "constant": "tier 3",
    }


def test_another_setting_is_set_against_its_methods_row(town):
    (alpha,) = [row for row in town.rows if row.title == "alpha"]
    better, worse = alpha.variants
    assert (better.changes, worse.changes) == ("tau=0.2", "tau=0.05")
    assert text.against(better, alpha, town.primary).startswith("+")
    assert text.against(worse, alpha, town.primary).startswith("−")


# --- Terminal, Markdown, CSV ---------------------------------------------------------------------


def test_the_terminal_table_fits_120_columns(town):
    lines = terminal.render([town]).splitlines()
    table = [line for line in lines if "±" in line or line.startswith("---")]
    assert len(table) >= 5
    assert max(map(len, table)) <= 120
    assert "constant (floor)" in terminal.render([town])


def test_markdown_tables_are_rectangular_and_show_content_as_it_is(boards):
    rendered = markdown.render(boards)
    tables = re.findall(r"(?:^\|.*\n)+", rendered, flags=re.MULTILINE)
    assert len(tables) == len(boards) + sum(any(row.variants for row in board.rows) for board in boards)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert "<script" not in rendered
    assert "<img" not in rendered


def test_markdown_marks_the_best_the_stale_and_the_floor(town):
    rendered = markdown.render([town])
    assert re.search(r"\| beta +\| +\*\*\d+\.\d ± \d+\.\d\*\*", rendered)
    assert re.search(r"\| alpha† +\| +tau=0\.2 \|", rendered)
    assert "constant *(floor)*" in rendered
    assert "† stale" in rendered


def test_csv_has_a_row_per_configuration_and_a_row_per_record(boards, folder):
    settings = pd.read_csv(io.StringIO(sheets.configurations(boards)))
    records = pd.read_csv(io.StringIO(sheets.records(boards, folder)))
    rows = [row for board in boards for row in board.every_row]
    assert len(settings) == len(rows)
    assert len(records) == sum(len(row.runs) for row in rows)
    assert settings["miou_crf_mean"].tolist() == pytest.approx(
        [row.measures["crf", "miou"].mean for row in rows], abs=5e-4
    )
    assert all((folder / path).is_file() for path in records["record"])
    hostile = records[records["dataset"] == "d"].iloc[-1]
    assert hostile["backbone"] == HOSTILE
    assert HOSTILE in json.loads(hostile["params"])


# --- LaTeX ---------------------------------------------------------------------------------------


def test_latex_tables_are_balanced_and_rectangular(boards):
    for board in boards:
        rendered = latex.render(board)
        bare = re.sub(r"\\[\\{}%&#$_]", "", rendered.split("\n", 1)[1])
        depth = 0
        for sign in bare:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0
        (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", rendered)
        body = rendered.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        for line in body.splitlines():
            if line.endswith(r"\\"):
                spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d)\}", line)]
                cells = len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans)
                assert cells == len(columns)


def test_latex_has_the_best_bold_and_the_second_underlined(town):
    rendered = latex.render(town)
    first = next(line for line in rendered.splitlines() if line.startswith("    beta"))
    second = next(line for line in rendered.splitlines() if line.startswith("    gamma"))
    assert r"    \quad tau=0.2$^\dagger$" in rendered
    assert first.count(r"\textbf") == len(town.scores)
    assert second.count(r"\underline") == len(town.scores)
    assert rendered.count(r"\textbf") == rendered.count(r"\underline") == len(town.scores)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex to compile with")
def test_latex_compiles(boards, tmp_path):
    tables = "\n".join(latex.render(board) for board in boards)
    (tmp_path / "tables.tex").write_text(
        f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{tables}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# --- HTML ----------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """What a browser would make of a page: elements with attributes, and text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def rendered(boards, folder) -> str:
    return page.render(boards, folder / "boards")


def test_nothing_that_a_record_or_a_claim_says_becomes_markup(rendered):
    read = Reader(rendered)
    assert any("51.7" in one for one in read.texts), "the claim is shown"
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert all(not name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert any(HOSTILE in one for one in read.texts)
    assert "49" not in {one.strip() for one in read.texts}  # {{ 7*7 }} was not evaluated
    sources = [attributes["src"] for tag, attributes in read.elements if tag == "img"]
    assert all(source.endswith(".png") for source in sources)


def test_the_page_needs_nothing_from_elsewhere_and_says_so(rendered):
    read = Reader(rendered)
    links = [
        value or ""
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert links
    assert not [link for link in links if re.match(r"(?:\w+:)?//", link)]
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_every_row_links_to_its_records_and_gives_the_command(rendered, boards, folder):
    read = Reader(rendered)
    links = {unquote(a["href"] or "") for tag, a in read.elements if tag == "a"}
    for board in boards:
        assert f"#{board.slug}" in links
        for row in board.every_row:
            for run in row.runs:
                relative = f"../{run.path.relative_to(folder).as_posix()}"
                assert relative in links
    assert "uss-bench run --method alpha --seeds 3" in read.texts


def test_rows_heat_and_curves_are_there_without_a_script(rendered, boards):
    read = Reader(rendered)
    classes = [(attributes.get("class") or "").split() for _, attributes in read.elements]
    assert sum("row" in one for one in classes) == sum(len(board.rows) for board in boards)
    assert sum("curve" in one for one in classes) == sum(len(board.curves) for board in boards) > 0
    shades = [a["style"] for tag, a in read.elements if tag == "td" and "style" in a]
    assert len(shades) == sum(len(board.rows) * len(board.classes) for board in boards)
    assert "--v:100" in shades
