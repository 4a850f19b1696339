"""The identity of every golden run, pinned: whoever changes code or ids unawares learns of it here."""

from __future__ import annotations

from pathlib import Path

import pytest

from uss_bench.experiment.resolving import Loaded, resolve
from uss_bench.plugins.registry import Registry
from uss_bench.regression.golden import read_golden, read_plan
from uss_bench.results.record import Cell

FOLDER = Path(__file__).parents[2] / "leaderboards" / "golden"
PINNED = {
    "constant-toy3": ("1f2ee9744ebe", "ae0d4f0165227c91", "56d237bb9fe054a7"),
    "random-toy3": ("5b06830176d5", "d5225f9583f7cb16", "88f8bb75300e4585"),
    "dino-toy3": ("54e8ad13bf76", "7f65124c14d5fdd7", "e40d7aa4c12c5543"),
    "smooseg-toy3": ("c21b9379af67", "ae99bcc30e6dd735", "769a7bf467265604"),
    "ds2dl-toy3": ("31d985982596", "73dd9b90340ae63a", "b4c1c390e72e79d6"),
    "stego-toy3": ("51f7ae5a2855", "8c4f596e0a652d33", "df2ebbdb9b5b0844"),
    "pca-toy3": ("386f769d818e", "e88ee0ad2688b927", "3906e8a8a9ca8e3e"),
    "randproj-toy3": ("8de3668ce023", "eaedbd9a096bed94", "0809475c1862ee24"),
    "debias-toy3": ("0c19ad74586b", "53476ea74d4c828e", "cd22986207e62730"),
    "ncut-toy3": ("41675c883a66", "6cd9bad637c3ac64", "c05aaee6efbfa0c4"),
    "primaps-toy3": ("f07d9439a8df", "ae1c4383845c34ef", "9934366e67de813d"),
    "eagle-toy3": ("8da09f983821", "83801637bcaa4d0a", "0cfba1ddb9db44a8"),
    "ppap-toy3": ("08dc39222915", "6af2c03ed144f157", "2498042f18820013"),
    "cause-toy3": ("73765104f443", "4de9432c2f4fbc52", "27910e2105534309"),
    "hp-toy3": ("e2f6c6fa1d96", "b34b5617520d9ffe", "aea1b4d457d5f7bc"),
    "equss-toy3": ("b6e7067bb194", "39406c463cab7fef", "b1a4a33497070a23"),
    "reib-toy3": ("76b286549dad", "2e17e304c3bd1176", "c251c2273e8461ab"),
    "depthg-toy27": ("f7a610b4aa44", "98502de3183a26cd", "736cc31aae29c504"),
    "picie-toy3": ("fe709fbdee41", "926c18041d0b38bb", "265280596e7dff44"),
    "mdc-toy3": ("bb5347e66d3d", "32ddcdaf8b77bde8", "c0ef5547c8e50884"),
    "picie_h-toy3": ("3d0f876ec297", "6e4a03a31372502d", "5c42cda0e4e58068"),
    "iic-toy3": ("3532c61f80ad", "ed047b0796f92695", "76a747945d9c0c7b"),
    "iic_proj-toy3": ("02b473a0ce79", "186d418396724492", "5c3abfee55ca7587"),
    "transfgu-toy3": ("a32ddc47d487", "acbcf07c298fd025", "541143d0f7f9681c"),
    "picie_proj-toy3": ("0fd32d415c36", "d2ffd800eb75e14a", "d2e0ed22cd2ed286"),
    "mdc_proj-toy3": ("9bce6ad5aeed", "6a5fca29a79da5f4", "820a0212138943de"),
}
"""The code of each method, and the ids of its runs with seeds 0 and 1.

A code that moves makes every committed record of its method stale. Where that is meant, repeat the golden
runs (``uss-bench regress golden --update``), whose counts stay, and put the new values here.
"""


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    """What the plan of the golden runs asks for now."""
    plan, registry, loaded = read_plan(FOLDER), Registry(), Loaded()
    specs = [spec for table in plan.runs for spec in table.over(plan.defaults).cells()]
    return {
        f"{spec.method}-{spec.dataset}-s{spec.seed}": resolve(spec, registry, loaded).cell(spec.seed)
        for spec in specs
    }


@pytest.mark.parametrize("run", PINNED)
def test_codes_and_ids_are_as_they_were(cells: dict[str, Cell], run: str) -> None:
    of_seeds = [cells[f"{run}-s{seed}"] for seed in (0, 1)]
    assert {cell.method.code for cell in of_seeds} == {PINNED[run][0]}
    assert tuple(cell.id for cell in of_seeds) == PINNED[run][1:]


def test_the_golden_results_are_of_these_runs(cells: dict[str, Cell]) -> None:
    assert {name: summary.cell for name, (summary, _) in read_golden(FOLDER).results.items()} == cells
