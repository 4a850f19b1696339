"""The published runs as the methods' pages give them: what they resolve to, that they run, what they cost.

Everything but the data is genuine: the commands, the formats of the files, the names and shapes of the
checkpoints. Images are few and small, and weights random.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coco_files
import numpy as np
import pytest
import test_cityscapes27 as cityscapes_files
import torch
from checkpoint_files import genuine
from PIL import Image
from potsdam_files import archive

from uss_bench.claims import Claim, claim_differences, claims_for, load_claims
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record
from uss_bench.results.record import Cell

ROOT = Path(__file__).parents[2]
VITS = {
    "dino_vits8": (384, 8),
    "dino_vitb8": (768, 8),
    "dino_vits16": (384, 16),
    "dinov2_vitb14": (768, 14),
}
"""Width and patch of the backbones that published runs use."""
SMALL = {8: "stego320@2[eval_side=56]", 14: "stego322@2[eval_side=56]"}
LEARNED = ("ds2dl", "smooseg", "stego", "eagle", "hp")


@dataclass(frozen=True)
class Published:
    """A row of a method's table of published runs."""

    command: str
    accuracy: float
    miou: float | None
    time: str
    """Empty where the page states none."""

    def __str__(self) -> str:
        return f"{self.option('method')} {self.option('dataset')} {self.option('backbone')}"

    def option(self, name: str) -> str:
        words = shlex.split(self.command)
        return words[words.index(f"--{name}") + 1]

    @property
    def protocol(self) -> str | None:
        return self.option("protocol") if "--protocol" in self.command else None

    @property
    def vit(self) -> tuple[int, int]:
        return VITS[self.option("backbone")]


def rows(method: str) -> list[Published]:
    """All rows with a command and a score on a method's page."""
    row = re.compile(
        r"^\| `(uss-bench run .+?)` \| (?:[^|]+ \| )?(\d+\.\d) / (\d+\.\d|–)[^|]* \|"
        r"(?: ([\d.]+ (?:min|h)) \|)?$",
        re.M,
    )
    found = row.findall((ROOT / "methods" / method / "README.md").read_text(encoding="utf-8"))
    return [
        Published(command, float(acc), None if miou == "–" else float(miou), time)
        for command, acc, miou, time in found
    ]


def published(method: str) -> list[Published]:
    """Those on a transformer; `test_resnet_rows` has the others."""
    return [one for one in rows(method) if one.option("backbone") in VITS]


RUNS = [one for method in (*LEARNED, "ppap", "dino") for one in published(method)]
UNTIMED = [one for method in ("depthg", "equss") for one in published(method)]
"""Runs whose pages state no time."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few images of every dataset, in its genuine format."""
    folder = tmp_path_factory.mktemp("published")
    coco = folder / "coco"
    for subset in ("train2017", "val2017"):
        coco_files.put_maps(coco_files.put_images(coco, subset), subset)
    coco_files.put_lists(coco)
    return {
        "cocostuff27": coco,
        "cityscapes27": cityscapes_files.tree(folder / "cityscapes"),
        "potsdam3": archive(folder / "potsdam"),
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights by the names and shapes of the published files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for name, (dim, patch) in VITS.items():
        family, side = ("dinov2", 37) if "dinov2" in name else ("dino", 224 // patch)
        files[name] = folder / f"{name}.pth"
        torch.save(genuine(family, dim, patch, side), files[name])
    return files


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2's card without the digest that random weights cannot have; DINO's cards state none."""
    folder = tmp_path_factory.mktemp("cards") / "dinov2_vitb14"
    folder.mkdir()
    (folder / "spec.toml").write_text(
        'kind = "backbone"\nname = "dinov2_vitb14"\ntitle = "none"\nsummary = "none"\nadapter = "timm"\n'
        'overrides = true\nparams = { model = "vit_base_patch14_dinov2.lvd142m" }\npatch = 14\ndim = 768\n'
    )
    return folder


@pytest.fixture(scope="module")
def depths(roots, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A depth map beside each image, 8 bits from 0 to 255 as the released maps are."""
    folders = {}
    for name, root in roots.items():
        folders[name] = tmp_path_factory.mktemp(f"depth-{name}")
        asked = CellSpec(method="constant", dataset=name, data={"root": str(root), "partial": True})
        setup = resolve(asked, Registry())
        for images in (setup.train_images, setup.test_images):
            for index, key in enumerate(images.ids):
                height, width = images.image(index).shape[:2]
                ramp = np.linspace(0, 255, height)[:, None] * np.ones(width)
                path = folders[name] / f"{key}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(ramp.astype(np.uint8)).save(path)
    return folders


# --- What the commands resolve to ----------------------------------------------------------------


@pytest.fixture(scope="module")
def resolved(roots, checkpoints, cards) -> Callable[[Published], Cell]:
    """A command's cell, but for partial data and random weights."""

    @functools.cache
    def resolved(run: Published) -> Cell:
        dataset, backbone = run.option("dataset"), run.option("backbone")
        asked = CellSpec(
            method=run.option("method"),
            dataset=dataset,
            data={"root": str(roots[dataset]), "partial": True},
            backbone=backbone,
            protocol=run.protocol,
            weights=str(checkpoints[backbone]),
        )
        return resolve(asked, Registry([cards])).cell(seed=0)

    return resolved


def claim_of(run: Published) -> Claim:
    (claim,) = {
        (one.split, one.protocol): one
        for one in claims_for(
            load_claims(), method=run.option("method"), dataset=run.option("dataset"), variants=True
        )
        if (one.accuracy, one.miou, one.backbone) == (run.accuracy, run.miou, run.option("backbone"))
        and one.variant in ("", "unverified")
    }.values()
    return claim


def test_every_dataset_and_every_preset_that_a_run_chooses_by_itself_is_among_them():
    assert [len(published(method)) for method in (*LEARNED, "ppap", "dino")] == [3, 4, 4, 2, 3, 1, 4]
    assert [len(published(method)) for method in ("depthg", "equss")] == [4, 2]
    for method in (*LEARNED, "depthg", "equss"):
        spec, _ = Registry().method(method)
        chosen = {(p.when["dataset"], p.when["backbone"]) for p in spec.presets if len(p.when) == 2}
        assert chosen == {(run.option("dataset"), run.option("backbone")) for run in published(method)}


@pytest.mark.parametrize("run", UNTIMED, ids=str)
def test_an_untimed_command_has_the_parameters_of_the_ledger(run, resolved):
    """Some of these numbers are remembered, and stand in the ledger as a variant that no board shows."""
    cell = resolved(run)
    (params,) = (
        one.params
        for one in claims_for(
            load_claims(), method=cell.method.name, dataset=run.option("dataset"), variants=True
        )
        if (one.accuracy, one.miou, one.backbone) == (run.accuracy, run.miou, run.option("backbone"))
        and one.source == "own"
    )
    assert params == {name: cell.method.params[name] for name in params}
    assert {"steps", "weight_rand", "standardize"} <= params.keys() or run.option("method") == "equss"


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_command_asks_for_the_experiment_that_the_ledger_of_claims_describes(run, resolved):
    """All that is left are the images that are missing here, and what a source does not state."""
    cell = resolved(run)
    claim = claim_of(run)
    left = claim_differences(claim, cell)
    expected = {
        f"test split {claim.split}-partial instead of {claim.split}",
        f"train split {claim.train_split}-partial instead of {claim.train_split}",
    }
    if run.option("backbone") == "dinov2_vitb14":
        expected |= {
            "protocol stego322@2 instead of one that is not stated",
            f"other weights ({cell.backbone.sha256[:12]}) than those published as dinov2_vitb14",
        }
    if claim.crf is None:
        expected.add("the source does not say whether a CRF was applied")
    assert set(left) == expected
    assert ("--seed 123456" in run.command) == (
        run.option("dataset") == "cocostuff27" and run.option("method") in ("ds2dl", "smooseg")
    )


@pytest.mark.parametrize(
    ("method", "dataset", "last"),
    [
        ("smooseg", "potsdam3", 2800),
        ("ds2dl", "potsdam3", 4000),
        ("smooseg", "cityscapes27", 2800),
        ("stego", "potsdam3", 4800),
    ],
)
def test_checkpoints_are_offered_where_the_released_code_keeps_them(method, dataset, last, resolved):
    """Every 400 steps, however often it validates; seven of SmooSeg on Potsdam-3."""
    found = [run for run in published(method) if run.option("dataset") == dataset]
    assert found
    for run in found:
        params = resolved(run).method.params
        offered = range(params["checkpoint_every"], params["steps"] + 1, params["checkpoint_every"])
        assert list(offered) == list(range(400, last + 1, 400))


@pytest.mark.parametrize(("method", "last"), [("ds2dl", 8), ("smooseg", 7), ("stego", 5)])
def test_a_reader_finds_every_equation_of_the_paper_by_its_number(method, last):
    shared = ROOT / "uss_bench/nn/correspondence.py"
    files = [*(ROOT / "methods" / method).glob("*.py"), *([shared] if method == "stego" else [])]
    code = " ".join(path.read_text(encoding="utf-8") for path in files)
    ranges = re.findall(r"Eqs?\. (\d)(?:(?: to |–)(\d))?", code)
    found = {number for a, b in ranges for number in range(int(a), int(b or a) + 1)}
    assert found == set(range(1, last + 1))


# --- That they run -------------------------------------------------------------------------------


def run_it(run, command, roots, checkpoints, cards, out: Path, *more: object, depth: Path | None = None):
    text = run.command.replace("ROOT", str(roots[run.option("dataset")])).replace("DIR", str(depth))
    words = shlex.split(text)[1:]
    if run.protocol and "--protocol" in more:
        words = [word for word in words if word not in ("--protocol", run.protocol)]
    words += ["--data", "partial=true", "--weights", checkpoints[run.option("backbone")], "--plugin", cards]
    words += ["--out", out, "--workers", 1, "--quiet", "--set", "steps=2", "--set", "checkpoint_every=1"]
    said = command(*words, *more)
    assert said.code == 0, said.err
    (path,) = out.glob("*/*.json")
    return said, read_record(path)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_command_runs_from_end_to_end_with_two_steps(run, command, roots, checkpoints, cards, tmp_path):
    said, record = run_it(
        run,
        command,
        roots,
        checkpoints,
        cards,
        tmp_path,
        "--protocol",
        SMALL[run.vit[1]],
        "--training",
        "side=56",
    )
    assert (record.cell.dataset.name, record.cell.backbone.name) == (
        run.option("dataset"),
        run.option("backbone"),
    )
    assert record.status == "done"
    assert [one.step for one in record.candidates] == [1, 2, None]
    assert record.last is not None
    assert record.selected is not None
    assert record.last.crf.pixels == record.last.raw.pixels > 0
    assert len(record.monitor) == 2
    assert record.curves
    assert "record" in said.out


@pytest.mark.parametrize("run", UNTIMED, ids=str)
def test_an_untimed_command_runs_from_end_to_end_with_two_steps(
    run, command, roots, checkpoints, cards, depths, tmp_path
):
    _, record = run_it(
        *(run, command, roots, checkpoints, cards, tmp_path),
        *("--protocol", SMALL[run.vit[1]], "--training", "side=56"),
        depth=depths[run.option("dataset")],
    )
    assert record.status == "done"
    assert [one.step for one in record.candidates] == [1, 2, None]
    assert record.last.crf.pixels == record.last.raw.pixels > 0
    assert record.curves


def test_one_runs_at_the_published_resolution(command, roots, checkpoints, cards, tmp_path):
    """STEGO on Potsdam-3, the cheapest: 224 pixels to train on, 320 to test on."""
    (run,) = [one for one in RUNS if str(one) == "stego potsdam3 dino_vits8"]
    _, record = run_it(run, command, roots, checkpoints, cards, tmp_path)
    assert record.cell.protocol == "stego320@2"
    assert record.last.raw.pixels <= 320**2


# --- CAUSE, whose page states no time, and whose numbers were reached with labels ------------------

CAUSE = published("cause")


def test_the_page_of_cause_has_every_published_number_whose_backbone_is_here():
    ledger = load_claims()
    for dataset in ("cocostuff27", "cityscapes27"):
        here = {
            (run.option("backbone"), run.accuracy, run.miou)
            for run in CAUSE
            if run.option("dataset") == dataset
        }
        claims = claims_for(ledger, method="cause", dataset=dataset)
        assert here == {(one.backbone, one.accuracy, one.miou) for one in claims if one.backbone in VITS}
    assert len(CAUSE) == 12


@pytest.mark.parametrize("run", CAUSE, ids=str)
def test_a_run_of_cause_differs_from_its_claim_by_the_labels_alone(run, roots, checkpoints, cards):
    dataset, backbone = run.option("dataset"), run.option("backbone")
    mlp = "--preset" in run.command
    asked = CellSpec(
        method="cause",
        dataset=dataset,
        data={"root": str(roots[dataset]), "partial": True},
        backbone=backbone,
        weights=str(checkpoints[backbone]),
        preset=run.option("preset") if mlp else None,
        training={"side": 224} if mlp else {},
    )
    cell = resolve(asked, Registry([cards])).cell(seed=0)
    claim = claim_of(run)
    left = set(claim_differences(claim, cell))
    expected = {
        f"test split {claim.split}-partial instead of {claim.split}",
        "train split train-partial instead of train-labeled",
    }
    if backbone == "dinov2_vitb14":
        expected.add(f"other weights ({cell.backbone.sha256[:12]}) than those published as dinov2_vitb14")
    assert left == expected
    assert cell.method.params["head"] == ("mlp" if mlp else "tr") == claim.params["head"]
    assert cell.method.params["standardize"] is False


@pytest.mark.parametrize("run", [CAUSE[0], CAUSE[-2]], ids=str)
def test_a_command_of_cause_runs_from_end_to_end(run, command, roots, checkpoints, cards, tmp_path):
    few = {
        "steps_codebook": 2,
        "steps_probe": 2,
        "codes": 64,
        "projection": 64,
        "batch_size": 2,
        "pooling": 2,
    }
    if "--preset" in run.command:
        few["codebook_side"] = 64
    sets = [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    small = ("--protocol", SMALL[run.vit[1]], "--training", "side=56")
    _, record = run_it(run, command, roots, checkpoints, cards, tmp_path, *sets, *small)
    assert record.status == "done"
    assert {"codebook", "contrast", "probe"} <= record.curves.keys()
    assert record.last.crf.pixels == record.last.raw.pixels > 0


# --- What they cost ------------------------------------------------------------------------------

CROPS = {"cocostuff27": 5 * 97_702, "cityscapes27": 5 * 2975, "potsdam3": 4545}
TESTED = {"cocostuff27": 2175, "cityscapes27": 500, "potsdam3": 855}
CLASSES = {"cocostuff27": 27, "cityscapes27": 27, "potsdam3": 3}
OPERATORS = {
    "smooseg": 263,
    "stego": 783,
    "ds2dl": 7633,
    "dino": 0,
    "eagle": 8249,
    "ppap": 41_638,
    "hp": 71_155,
}
"""As torch's profiler counted them for a step of 32 crops of 784 patches; 64 for HP."""
FLOPS, LAUNCH = 1e13, 1e-5


def vit_macs(name: str, side: int) -> int:
    """Multiply-accumulates of a ViT of twelve blocks: projections and MLP, attention, patch embedding."""
    d, p = VITS[name]
    tokens = (side // p) ** 2 + 1
    return 12 * (12 * d**2 * tokens + 2 * tokens**2 * d) + 3 * p**2 * d * (tokens - 1)


def cost(run: Published, params: Mapping[str, Any]) -> tuple[int, float, float, float]:
    """Passes of training crops, FLOP of the backbone, FLOP of training, and seconds of launching."""
    method, data, backbone = (run.option(name) for name in ("method", "dataset", "backbone"))
    (d, p), drawn = run.vit, params["steps"] * params["batch_size"]
    n = (224 // p) ** 2
    images = 2 if method == "stego" else 1
    passes, facets = CROPS[data], 3 if method == "eagle" else 1
    if passes * n * d * facets * 2 > 50e9:  # beyond the store's budget: streamed
        passes = images * drawn + (passes if method == "stego" else 0)
    passes += drawn // 2 if method == "eagle" else 0  # the blurred half
    if method == "eagle":
        images, d = 3, 3 * d  # the head runs three times, on the keys of three blocks
    head = 0 if method in ("dino", "ppap") else images * 3 * n * (2 * d * params["dim"] + d**2)
    if method == "hp":  # the second view, and where features are streamed attention and pools as well
        streamed = passes != CROPS[data]
        passes += drawn if params["consistency"] else 0
        pools = params["steps"] // params["renew_every"] * params["pool_size"]
        passes += CROPS[data] + pools if streamed else 0
    tested = (1 if method == "hp" else 2) * TESTED[data] * vit_macs(backbone, 322 if p == 14 else 320)
    pairs = 2 * n**2 * (d + 3 * CLASSES[data]) if method == "ds2dl" else 0
    if method == "eagle":  # per view: affinities, weights, 9 n³ FLOP of eigh, medoids of objects of one size
        medoids = params["batch_size"] * n**2 * params["dim"] // params["objects"]
        pairs = 2 * (n**2 * (params["dim"] + d) + 9 * n**3 // 2 + medoids)
        pairs += (1 + params["negatives"]) * params["samples"] ** 4 * (d + 3 * params["dim"])
    if method == "ppap":  # the block, a linear layer, and each anchor's pairs twice, for loss and gradient
        head = 3 * n * (13 * d**2 + 2 * n * d)
        pairs = n // params["anchors"] * params["batch_size"] * n * (2 * (2 * params["moves"] + 1) + 4) * d
    if method == "hp":  # two cosines, and for two codes one product and two of its gradient
        pairs = params["batch_size"] * n**2 * (d + 7 * params["dim"])
    launching = params["steps"] * OPERATORS[method] * LAUNCH
    return passes, 2 * (passes * vit_macs(backbone, 224) + tested), 2 * drawn * (head + pairs), launching


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_stated_time_is_the_stated_arithmetic(run, resolved):
    passes, backbone, training, launching = cost(run, resolved(run).method.params)
    seconds = (backbone + training) / FLOPS + launching
    time = f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{max(1, round(seconds / 60))} min"
    assert run.time == time
    numbers = f"{passes:,} | {backbone / 1e15:.1f} | {training / 1e15:.1f} | {launching / 60:.1f}"
    assert f"| {run} | {numbers} | {time} |" in (ROOT / "docs" / "published-runs.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("name", "small", "large"), [("dino_vits8", 22.3, 57.6), ("dino_vitb8", 78, 183)], ids=str
)
def test_the_macs_of_a_vit_are_those_that_were_derived_before(name, small, large):
    assert vit_macs(name, 224) / 1e9 == pytest.approx(small, rel=0.01)
    assert vit_macs(name, 320) / 1e9 == pytest.approx(large, rel=0.01)
    page = (ROOT / "docs" / "published-runs.md").read_text(encoding="utf-8")
    assert f"| {vit_macs(name, 224) / 1e9:.1f} | {vit_macs(name, 320) / 1e9:.1f} |" in page
