"""The ledger against the fact sheets that were collected for it: every pair of scores in them has a claim.

What is no score of a method on one of the three data sets is named here, with the reason. What the sheets
call remembered must be *unverified* in the ledger.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uss_bench.claims import Claim, load_claims
from uss_bench.claims.ledger import UNVERIFIED

SHEETS = Path(__file__).parents[3] / "shared" / "research"
NAMES = ("methods.md", "methods2.md", "paper_facts.md")

NUMBER = r"\d{1,2}(?:\.\d{1,2})?"
PAIR = re.compile(rf"(?<![\d./–-])({NUMBER}|–)/({NUMBER}|–)(?![\d/–]|\.\d)")

NO_CLAIM = {
    "0.25/0.18": "weights of EAGLE's loss",
    "0.63/1.0": "weights of EAGLE's loss",
    "24.0/38.4": "STEGO's two mIoU, of clusters and of a probe, as issue 63 compares them",
    "0.85/0.85": "weights of EAGLE's loss",
    "19.1/21.2": "CAUSE on COCO-81, by two heads; no adapter has its classes",
    "10.6/15.2": "CAUSE on COCO-171",
    "34.32/11.93": "TransFGU on COCO-171",
    "64.31/12.69": "TransFGU on COCO-80",
    "83.59/37.15": "TransFGU on Pascal VOC with its own classes",
    "82.74/70.34": "a copy of SmooSeg, which repeats its numbers",
}
SPLIT = {"72.5/43.6", "76.0/21.2"}
"""One is remembered and the other was read, so that they are two claims of a method."""
TWO_SETS = {"49.1/30.6", "43.6/21.2", "44.2/16.8", "41.7/18.7", "26.3/19.3", "19.6/10.0", "72.5/76.0"}
"""One score on COCO-Stuff-27 and on Cityscapes-27."""

FROM_MEMORY = (
    ("ppap", "cocostuff27", 59.0, 27.2),
    ("ppap", "cocostuff27", 62.9, 26.5),
    ("ppap", "cityscapes27", 83.0, 22.0),
    ("ppap", "potsdam3", 83.9, None),
    ("depthg", "cocostuff27", 56.3, 25.6),
    ("depthg", "cocostuff27", 58.6, 29.0),
    ("eagle", "cityscapes27", 79.4, 22.1),
    ("cups", "cityscapes27", 83.0, 26.8),
    ("diffseg", "cocostuff27", 72.5, None),
    ("diffseg", "cityscapes27", 76.0, None),
)
"""The sheets' list of what is still remembered only, as it stands in `paper_facts.md`."""


def sheet(name: str) -> str:
    path = SHEETS / name
    if not path.is_file():
        pytest.skip(f"needs ../shared/research/{name}")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return load_claims()


def pairs(text: str) -> set[str]:
    """Return every pair of scores: two numbers of which one has a decimal, as ``57.2/24.6``."""
    return {match[0] for match in PAIR.finditer(text) if "." in match[0]}


def says(printed: str, value: float | None) -> bool:
    """Whether a number of the ledger is what a sheet prints, which may have fewer decimals."""
    if printed == "–":
        return True
    decimals = len(printed.partition(".")[2])
    return value is not None and abs(float(printed) - value) <= 0.5 * 10**-decimals + 1e-6


def holds(claim: Claim, pair: str) -> bool:
    first, second = pair.split("/")
    linear = claim.metrics.get("linear_accuracy"), claim.metrics.get("linear_miou")
    return any(says(first, a) and says(second, b) for a, b in ((claim.accuracy, claim.miou), linear))


def held(pair: str, claims: list[Claim]) -> bool:
    if pair in TWO_SETS | SPLIT:
        apart: list[set[str]] = []
        for number in pair.split("/"):
            apart.append(
                {one.method for one in claims if says(number, one.accuracy) or says(number, one.miou)}
            )
        return bool(apart[0] & apart[1])
    return any(holds(claim, pair) for claim in claims)


@pytest.mark.parametrize("name", NAMES)
def test_every_pair_of_scores_in_a_sheet_is_a_claim_or_named_with_its_reason(claims, name):
    found = pairs(sheet(name))
    assert len(found) > 20
    assert {pair for pair in found - set(NO_CLAIM) if not held(pair, claims)} == set()


def test_no_reason_outlives_its_number(claims):
    found = set().union(*(pairs(sheet(name)) for name in NAMES))
    assert (TWO_SETS | SPLIT) - found == set()
    assert set(NO_CLAIM) - found == set()
    assert {pair for pair in NO_CLAIM if held(pair, claims)} == set()


def test_a_number_that_the_ledger_lacks_would_be_noticed(claims):
    fewer = [claim for claim in claims if claim.method != "u2seg"]
    assert held("63.9/30.2", claims)
    assert not held("63.9/30.2", fewer)
    assert not held("63.8/30.2", claims)


def test_what_is_remembered_is_unverified_wherever_the_method_says_it_itself(claims):
    for method, dataset, accuracy, miou in FROM_MEMORY:
        said = [
            claim
            for claim in claims
            if (claim.method, claim.dataset, claim.accuracy, claim.miou) == (method, dataset, accuracy, miou)
        ]
        assert said, (method, dataset)
        assert {claim.variant for claim in said} == {UNVERIFIED}, (method, dataset)


def test_remembered_linear_probes_are_unverified(claims):
    for method, linear in (("hp", 75.6), ("eagle", 76.8)):
        (said,) = (one for one in claims if one.method == method and "linear_accuracy" in one.metrics)
        assert said.metrics["linear_accuracy"] == linear
        assert said.variant == UNVERIFIED


def test_what_is_only_quoted_says_so(claims):
    words = re.compile(r"[Ss]econd-hand|quote|[Rr]ead in a copy|Seen|other papers cite|listed")
    for claim in claims:
        if claim.paper in ("hp", "eagle", "others") and not claim.variant:
            assert words.search(claim.note), (claim.paper, claim.label, claim.note)


def test_outside_methods_are_on_no_board_by_their_name(claims):
    from uss_bench.plugins.registry import Registry

    outside = {"u2seg", "cups", "drive-and-segment", "diffseg", "diffcut", "s2uniseg", "vice", "hsg", "acseg"}
    assert outside <= {claim.method for claim in claims}
    assert not outside & set(Registry().names("methods"))
