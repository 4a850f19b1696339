"""IIC and its port to features: views and their inverses, the network, textures, switches, being killed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import coco_files
import numpy as np
import potsdam_files
import pytest
import torch
import torch.nn.functional as F
from fakes import method_module
from PIL import Image
from running import Run
from torch import Tensor

from uss_bench.errors import UsageError
from uss_bench.nn.mutual_information import information_loss
from uss_bench.results.files import read_record, read_state
from uss_bench.runtime.seeding import derive_seed
from uss_bench.training.context import RunContext

iic, iic_proj = method_module("iic"), method_module("iic_proj")
SMALL = {"width": 2, "over_clusters": 5, "epochs": 2, "batch_size": 4, "half_window": 2}
SMALL_PROJ = {"dim": 8, "over_clusters": 5, "epochs": 2, "batch_size": 4}
FAST: dict[str, Any] = {"protocol": "stego320@2[eval_side=32,crf=none]", "training": {"side": 32}}


def generator(purpose: str, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, purpose, *key))


CONTEXT: Any = SimpleNamespace(generator=generator, grid=(12, 12))

# --- Views ---------------------------------------------------------------------------------------


def place_net(images: Tensor, head: str) -> Tensor:
    """Stands for the network: the values of the first two channels."""
    return images[:, :2]


@pytest.mark.parametrize(
    ("changes", "near"), [({}, 1e-5), ({"crop": 0.5}, 1e-5), ({"degrees": 20.0, "shear": 5.0}, 0.02)]
)
def test_the_second_map_is_laid_over_the_first(changes, near):
    """Of an image whose colors are places, both maps say the same place: only what both show is compared."""
    ramp = (torch.arange(40) + 0.5) / 40
    image = torch.stack([ramp.expand(40, 40), ramp[:, None].expand(40, 40), ramp.expand(40, 40)])
    method = iic.IIC(clusters=2, jitter=0.0, hue=0.0, **changes)
    method.net = place_net
    items = list(range(6))
    first, second, seen = method.pairs(CONTEXT)("own", 3, items, {"image": image.expand(6, 3, 40, 40)})
    side = round(40 * changes.get("crop", 1.0))
    assert first.shape == second.shape == (6, 2, side, side)
    inner = F.max_pool2d((~seen).float(), 5, stride=1, padding=2) == 0
    assert inner.float().mean() > 0.4
    if "degrees" in changes:
        assert not seen.all()
    else:
        assert seen.all()
    margin = 2 if "degrees" in changes else 0
    inner[:, :, :margin] = inner[:, :, side - margin :] = False
    inner[..., :margin] = inner[..., side - margin :] = False
    assert ((first - second).abs() * inner).max() < near
    if "crop" in changes:
        assert (first[0] - first[1]).abs().max() > 0.05, "each image has a crop of its own"


def test_colors_change_in_the_second_view_alone_and_never_infrared():
    seen: list[Tensor] = []
    method = iic.IIC(clusters=2, infrared=True, flip=0.0)
    method.net = lambda images, head: seen.append(images) or images[:, :2]
    batch = {"image": torch.rand(3, 3, 16, 16), "aux:infrared": torch.rand(3, 1, 16, 16) * 255}
    method.pairs(CONTEXT)("own", 1, [0, 1, 2], batch)
    first, second = seen
    assert torch.equal(first[:, :3], batch["image"])
    assert not torch.equal(second[:, :3], batch["image"])
    for one in seen:
        torch.testing.assert_close(one[:, 3:], batch["aux:infrared"] / 255)


def test_views_belong_to_a_pass_and_an_item_whatever_the_batch():
    method = iic.IIC(clusters=2, crop=0.5)
    method.net = place_net
    pair = method.pairs(CONTEXT)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = pair("own", 1, [3, 1, 0, 2], {"image": images[[3, 1, 0, 2]]})
    alone = pair("own", 1, [0], {"image": images[:1]})
    for one, among in zip(alone, whole, strict=True):
        torch.testing.assert_close(one, among[2:3])
    other = pair("over", 2, [0], {"image": images[:1]})
    assert not torch.allclose(other[1], alone[1])


def test_the_port_lays_a_crop_of_features_back_over_the_whole_map():
    ramp = (torch.arange(12) + 0.5) / 12
    tokens = torch.stack([ramp.expand(12, 12), ramp[:, None].expand(12, 12)])
    method = iic_proj.IICProj(clusters=2)
    net = SimpleNamespace(code=lambda x: x, logits=lambda code, head: code.log())
    method.net = net
    half = torch.cat([tokens, 2 - tokens.sum(dim=0, keepdim=True)]) / 2  # sums to 1, as a softmax does
    first, second, seen = method.pairs(CONTEXT)(
        "own", 1, list(range(6)), {"tokens": half.expand(6, 3, 12, 12)}
    )
    torch.testing.assert_close(first, half.expand(6, 3, 12, 12))
    assert 0.2 < seen.float().mean() < 1
    # A crop has whole positions: a border is off by less than two, and the values are halved.
    assert ((first - second).abs() * seen).max() < 2 / 12
    assert ((first - second).abs() * seen).mean() < 0.5 / 12


# --- The network ---------------------------------------------------------------------------------


def test_the_network_has_the_released_shapes_and_a_uniform_rim():
    torch.manual_seed(0)
    net = iic.IICNet(3, {"over": 45, "own": 15}, width=64, sobel=True)
    shapes = [tuple(m.weight.shape[:2]) for m in net.trunk if isinstance(m, torch.nn.Conv2d)]
    assert shapes == [(64, 5), (128, 64), (256, 128), (256, 256), (512, 256), (512, 512)]
    assert not any(name.endswith("bias") and "heads" in name for name in net.state_dict())
    thin = iic.IICNet(3, {"over": 45, "own": 15}, width=2, sobel=True).eval()
    maps = thin(torch.rand(2, 3, 128, 128), "own")
    assert maps.shape == (2, 15, 62, 62)
    torch.testing.assert_close(maps[:, :, 0], torch.full((2, 15, 62), 1 / 15))
    assert not torch.allclose(maps[:, :, 1], maps[:, :, 0])


def test_slopes_are_those_of_the_gray_image():
    net = iic.IICNet(3, {"own": 2}, width=2, sobel=True)
    caught: list[Tensor] = []
    net.trunk[0].register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    across = torch.arange(16.0).expand(3, 16, 16) / 16
    net(across[None], "own")
    slopes = caught[0][0, 3:, 1:-1, 1:-1]
    torch.testing.assert_close(slopes[0].abs(), torch.full((14, 14), 8 / 16))
    torch.testing.assert_close(slopes[1], torch.zeros(14, 14), rtol=0, atol=1e-6)


def test_predictions_are_the_enlarged_probabilities():
    torch.manual_seed(0)
    method = iic.IIC(clusters=4, width=2)
    method.net = method._net().eval()
    code = method.embed({"image": torch.rand(1, 3, 32, 32)})
    torch.testing.assert_close(code.sum(dim=1), torch.ones(1, 14, 14))
    torch.testing.assert_close(method.classify(code).exp(), code)


def test_only_places_of_the_mask_are_compared():
    method = iic.IIC(clusters=2, mask=True, crop=0.5, flip=0.0)
    method.net = place_net
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 10:] = 255
    ramp = (torch.arange(32.0) + 0.5).expand(1, 3, 32, 32) / 32  # a color says its column
    first, _, seen = method.pairs(CONTEXT)("own", 1, [0], {"image": ramp, iic.MASK: mask})
    assert torch.equal(seen[0, 0], first[0, 0] * 32 > 10)
    assert 0 < seen.float().mean() <= 1
    with pytest.raises(UsageError, match="0 on all pixels"):
        method.pairs(CONTEXT)("own", 1, [0], {"image": ramp, iic.MASK: 0 * mask})


def test_what_is_too_small_is_told_with_a_way_out():
    """Twelve pixels are the least that batch normalization can take of one image."""
    net = iic.IICNet(3, {"own": 2}, width=2, sobel=False)
    assert net(torch.rand(1, 3, 12, 12), "own").shape == (1, 2, 4, 4)
    with pytest.raises(UsageError, match="11×40 pixels") as caught:
        net(torch.rand(2, 3, 40, 11), "own")
    assert "--training side=N" in str(caught.value)
    small = iic.IIC(clusters=2, crop=0.01)
    with pytest.raises(UsageError, match="0×0 pixels"):
        small.pairs(CONTEXT)("own", 1, [0], {"image": torch.rand(1, 3, 32, 32)})
    for crop in (0.0, 1.5):
        with pytest.raises(UsageError, match="crop"):
            iic.IIC(clusters=2, crop=crop)
        with pytest.raises(UsageError, match="smallest_crop"):
            iic_proj.IICProj(clusters=2, smallest_crop=crop)
    with pytest.raises(UsageError, match="6 a side"):
        iic_proj.IICProj(clusters=2, half_window=6).pairs(CONTEXT)
    maps = torch.rand(1, 2, 4, 6).softmax(dim=1)
    with pytest.raises(UsageError, match="half_window = 4"):
        information_loss(maps, maps, half_window=4)


# --- Textures ------------------------------------------------------------------------------------


def textures(root: Path, check: int = 4) -> dict[str, Any]:
    """Write scenes of two textures: checks of random brightness, which stand out, with a tint by class.

    Args:
        check: side of a check, in pixels.
    """
    for split, numbers in (("train", range(24)), ("test", range(100, 108))):
        for number in numbers:
            rng = np.random.default_rng(number)
            rows, columns = np.mgrid[:48, :48]
            angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-6, 6)
            label = (rows - 24) * np.sin(angle) + (columns - 24) * np.cos(angle) > shift
            bright = rng.permutation(np.resize([-50.0, 50.0], (48 // check) ** 2)).reshape(48 // check, -1)
            checks = bright.repeat(check, axis=0).repeat(check, axis=1)
            tint = np.where(label, 15, -15)
            image = 128 + checks[..., None] + np.stack([tint, 0 * tint, -tint], axis=2)
            image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
            for kind, array in (("images", image), ("labels", label.astype(np.uint8))):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / kind / split / f"{number:03d}.png")
    (root / "classes.toml").write_text(
        'name = "textures"\nclasses = [{ name = "cold", color = [230, 159, 0] }, '
        '{ name = "warm", color = [0, 114, 178] }]\n'
    )
    return {"root": str(root), "classes": str(root / "classes.toml")}


def texture_accuracy(run: Run, data: dict[str, Any], seed: int = 0, **params: Any) -> float:
    settings = {"width": 8, "over_clusters": 6, "epochs": 15, "batch_size": 6, "lr": 1e-3}
    settings |= {"jitter": 0.1, "hue": 0.0, **params}
    entry = run(
        "iic",
        "folder",
        data=data,
        protocol="stego320@2[eval_side=48,flip=false,crf=none]",
        training={"side": 48},
        params=settings,
        seed=seed,
    )
    assert entry.record.last is not None
    return float(entry.record.last.raw.accuracy)


@pytest.mark.slow
def test_the_entropy_of_classes_keeps_them_apart(run, tmp_path):
    """Without it one class for everything is best; with it the tint is found under what stands out."""
    data = textures(tmp_path / "textures")
    assert texture_accuracy(run, data, half_window=8) > 80
    assert texture_accuracy(run, data, half_window=8, entropy_weight=0.0, entropy_weight_over=0.0) < 60


@pytest.mark.slow
def test_without_the_window_what_stands_out_hides_the_classes(run, tmp_path):
    """Brightness says all of a place and nothing of one 12 pixels away; the tint says something of both.

    On seeds that the world was not chosen on.
    """
    data = textures(tmp_path / "textures", check=8)
    seeds = (5, 6, 7)
    whole = [texture_accuracy(run, data, seed, half_window=12) for seed in seeds]
    without = [texture_accuracy(run, data, seed, half_window=0) for seed in seeds]
    assert min(whole) > 80
    assert mean(whole) > mean(without) + 5
    assert sum(one > other + 5 for one, other in zip(whole, without, strict=True)) >= 2


# --- Whole runs ----------------------------------------------------------------------------------

SWITCHES = {
    "half_window": 0,
    "displacements": "summed",
    "entropy_weight": 1.5,
    "entropy_weight_over": 1.5,
    "sobel": True,
    "infrared": True,
    "crop": 0.75,
    "jitter": 0.0,
    "hue": 0.0,
    "flip": 0.0,
    "degrees": 10.0,
    "shear": 10.0,
}
SWITCHES_PROJ = {"dropout": 0.5, "smallest_crop": 0.9, "flip": 0.0, "standardize": False}


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    return {}


@pytest.mark.parametrize(
    ("method", "name"),
    [*(("iic", name) for name in SWITCHES), *(("iic_proj", name) for name in SWITCHES_PROJ)],
)
def test_every_switch_changes_what_is_learned(run, states, method, name):
    own = SMALL if method == "iic" else SMALL_PROJ
    others = {"backbone": "none" if method == "iic" else "patchstats"}

    def learned(**params):
        outcome = run(method, **FAST, **others, params={**own, "epochs": 1, **params})
        return read_state(outcome.path, outcome.record)

    if method not in states:
        states[method] = learned()
    value = (SWITCHES if method == "iic" else SWITCHES_PROJ)[name]
    assert learned(**{name: value}) != states[method]


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.mark.parametrize(
    ("method", "pass_"), [("iic", "over head"), ("iic", "own head"), ("iic_proj", "own head")]
)
def test_a_run_killed_in_either_pass_ends_with_the_same_record(run, method, pass_, monkeypatch):
    asked: dict[str, Any] = {
        **FAST,
        "params": {**(SMALL if method == "iic" else SMALL_PROJ), "checkpoint_every": 1},
    }
    asked["backbone"] = "none" if method == "iic" else "patchstats"
    whole = run(method, **asked)
    steps, epochs = RunContext._steps, [0]

    def until(self, total, label, keep, bindings):
        for step in steps(self, total, label, keep, bindings):
            if label == "epochs":
                epochs[0] = step
            elif label == pass_ and epochs[0] == 2 and step == total:
                raise Killed
            yield step

    again = Run(run.registry, run.folder / "again")
    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "_steps", until)
        with pytest.raises(Killed):
            again(method, **asked, snapshot_seconds=0, force="token")
    outcome = again(method, **asked, snapshot_seconds=0, force="token")
    assert any("resumed" in note for note in outcome.record.notes)
    assert outcome.record.curves == whole.record.curves
    assert outcome.record.candidates == whole.record.candidates
    assert read_state(outcome.path, outcome.record) == read_state(whole.path, whole.record)


# --- The published commands ----------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "methods" / "iic" / "README.md"
COMMANDS = re.findall(r"^\| `(uss-bench run .+?)` \|", PAGE.read_text(encoding="utf-8"), re.M)
PRESETS = {
    "potsdam3": {"over_clusters": 24, "infrared": True, "entropy_weight": 1.5, "batch_size": 75, "lr": 1e-5},
    "cocostuff15": {"over_clusters": 45, "sobel": True, "entropy_weight": 1.0, "batch_size": 60, "lr": 1e-4},
    "cocostuff3": {"over_clusters": 15, "sobel": True, "entropy_weight": 1.5, "batch_size": 120, "lr": 1e-4},
}


def root_of(dataset: str, folder: Path) -> Path:
    """Write a few images of a dataset in its genuine format."""
    if dataset == "potsdam3":
        return potsdam_files.archive(folder)
    for subset in ("train2017", "val2017"):
        coco_files.put_maps(coco_files.put_images(folder, subset), subset)
        coco_files.put_lists(folder)
        path = folder / "curated" / subset / "Coco164kFew_Stuff_6.txt"
        path.write_text("".join(f"{number}\n" for number in coco_files.IDS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: shlex.split(line)[5])
def test_a_published_command_runs_on_a_few_genuine_files(command, tmp_path, line):
    words = shlex.split(line)[1:]
    dataset = words[words.index("--dataset") + 1]
    words[words.index("ROOT")] = str(root_of(dataset, tmp_path / "data"))
    out = tmp_path / "out"
    small = ["--set", "width=1", "--set", "epochs=1", "--data", "partial=true", "--out", str(out)]
    assert command(*words, *small).code == 0
    (path,) = out.rglob("*.json")
    record = read_record(path)
    params = record.cell.method.params
    assert {name: params[name] for name in PRESETS[dataset]} == PRESETS[dataset]
    assert record.cell.training.side == (200 if dataset == "potsdam3" else 160)
    assert params["epochs"] == 1
    assert record.last is not None


def test_there_is_a_command_for_every_preset():
    assert [shlex.split(line)[5] for line in COMMANDS] == list(PRESETS)


# --- The released mask -----------------------------------------------------------------------------

MASK_CODE = re.search(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.S)
MASK_COMMAND = re.search(r"    (uss-bench run .+?--aux mask=MASKS)", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
def test_the_released_mask_is_written_as_the_page_says_and_marks_the_record(command, tmp_path):
    root, masks = root_of("cocostuff15", tmp_path / "data"), tmp_path / "masks"
    code = MASK_CODE[1].replace('"ROOT"', f"{str(root)!r}, partial=True").replace('"MASKS"', repr(str(masks)))
    exec(code, {})
    assert {path.stem for path in masks.rglob("*.png")} == set(coco_files.IDS)
    (path,) = masks.rglob(f"{coco_files.IDS[0]}.png")
    fine = coco_files.MAPS[coco_files.IDS[0]]
    assert np.array_equal(np.array(Image.open(path)) > 0, (fine > 90) & (fine < 255))
    line = MASK_COMMAND[1].replace("\\\n", " ")
    words = shlex.split(line.replace("ROOT", str(root)).replace("MASKS", str(masks)))[1:]
    small = ["--set", "width=1", "--set", "epochs=1", "--data", "partial=true", "--out", tmp_path / "out"]
    said = command(*words, *small)
    assert said.code == 0, said.err
    (record,) = map(read_record, (tmp_path / "out").rglob("*.json"))
    assert record.labels_used == ["the pixels that count in training"]
    assert record.cell.method.params["mask"]
