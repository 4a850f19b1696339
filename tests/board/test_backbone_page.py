"""The page of backbones: what shares a table, what is best, where marks stand, what is escaped."""

from __future__ import annotations

import html.parser
import io
import itertools
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from board_records import HOSTILE, write_runs
from feature_records import write_features
from PIL import Image

from uss_bench.board import compute
from uss_bench.board.backbone_figures import HEIGHT, WIDTH, cluster_figure, cost_figure, names_by_series
from uss_bench.board.backbone_page import render
from uss_bench.board.backbone_tables import feature_tables
from uss_bench.results.feature_record import FeatureSettings, picture_path, read_feature_records
from uss_bench.statistics.intervals import Interval

SCORES = {
    ("kmeans", 2): 20.0,
    ("over-clustering", 2): 30.0,
    ("over-clustering", 100): 50.0,
    ("probe", None): 60.0,
}


def plus(points: float) -> dict:
    return {key: value + points for key, value in SCORES.items()}


@pytest.fixture
def out(tmp_path) -> Path:
    """Three backbones, one of them with a sweep over blocks and one hostile in its notes."""
    folder = tmp_path / "records"
    for seed in (0, 1):
        write_features(folder, "xfeat", plus(seed), seed=seed, flops=2 * 10**9)
    write_features(folder, "tinyvit", plus(5), flops=10**8)
    write_features(folder, "tinyvit", plus(30), facet="tokens@3", flops=10**8)
    write_features(folder, "mine", plus(-10), flops=0, parameters=None, notes=(HOSTILE,))
    return folder


def tables(folder: Path):
    found, broken = read_feature_records([folder])
    assert broken == []
    return feature_tables(found)


class Reader(html.parser.HTMLParser):
    """Collects the text of every table's rows, and whether cells are bold."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, bool]]] = []
        self.tags: list[str] = []
        self.cell = False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = True
            self.rows[-1].append(("", "best" in (found.get("class") or "")))
        assert not {name for name, _ in attributes if name.startswith("on")}

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            text, best = self.rows[-1][-1]
            self.rows[-1][-1] = (f"{text} {data.strip()}".strip(), best)


def test_seeds_are_one_row_and_what_differs_in_anything_else_another_table(out):
    (table,) = tables(out)
    rows = {(row.name, row.facet): row for row in table.rows}
    assert rows["xfeat", "tokens"].values["probe"] == (60.0, 61.0)
    assert [(row.name, row.facet) for row in table.rows] == [
        ("tinyvit", "tokens"),
        ("xfeat", "tokens"),
        ("mine", "tokens"),
        ("tinyvit", "tokens@3"),
    ]
    write_features(out, "xfeat", SCORES, settings=FeatureSettings(kmeans_steps=5))
    write_features(out, "xfeat", SCORES, fingerprint="g")
    write_features(out, "xfeat", SCORES, protocol="stego320@2[eval_side=224,crf=none]")
    # Other measures of the same settings are further columns, not another table.
    write_features(out, "new", {("retrieval", None): 9.0}, settings=FeatureSettings(measures=("retrieval",)))
    found = tables(out)
    assert sorted(len(one.rows) for one in found) == [1, 1, 1, 5]


def test_what_learned_from_labels_stands_apart_and_blocks_are_never_best(out, registry, tmp_path):
    page = render(read_feature_records([out])[0], tmp_path / "boards", registry)
    reader = Reader()
    reader.feed(page)
    heads = [[text for text, _ in row] for row in reader.rows if row[0][0] == "backbone"]
    unlabeled, labeled = heads
    assert "probe ‡" in labeled
    assert not [name for name in unlabeled if "probe" in name or "retrieval" in name]
    assert [name for name in labeled if "K=" in name] == []
    bold = [(row[0][0], text) for row in reader.rows for text, best in row if best]
    assert bold == [("tinyvit", "25.0"), ("tinyvit", "35.0"), ("tinyvit", "55.0"), ("tinyvit", "65.0")]
    assert "20.5 ± 0.7" in page
    assert "another task: not ranked" in page
    assert [row[0][0] for row in reader.rows].count("tinyvit · block 3") == 2


def test_a_page_says_what_cards_say_and_of_other_weights_that_none_does(out, registry, tmp_path):
    page = render(read_feature_records([out])[0], tmp_path / "boards", registry)
    assert "depth-supervision" in page
    assert "2,400 street scenes" in page
    assert page.count("no card says what they are made of") == 1
    assert "1.5 M" in page
    assert "12.3 ms" in page


def test_hostile_words_stay_words_and_links_lead_to_records(out, registry, tmp_path):
    page = render(read_feature_records([out])[0], tmp_path / "boards", registry)
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert "alert(1)" in page
    assert not re.search(r'(src|href)="https?:', page)
    links = re.findall(r'<a href="(\.\./[^"]+)"', page)
    assert links
    assert all((tmp_path / "boards" / unquote(one)).resolve().is_file() for one in links)


def test_marks_stand_where_the_numbers_are(out):
    (table,) = tables(out)
    series = names_by_series(table.rows)
    figure = cost_figure(table, table.columns[0], series)
    assert figure is not None
    marks = {mark.name: mark for mark in figure.marks}
    assert set(marks) == {"tinyvit", "xfeat"}, "neither the block nor what has no operations"
    assert figure.left_out == ("mine",)
    (x0, y0), (x1, y1) = (marks[name].points[0] for name in ("tinyvit", "xfeat"))
    assert x0 < x1, "cheaper is left"
    assert y0 < y1, "better is up"
    scale = {words: y for y, words in figure.y_ticks}
    zero, ten = scale["0"], scale["10"]
    assert y0 == pytest.approx(zero - (zero - ten) * 25.0 / 10, abs=0.2)
    ticks = {float(words.replace(",", "")): x for x, words in figure.x_ticks}
    (a, xa), (b, xb) = sorted(ticks.items())[:2]
    assert x1 == pytest.approx(xa + (xb - xa) * math.log(2 / a) / math.log(b / a), abs=0.2)
    assert (
        cost_figure(feature_tables(read_feature_records([out])[0][:1])[0], table.columns[0], series) is None
    )

    curve = cluster_figure(table, series)
    assert curve is not None
    assert [len(mark.points) for mark in curve.marks] == [2, 2, 2]
    for one in (figure, curve):
        for mark in one.marks:
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in (*mark.points, mark.label))


def test_labels_of_marks_at_one_place_do_not_lie_on_each_other(tmp_path):
    for name in ("first", "second", "third"):
        write_features(tmp_path, name, SCORES)
    (table,) = tables(tmp_path)
    figure = cost_figure(table, table.columns[0], names_by_series(table.rows))
    assert figure is not None
    heights = sorted(mark.label[1] for mark in figure.marks)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12


def test_board_build_writes_the_page_shows_pictures_and_takes_it_away_again(
    command, registry, tmp_path, monkeypatch
):
    monkeypatch.setattr(compute, "_sampling", lambda setting, refinement: setting.counts(refinement))
    monkeypatch.setattr(compute, "interval_of", lambda *_: Interval(1.0, 2.0))
    monkeypatch.setattr(compute, "tiers_of", lambda settings, *_: [1] * len(settings))
    runs, boards = tmp_path / "records", tmp_path / "boards"
    write_runs(runs, "alpha", 0.6)

    def build(*more):
        return command("board", "build", "--records", runs, "--out", boards, *more)

    assert build().code == 0
    assert not (boards / "backbones.html").exists()
    assert "backbones.html" not in (boards / "board.html").read_text(encoding="utf-8")

    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[features]]\ndataset = "toy27"\nbackbone = ["patchstats", "dense_sift"]\nlimit = 4\n'
        'protocol = "stego320@2[eval_side=32]"\ntraining = { side = 32 }\n'
        'set = { measures = ["kmeans"], kmeans_steps = 1 }\n',
        encoding="utf-8",
    )
    assert command("features", "--plan", plan, "--out", runs).code == 0
    assert build().code == 0
    page = (boards / "backbones.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:image/bmp;base64,") == 4, "the images, drawn again"
    assert 'href="backbones.html"' in (boards / "board.html").read_text(encoding="utf-8")
    assert build("--check").code == 0
    (first, *_) = read_feature_records([runs])[0]
    picture = io.BytesIO()
    Image.new("RGB", (16, 4)).save(picture, format="png")
    picture_path(first[0]).write_bytes(picture.getvalue())
    assert build("--check").code == 3

    for path in runs.rglob("*.features.json"):
        path.unlink()
    assert build().code == 0
    assert not (boards / "backbones.html").exists()
