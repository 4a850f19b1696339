"""Reports: everything of a record is in them, escaped, and the file stands alone."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plot_records import a_cell, put, some_counts

from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.scoring import score
from uss_bench.protocol import get_protocol
from uss_bench.report import tables
from uss_bench.report.content import document
from uss_bench.report.document import Code, Document, Section, Table, Text
from uss_bench.report.html import to_html
from uss_bench.report.markdown import to_markdown
from uss_bench.report.writing import write_report
from uss_bench.results.collection import Entry, gather
from uss_bench.results.files import read_record
from uss_bench.statistics.intervals import image_interval

NASTY = "<script>alert('x')</script> & \"quoted\" | `ticked` [link](http://x) *bold* &lt;"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The tags and the text of a page; unbalanced tags raise."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def records(tmp_path: Path) -> list[Path]:
    """Two seeds of one method and one of another, one with a picture beside it."""
    folder = tmp_path / "results"
    paths = [
        put(
            folder,
            a_cell(seed=seed, r=2.5, clusters=3),
            some_counts(seed),
            some_counts(seed, hits=0.7),
            command=f"uss-bench run --method ds2dl --seed {seed}",
        )
        for seed in range(2)
    ]
    paths.append(put(folder, a_cell("dino", steps=300), some_counts(5)))
    paths[0].with_suffix(".png").write_bytes(b"\x89PNG the panel")
    return paths


def tables_of(found: Document) -> list[Table]:
    return [block for section in found.sections for block in section.blocks if isinstance(block, Table)]


# --- Content -------------------------------------------------------------------------------------


def test_scores_and_intervals_are_those_of_the_counts(records):
    scores, intervals, *_ = tables_of(document(records))
    assert [row[0] for row in scores.rows] == ["dino", "ds2dl"]
    counts = [some_counts(seed, hits=0.7) for seed in range(2)]
    mious = np.array([100 * score(one).miou for one in counts])
    row = dict(zip(scores.headers, scores.rows[1], strict=True))
    assert row["mIoU CRF"] == f"{mious.mean():.1f} ± {mious.std(ddof=1):.1f}"
    assert row["seeds"] == "0, 1"
    assert row["clusters used"] == "3 of 3"
    found = next(row for row in intervals.rows if row[:2] == ["ds2dl", "mIoU CRF"])
    over_images = image_interval(counts, get_protocol("stego320@2"), "miou")
    assert found[2] == f"{mious.mean():.1f}"
    assert found[4] == tables._interval(over_images)
    single = next(row for row in intervals.rows if row[0] == "dino")
    assert single[3] == "–"  # one seed has no spread


def test_the_label_selected_gain_is_the_difference_of_the_checkpoints(tmp_path):
    path = put(tmp_path, a_cell(), some_counts(0))
    record = read_record(path)
    better = msgspec.structs.replace(record.last.crf, miou=record.last.crf.miou + 3.5)
    selected = msgspec.structs.replace(record.last, step=10, crf=better)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, selected=selected)))
    found = tables.score_table(gather([Entry(path, read_record(path))]))
    assert found.rows[0][found.headers.index("label-selected")] == "+3.5"


def test_every_field_of_protocol_parameters_and_environment_is_there(records):
    found = tables_of(document(records))
    by_name = {tuple(row[:1]): row for table in found for row in table.rows}
    record = read_record(records[0])
    fields = msgspec.to_builtins(record.protocol)
    for name in [*(name for name in fields if name != "crf"), *(f"crf.{name}" for name in fields["crf"])]:
        assert (name,) in by_name, name
    assert by_name["crf.bilateral_sxy",][1] == "67"
    assert by_name["flip",][1] == "true"
    assert by_name["r",] == ["r", "–", "2.5"]  # dino has no r
    assert by_name["steps",] == ["steps", "300", "–"]
    for name, value in record.environment.items():
        assert by_name[name,] == [name, value]
    text = repr(found)
    assert all(part in text for part in (record.id, record.cell.dataset.fingerprint, record.cell.method.code))


def test_the_commands_stand_as_they_were_given(records):
    codes = [b.text for s in document(records).sections for b in s.blocks if isinstance(b, Code)]
    seeds = [f"uss-bench run --method ds2dl --seed {seed}" for seed in range(2)]
    assert codes == ["\n".join(["uss-bench run --method x", *seeds])]


def test_tables_of_several_protocols_stay_apart(tmp_path):
    paths = [
        put(tmp_path / str(flip), a_cell(protocol=f"stego320@2[flip={flip}]"), some_counts(0))
        for flip in ("true", "false")
    ]
    found = document(paths)
    assert [one.title for one in found.sections if one.level == 2] == [
        "tiny, stego320@2",
        "tiny, stego320@2[flip=false]",
    ]
    assert [len(table.rows) for table in tables_of(found) if table.headers[0] == "method"] == [1, 4, 1, 4]


@pytest.mark.parametrize(
    ("fields", "said"), [({"status": "failed"}, "failed run"), ({"last": None}, "no scores")]
)
def test_a_record_without_scores_is_no_report(tmp_path, fields, said):
    path = put(tmp_path, a_cell(), some_counts(0))
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(read_record(path), **fields)))
    with pytest.raises(UsageError, match=said):
        document([path])


# --- Writers -------------------------------------------------------------------------------------


def test_the_html_stands_alone_and_holds_the_panel(records, tmp_path):
    target = tmp_path / "report.html"
    assert write_report(records, target) == [target]
    html = target.read_text()
    page = Page(html)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources)
    assert base64.b64encode(b"\x89PNG the panel").decode() in html
    assert "url(" not in html
    assert not re.search(r'(src|href)="(https?:|//)', html)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"] for tag, a in page.tags if tag == "a"} == {f"#{name}" for name in targets}
    write_report(records, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == target.read_bytes()


def test_what_a_record_says_is_escaped_in_html(tmp_path):
    path = put(
        tmp_path,
        a_cell("x", note=NASTY),
        some_counts(0),
        command=NASTY,
        notes=[NASTY],
        environment={NASTY: NASTY},
    )
    write_report([path], tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert "<script" not in html
    assert Page(html).text.count(NASTY) >= 4


def test_what_a_record_says_is_escaped_in_markdown():
    found = Document(
        NASTY, [Section(NASTY, [Text(NASTY), Table([NASTY, "b"], [[NASTY, "1"]]), Code("a\n```b")])]
    )
    text, pictures = to_markdown(found, "pictures")
    assert not pictures
    outside, fence, code = text.partition("````sh")
    assert fence
    assert code == "\na\n```b\n````\n"
    assert not re.search(r"(?<!\\)[<>`*\[\]]|&(?!(?:lt|gt|amp);)", outside)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {3}


def test_markdown_points_at_the_pictures_beside_it(records, tmp_path):
    target = tmp_path / "a report.md"
    *pictures, page = write_report(records, target)
    assert page == target
    linked = {tmp_path / name for name in re.findall(r"\]\(<([^>]*)>\)", target.read_text())}
    assert linked == set(pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_an_empty_section_is_a_heading():
    html = to_html(Document("a", [Section("b")]))
    assert ("h2", {"id": "s0"}) in Page(html).tags


# --- Command line --------------------------------------------------------------------------------


def test_a_report_is_written_from_ids(records, tmp_path, command):
    ids = [read_record(path).id[:8] for path in records]
    out = tmp_path / "report.md"
    said = command("report", *ids, "--records", tmp_path / "results", "--out", out, "--quiet")
    assert said.code == 0, said.err
    assert said.out == f"report   {out}\npictures {tmp_path / 'report-pictures'} (6)\n"


def test_a_wrong_suffix_or_folder_is_told(records, tmp_path, command):
    said = command("report", records[0], "--out", tmp_path / "report.docx")
    assert said.code == 2
    assert "'.docx' file" in said.err
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(records[:1], tmp_path / "file" / "report.md")
