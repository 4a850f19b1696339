"""SmooSeg's shifts judged without labels: against pairs counted one by one, and against the loss itself."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import method_module
from running import PLUGINS, SMALL

from uss_bench.plugins.registry import Registry
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.code import code_hash

diagnosis = method_module("smooseg", "diagnosis:shifts")
closeness, margin = diagnosis.closeness, diagnosis.margin
smoothness_degree = diagnosis.smoothness_degree

WITHIN = [(0, 0), (1, 1), (2, 2)]
ACROSS = [(0, 1), (1, 2), (2, 0)]


def features(seed: int, channels: int = 5, patches: int = 6) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {i: torch.randn(channels, patches, generator=generator) + 0.4 for i in range(3)}


def literal(images: dict[int, torch.Tensor], pairs: list[tuple[int, int]], global_offset: bool) -> np.ndarray:
    """Return W of every pair of patches, one by one, in float64."""

    def unit(image: int, patch: int) -> list[float]:
        column = images[image][:, patch].tolist()
        norm = math.sqrt(sum(value**2 for value in column))
        return [value / norm for value in column]

    found = []
    for i, j in pairs:
        ps, qs = (range(images[one].shape[1]) for one in (i, j))
        s = [[sum(a * b for a, b in zip(unit(i, p), unit(j, q), strict=True)) for q in qs] for p in ps]
        found.append((s, [[value - sum(row) / len(row) for value in row] for row in s]))
    everything = [value for s, _ in found for row in s for value in row]
    offset = sum(everything) / len(everything) if global_offset else 0.0
    return np.array([value + offset for _, centered in found for row in centered for value in row])


@pytest.mark.parametrize("pairs", [WITHIN, ACROSS], ids=["within", "across"])
@pytest.mark.parametrize("global_offset", [False, True])
@pytest.mark.parametrize("shift", [-0.02, 0.3])
def test_closeness_is_that_of_pairs_taken_one_by_one(pairs, global_offset, shift):
    images = features(seed=0)
    expected = literal(images, pairs, global_offset)
    found = closeness(images, pairs, shift, global_offset=global_offset)
    assert found.mean == pytest.approx(expected.mean(), abs=1e-6)
    assert found.pulled == pytest.approx((expected > shift).mean(), abs=1e-9)
    assert found.counts.sum() == len(expected)
    assert (found.edges[0], found.edges[-1]) == pytest.approx((expected.min(), expected.max()), abs=1e-6)
    below = np.array([(expected < edge).sum() for edge in found.edges[1:-1]])
    assert np.abs(np.cumsum(found.counts)[:-1] - below).max() <= 1, "but for a value on an edge"


@pytest.mark.parametrize("global_offset", [False, True])
def test_the_margin_is_what_the_loss_gains_from_all_patches_differing(global_offset):
    """With assignments of zero δ is 1 for every pair, and the method's own loss says what that costs."""
    smooseg = method_module("smooseg")
    images = features(seed=1)
    x = torch.nn.functional.normalize(torch.stack(list(images.values())), dim=1)
    none = torch.zeros(3, 2, x.shape[2])
    partner = torch.tensor([j for _, j in ACROSS])
    cost = sum(smooseg.smoothness(x, none, partner, -0.02, 0.5, global_offset))
    within = closeness(images, WITHIN, -0.02, global_offset=global_offset)
    across = closeness(images, ACROSS, 0.5, global_offset=global_offset)
    assert margin(within, across) == pytest.approx(-float(cost), abs=1e-6)


def test_the_smoothness_degree_is_that_of_pairs_taken_one_by_one():
    generator = torch.Generator().manual_seed(2)
    logits = [4 * torch.randn(3, 7, generator=generator) for _ in range(2)]
    assignments = [torch.softmax(one, dim=0) for one in logits]
    expected = []
    for one in assignments:
        columns = one.double().T.tolist()
        for p in columns:
            for q in columns:
                dot = sum(a * b for a, b in zip(p, q, strict=True))
                expected.append(1 - dot / math.dist(p, [0] * 3) / math.dist(q, [0] * 3))
    found = smoothness_degree(assignments)
    assert found.smooth == pytest.approx(np.mean(np.array(expected) < 0.1), abs=1e-9)
    assert found.apart == pytest.approx(np.mean(np.array(expected) > 0.9), abs=1e-9)
    assert found.counts.sum() == len(expected) == 98
    assert found.bimodality == pytest.approx(4 * found.smooth * found.apart)


def test_two_equal_peaks_are_bimodal_and_one_is_not():
    halves = torch.eye(2)[[0, 0, 1, 1]].T
    assert smoothness_degree([halves]).bimodality == 1
    assert smoothness_degree([torch.eye(2)[[0, 0, 0, 0]].T]).bimodality == 0
    assert smoothness_degree([torch.full((2, 4), 0.5)]).smooth == 1


def test_the_command_shows_pairs_and_after_a_run_the_degree_too(command, tmp_path):
    options = ["--dataset", "tiny", "--set", "steps=3", "--set", "batch_size=2", "--plugin", PLUGINS]
    options += ["--protocol", SMALL, "--out", tmp_path, "--quiet"]
    before = command("diagnose", "smooseg", *options)
    assert before.code == 0, before.err
    assert "within images" in before.out
    assert "Margin" in before.out
    assert "no smoothness degree" in before.out
    (figure,) = tmp_path.glob("*/smooseg-diagnosis-*.png")
    alone = figure.read_bytes()
    assert command("run", "--method", "smooseg", "--workers", 1, *options).code == 0
    after = command("diagnose", "smooseg", *options)
    assert "bimodality" in after.out
    assert figure.read_bytes() != alone
    high = command("diagnose", "smooseg", *options, "--set", "b_inter=-1")
    assert "Expect a collapse" in high.out
    assert (
        command("diagnose", "smooseg", "--dataset", "tiny", "--set", "b_intre=0", "--plugin", PLUGINS).code
        == 2
    )


def test_what_offers_no_diagnosis_names_what_does(command):
    said = command("diagnose", "dino", "--dataset", "tiny", "--plugin", PLUGINS)
    assert said.code == 2
    assert "Method 'dino' offers no diagnosis" in said.err
    assert "smooseg" in said.err
    assert command("diagnose", "dinosaur", "--dataset", "tiny").code == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 'only text'", "gave a str as its diagnosis"),
        ("raise KeyError('tokens')", "failed in its diagnosis: KeyError"),
        ("return (f'{len(subject.sample)} items', None)", ""),
    ],
)
def test_a_diagnosis_of_any_plugin_is_called_and_blamed(command, tmp_path, body, message):
    folder = Path(shutil.copytree(Registry().find("methods", "constant").folder, tmp_path / "mine"))
    spec = folder / "spec.toml"
    text = spec.read_text().replace('name = "constant"', 'name = "mine"')
    spec.write_text(text + '[diagnosis]\nentry = "look:look"\nsummary = "how many"\n')
    (folder / "look.py").write_text(f"def look(subject):\n    {body}\n")
    words = ["--dataset", "tiny", "--plugin", PLUGINS, "--plugin", folder, "--out", tmp_path / "out"]
    said = command("diagnose", "mine", *words)
    assert (said.code, message in said.err) == (1 if message else 0, True)
    if not message:
        assert "items" in said.out
        assert not list(tmp_path.rglob("*.png"))
    assert "how many" in command("info", "mine", "--plugin", folder).out


def current_code(folder: Path) -> str:
    return code_hash(Registry([folder]).find("methods", "mine"), TrainingGeometry())


def test_a_diagnosis_is_no_part_of_the_code_hash_unless_the_method_runs_its_module(tmp_path):
    folder = Path(shutil.copytree(Registry().find("methods", "smooseg").folder, tmp_path / "smooseg"))
    spec = folder / "spec.toml"
    spec.write_text(spec.read_text().replace('name = "smooseg"', 'name = "mine"', 1))
    before = current_code(folder)
    (folder / "diagnosis.py").write_text("def shifts(subject):\n    return '', None\n")
    assert current_code(folder) == before
    code = folder / "smooseg.py"
    code.write_text(code.read_text().replace("tau: float = 0.1", "tau: float = 0.2"))
    changed = current_code(folder)
    assert changed != before
    spec.write_text(spec.read_text().replace('"diagnosis:shifts"', '"smooseg:shifts"'))
    (folder / "diagnosis.py").unlink()
    code.write_text(code.read_text().replace("tau: float = 0.2", "tau: float = 0.3"))
    assert current_code(folder) != changed
