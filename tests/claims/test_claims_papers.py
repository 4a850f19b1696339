"""The ledger against the papers' text, cell by cell: every number of a table, and no other.

The tables are read from the text itself, rows, columns and numbers; there is no second transcription.
What the extraction from PDF has mangled is mended in `mended`, and nowhere else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from uss_bench.claims import Claim, load_ledger

PAPERS = Path(__file__).parents[3] / "shared" / "papers"

TABLES = {"ds2dl": (67, 12, 54), "smooseg": (26, 14, 16, 8, 6, 36)}
"""How many numbers each table has, counted by eye. Every table of these papers is in the ledger."""

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
GAIN = re.compile(r"\(\+(\d+\.\d+)\)")

DATASETS = {
    "COCOStuff": "cocostuff27",
    "Cityscapes": "cityscapes27",
    "Potsdam-3": "potsdam3",
    "Avg.": "average",
}
METRICS = {"Acc.": "accuracy", "Acc": "accuracy", "mIoU": "miou", "IOU": "miou"}

Cell = tuple[str, str, str, str, str]
"""Table, label, printed backbone, dataset, and metric or parameter; texts without their spaces."""


def paper(name: str) -> str:
    path = PAPERS / f"{name}.txt"
    if not path.is_file():
        pytest.skip(f"needs ../shared/papers/{name}.txt")
    return path.read_text(encoding="utf-8")


def mended(text: str) -> str:
    """Undo what the extraction did to tables, and only that."""
    # Numbers of lines in the margin of a submission stand before the rows.
    text = re.sub(r"^\d{3} +(?=\S)", "", text, flags=re.M)
    text = re.sub(r"^\d{3}\s*$\n", "", text, flags=re.M)
    # A superscript over a subscript has broken its row in two.
    text = text.replace("w/o E across\nsmooth", "w/o E across smooth")
    # The captions of the figures beside a table run on in its last row.
    return re.sub(r"(?<=\d) Figure \d+: .*$", "", text, flags=re.M)


def squeezed(text: str) -> str:
    """Texts are compared without their spaces, which the extraction puts where it likes."""
    return re.sub(r"\s", "", text).replace("−", "-")


def caption_and_lines(text: str, number: int) -> tuple[str, list[str]]:
    """Return a table's caption, and the lines below it, up to the next caption."""
    start = re.search(rf"^ ?Table {number}: ", text, flags=re.M)
    assert start is not None
    caption, _, rest = text[start.end() :].partition("\n\n")
    rest = re.split(r"^ ?(?:Table|Figure) \d+: ", rest, maxsplit=1, flags=re.M)[0]
    return " ".join(caption.split()), [line for line in rest.split("\n") if line.strip()]


def cells(name: str) -> dict[Cell, str]:
    """Return every number of a paper's tables, as printed."""
    text = mended(paper(name))
    found: dict[Cell, str] = {}
    for number in range(1, len(TABLES[name]) + 1):
        caption, lines = caption_and_lines(text, number)
        for cell, value in rows_of(caption, lines):
            key = (f"Table {number}", *cell)
            assert key not in found, key
            found[key] = value
    return found


def rows_of(caption: str, lines: list[str]) -> Iterator[tuple[tuple[str, str, str, str], str]]:
    """Yield (label, backbone, dataset, metric) and number of every cell of one table."""
    header: list[str] = []
    body: list[tuple[str, list[str]]] = []
    for line in lines:
        values = trailing_values(line)
        if values:
            body.append((line.rsplit(maxsplit=len(values))[0], values))
        elif body:
            break  # the table is over, and the text goes on
        else:
            header += line.split()
    metrics = [METRICS[word] for word in header if word in METRICS]
    datasets = [DATASETS[word] for word in header if word in DATASETS]
    datasets = datasets or [DATASETS[word] for word in DATASETS if word in caption]
    for text, values in body:
        # Before the numbers stands the label; a group's name before it, or a backbone behind it.
        texts = [part for part in text.split("\t") if part.strip()]
        if "backbone" in header:
            label, backbone = texts if len(texts) == 2 else text.rsplit(maxsplit=1)
        else:
            label, backbone = texts[-1], ""
        columns = metrics or [squeezed(label)] * len(datasets)
        each = len(columns) // len(datasets)
        assert sum(not GAIN.fullmatch(value) for value in values) == len(columns), text
        index = -1
        for value in values:
            gain = GAIN.fullmatch(value)
            index += 0 if gain else 1
            key = (squeezed(label), squeezed(backbone), datasets[index // each])
            if gain:
                yield (*key, f"{columns[index]}_gain"), gain[1]
            elif value != "-":
                yield (*key, columns[index]), value


def trailing_values(line: str) -> list[str]:
    """Return the numbers, dashes and gains that a line ends with."""
    words = line.split()
    values: list[str] = []
    while words and (NUMBER.fullmatch(words[-1]) or GAIN.fullmatch(words[-1]) or words[-1] == "-"):
        values.insert(0, words.pop())
    return values


def claimed(claims: list[Claim]) -> dict[Cell, str]:
    """Return the same of the ledger."""
    found: dict[Cell, str] = {}
    for claim in claims:
        row = (claim.table, squeezed(claim.label), squeezed(claim.printed_backbone), claim.dataset)
        values = {"accuracy": claim.accuracy, "miou": claim.miou, **claim.metrics}
        printed = {
            name: f"{value:.{claim.decimals}f}" for name, value in values.items() if value is not None
        } or {name: f"{value:g}" for name, value in claim.params.items()}
        for name, value in printed.items():
            assert (*row, name) not in found, (*row, name)
            found[(*row, name)] = value
    return found


@pytest.fixture(scope="module")
def ledger():
    return load_ledger()


@pytest.mark.parametrize("name", TABLES)
def test_the_ledger_holds_every_cell_of_the_papers_tables_and_no_other(ledger, name):
    printed = cells(name)
    held = claimed([claim for claim in ledger.claims if claim.paper == name])
    assert held.keys() - printed.keys() == set(), "claims that the paper does not have"
    assert printed.keys() - held.keys() == set(), "cells that the ledger lacks"
    assert held == printed
    sizes = Counter(table for table, *_ in printed)
    assert tuple(sizes[f"Table {number + 1}"] for number in range(len(sizes))) == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_captions_are_those_of_the_papers(ledger, name):
    text = mended(paper(name))
    for number in range(1, len(TABLES[name]) + 1):
        caption, _ = caption_and_lines(text, number)
        assert squeezed(ledger.captions[name, f"Table {number}"]) == squeezed(caption)


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_speak_of_a_crf_are_held_as_they_say(ledger, name):
    rows = [claim for claim in ledger.claims if claim.paper == name and "CRF" in claim.label]
    assert rows
    for claim in rows:
        assert claim.crf is ("w/o CRF" not in claim.label), claim


@pytest.mark.parametrize("name", TABLES)
def test_where_another_backbone_was_used_than_is_printed_a_note_says_so(ledger, name):
    cards = {"ViT-S/8": "dino_vits8", "ViT-B/8": "dino_vitb8", "ViT-B/14": "dinov2_vitb14"}
    differing = []
    for claim in ledger.claims:
        if claim.paper == name and claim.printed_backbone in cards:
            card = cards[claim.printed_backbone]
            if claim.backbone.removesuffix("_hub") != card:
                differing.append(claim.method)
                assert "ViT-S/8, though" in claim.note
    assert differing == (["stego"] if name == "smooseg" else [])


def test_printed_means_and_gains_follow_from_the_numbers_beside_them_but_for_one(ledger):
    odd = []
    for table in (("ds2dl", "Table 3"), ("smooseg", "Table 6")):
        rows = [claim for claim in ledger.claims if (claim.paper, claim.table) == table]
        for mean in [claim for claim in rows if claim.dataset == "average"]:
            parts = [one for one in rows if one.label == mean.label and one.dataset != "average"]
            assert len(parts) == 3
            for metric in ("accuracy", "miou"):
                exact = sum(getattr(one, metric) for one in parts) / 3
                assert abs(getattr(mean, metric) - exact) <= 0.051, (mean, exact)
                if f"{metric}_gain" not in mean.metrics:
                    continue
                label = mean.label.replace("w CRF", "w/o CRF")
                (without,) = (one for one in rows if (one.label, one.dataset) == (label, "average"))
                gain = getattr(mean, metric) - getattr(without, metric)
                if abs(gain - mean.metrics[f"{metric}_gain"]) > 0.051:
                    odd.append((mean.paper, mean.method, metric))
                    assert f"differ by {gain:.1f}" in mean.note
    assert odd == [("ds2dl", "ds2dl", "miou")]


def test_papers_agree_on_what_they_cite_of_one_experiment(ledger):
    said: dict[tuple[object, ...], set[tuple[float | None, float | None]]] = {}
    for claim in ledger.claims:
        if claim.paper in TABLES and claim.scored:
            where = (claim.dataset, claim.split, claim.backbone, claim.protocol, claim.crf)
            experiment = (claim.method, claim.variant, *where)
            said.setdefault(experiment, set()).add((claim.accuracy, claim.miou))
    assert {experiment: values for experiment, values in said.items() if len(values) > 1} == {}
