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
    "smooseg-toy3": ("9919173f072c", "e4098be2f2b3a72a", "e03ee07faddfc973"),
    "ds2dl-toy3": ("890d1560d9e1", "e6db247cab29bc42", "b2c34a17087894cb"),
    "stego-toy3": ("51f7ae5a2855", "8c4f596e0a652d33", "df2ebbdb9b5b0844"),
    "pca-toy3": ("386f769d818e", "e88ee0ad2688b927", "3906e8a8a9ca8e3e"),
    "randproj-toy3": ("8de3668ce023", "eaedbd9a096bed94", "0809475c1862ee24"),
    "debias-toy3": ("0c19ad74586b", "53476ea74d4c828e", "cd22986207e62730"),
    "ncut-toy3": ("41675c883a66", "6cd9bad637c3ac64", "c05aaee6efbfa0c4"),
    "primaps-toy3": ("1a695f782ab5", "9c8a8e9df4255e2a", "38b703f954164949"),
    "eagle-toy3": ("aa5055dd9ce9", "1589d61c7551a252", "56cccb234aad095e"),
    "ppap-toy3": ("08dc39222915", "6af2c03ed144f157", "2498042f18820013"),
    "cause-toy3": ("73765104f443", "4de9432c2f4fbc52", "27910e2105534309"),
    "hp-toy3": ("e5437dd7c130", "08099ced18a55568", "3eb943511595c5d8"),
    "equss-toy3": ("b6e7067bb194", "39406c463cab7fef", "b1a4a33497070a23"),
    "reib-toy3": ("76b286549dad", "2e17e304c3bd1176", "c251c2273e8461ab"),
    "depthg-toy27": ("f7a610b4aa44", "98502de3183a26cd", "736cc31aae29c504"),
    "picie-toy3": ("3d23a226c803", "59a004b90f9e61ab", "21feb091fdebb0e7"),
    "mdc-toy3": ("c53863045934", "fa227a12728c05e2", "00079bae85de1f09"),
    "picie_h-toy3": ("c36f44dee3e9", "8c222a6360b94970", "7852cdd6b3c08e63"),
    "iic-toy3": ("ddb41af9e640", "c3f97b8a433faaad", "ca148d40036ca544"),
    "iic_proj-toy3": ("7757333465bd", "48611558fd6de736", "7ade406b3870676b"),
    "transfgu-toy3": ("5121c07ab189", "cca1c41d6a539fb1", "738d6ce45ad64e23"),
    "picie_proj-toy3": ("38d249a50db2", "0b36822921a2c1a3", "5f697bd0c152b8d8"),
    "mdc_proj-toy3": ("cb4f5826fffb", "7c298b0f075f8de4", "a6d765e43b67a4a5"),
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
