"""The identity of every golden run, pinned: whoever changes code or ids unawares learns of it here."""

from __future__ import annotations

from pathlib import Path

import pytest

from uss_bench.experiment.setup import Loaded, resolve
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
    "stego-toy3": ("8759de3aad87", "f887732c5cb4d755", "66aa18fc97a2a7c7"),
    "pca-toy3": ("386f769d818e", "e88ee0ad2688b927", "3906e8a8a9ca8e3e"),
    "randproj-toy3": ("8de3668ce023", "eaedbd9a096bed94", "0809475c1862ee24"),
    "debias-toy3": ("0c19ad74586b", "53476ea74d4c828e", "cd22986207e62730"),
    "ncut-toy3": ("41675c883a66", "6cd9bad637c3ac64", "c05aaee6efbfa0c4"),
    "primaps-toy3": ("2568cf81242c", "f340682de07a25a8", "905ee7067cb59972"),
    "eagle-toy3": ("8da09f983821", "83801637bcaa4d0a", "0cfba1ddb9db44a8"),
    "ppap-toy3": ("08dc39222915", "6af2c03ed144f157", "2498042f18820013"),
    "cause-toy3": ("73765104f443", "4de9432c2f4fbc52", "27910e2105534309"),
    "hp-toy3": ("e2f6c6fa1d96", "b34b5617520d9ffe", "aea1b4d457d5f7bc"),
    "equss-toy3": ("5c98bf6d922b", "2124caf07a56cf9c", "157b203811d650eb"),
    "reib-toy3": ("77ed04487bd4", "f4bce565e006aedd", "2a6ede4600e03938"),
    "depthg-toy27": ("e11e54dd01ed", "1811650eca2ef8d1", "b911c00e8654842e"),
    "picie-toy3": ("1e1f63b33a9f", "8b7df4212c60363d", "f9bc1b388fe02688"),
    "mdc-toy3": ("43eb2cec872a", "f2adbb7ffe9a282f", "850b798c597a922a"),
    "picie_proj-toy3": ("18c93a2c1b34", "42264f877d773888", "88de5a641afa10cc"),
    "mdc_proj-toy3": ("37125f54e697", "2679ac652fced90c", "30ac5faf59d136b6"),
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
