"""Official checkpoints: read safely, taken over exactly or refused, and evaluated like runs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from released_files import Tensors, head_code, lineage_head, prefixed, save_lightning
from running import PLUGINS
from torch import Tensor, nn

from uss_bench.backbones.checkpoint_files import read_checkpoint
from uss_bench.contracts import Method
from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.released import with_released_state
from uss_bench.experiment.setup import Setup
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import gather, read_entries
from uss_bench.results.files import read_state

CHANNELS, DIM, CLUSTERS = 192, 10, 4
OPTIONS = {"arch": "dino", "dino_feat_type": "feat", "projection_type": "nonlinear", "continuous": True}


def network(random_vit: dict[str, Any]) -> Tensors:
    """The frozen network as a checkpoint holds it: with its own position embedding."""
    model = timm.create_model(
        random_vit["backbone"], num_classes=0, checkpoint_path=str(random_vit["weights"])
    )
    return {name: value.clone() for name, value in model.state_dict().items()}


class Official:
    """A head and clusters of the official code, by hand, and the file that it saves."""

    def __init__(self, method: str) -> None:
        torch.manual_seed(3)
        self.method = method
        self.head = lineage_head(CHANNELS, DIM, nn.SiLU if method == "smooseg" else nn.ReLU)
        self.clusters = torch.randn(CLUSTERS, DIM)

    def tensors(self, frozen: Tensors) -> Tensors:
        head = {name: value.clone() for name, value in self.head.state_dict().items()}
        probes = {
            "linear_probe.weight": torch.randn(3, DIM, 1, 1),
            "train_cluster_probe.clusters": torch.randn(3, DIM),
        }
        if self.method == "smooseg":
            return {
                **prefixed("net.model.", frozen),
                **prefixed("projection.", head),
                "prediction.local_clusters": self.clusters.flip(0),
                "prediction.global_clusters": self.clusters,
            }
        return {
            **prefixed("net.model.", frozen),
            **prefixed("net.", head),
            "cluster_probe.clusters": self.clusters,
            **probes,
        }

    def save(self, path: Path, frozen: Tensors, **options: Any) -> Path:
        return save_lightning(path, self.tensors(frozen), **{**OPTIONS, **options})

    def logits(self, features: Tensor) -> Tensor:
        code = F.normalize(head_code(self.head, features), dim=1)
        return torch.einsum("bchw,nc->bnhw", code, F.normalize(self.clusters, dim=1))


def asked(method: str, random_vit: dict[str, Any], **more: Any) -> CellSpec:
    vit = {name: str(value) for name, value in random_vit.items()}
    sides = {"protocol": "stego320@2[eval_side=96,crf=none]", "training": {"side": 96}}
    return CellSpec(method=method, dataset="tiny", **{**vit, **sides, **more})


@pytest.fixture(params=["stego", "smooseg", "depthg"])
def official(request: pytest.FixtureRequest) -> Official:
    return Official(request.param)


# --- The state -----------------------------------------------------------------------------------


def test_the_method_predicts_what_the_official_code_would(official, random_vit, registry, tmp_path):
    path = official.save(tmp_path / "official.ckpt", network(random_vit))
    setup = with_released_state(asked(official.method, random_vit), [path], registry)
    method: Method = setup.make_method(setup.released)
    features = torch.randn(2, CHANNELS, 5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = method.classify(method.embed({"tokens": features}))
        torch.testing.assert_close(found, official.logits(features), rtol=1e-5, atol=1e-6)
    assert {name: setup.params[name] for name in ("clusters", "dim", "standardize")} == {
        "clusters": CLUSTERS,
        "dim": DIM,
        "standardize": False,
    }


def test_it_is_recorded_shown_and_boarded_as_released_weights(random_vit, tmp_path, command, monkeypatch):
    official = Official("stego")
    path = official.save(tmp_path / "official.ckpt", network(random_vit))
    monkeypatch.setenv("USS_BENCH_PLUGINS", str(Path(__file__).parents[1] / "plugins"))
    out = tmp_path / "results"
    where = ["--dataset", "tiny", "--out", out, "--protocol", "stego320@2[eval_side=96,crf=none]"]
    where += ["--backbone", random_vit["backbone"], "--weights", random_vit["weights"]]
    where += ["--backbone-name", random_vit["backbone_name"], "--training", "side=96"]
    said = command("import-state", official.method, path, *where)
    assert said.code == 0, said.err
    assert f"{official.method} (released weights)" in said.out
    (entry,), broken = read_entries([out])
    assert not broken
    record = entry.record
    assert record.cell.is_released
    assert not record.curves
    assert not record.candidates
    assert "train" not in record.phases
    assert record.labels_used == ["choice of the checkpoint"]
    (note,) = record.notes
    assert note.startswith("released weights of https://github.com/")
    assert "official.ckpt" in note
    assert read_state(entry.path, record)
    assert record.last is not None

    # Beside a run with the same parameters it is a row of its own, and is not ranked with it.
    steps = [
        "--set",
        "steps=2",
        "--set",
        "batch_size=2",
        "--set",
        f"dim={DIM}",
        "--set",
        f"clusters={CLUSTERS}",
    ]
    assert command("run", "--method", official.method, *where, *steps).code == 0
    entries, _ = read_entries([out])
    labels = sorted(one.label for one in gather(entries))
    assert len(labels) == 2
    assert any("released weights" in label for label in labels)
    assert "released weights" in command("show", "--out", out).out

    again = command("import-state", official.method, path, *where)
    assert again.code == 0
    assert len(read_entries([out])[0]) == 2, "the record is there"
    refused = command("rerun", entry.path, "--out", tmp_path / "again")
    assert refused.code == 1
    assert "import-state" in refused.err


# --- Other methods -------------------------------------------------------------------------------


def hp_file(path: Path, frozen: Tensors, official: Official, average: nn.ModuleDict) -> Path:
    """As HP's ``save_checkpoint`` writes it, of the model alone."""
    net = {
        **prefixed("model.", frozen),
        **official.head.state_dict(),
        **{name.replace("cluster", "ema_model"): value for name, value in average.state_dict().items()},
    }
    torch.save(
        {
            "epoch": 2,
            "iter": 100,
            "best_epoch": 2,
            "net_model_state_dict": net,
            "net_optimizer_state_dict": None,
            "linear_model_state_dict": {"weight": torch.randn(3, DIM, 1, 1), "bias": torch.randn(3)},
            "cluster_model_state_dict": {"clusters": official.clusters},
            "best": 1.5,
        },
        path,
    )
    return path


def test_hp_is_evaluated_by_its_head_and_keeps_the_average(random_vit, tmp_path):
    official, average = Official("hp"), lineage_head(CHANNELS, DIM)
    path = hp_file(tmp_path / "ckpt.pth", network(random_vit), official, average)
    setup = with_released_state(asked("hp", random_vit), [path], Registry([PLUGINS]))
    method: Any = setup.make_method(setup.released)
    features = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = method.classify(method.embed({"tokens": features}))
        torch.testing.assert_close(found, official.logits(features), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method.net.averaged(features), head_code(average, features))


def test_eagle_reads_the_keys_of_the_last_three_blocks(random_vit, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CHANNELS", 3 * CHANNELS)
    official = Official("eagle")
    path = official.save(tmp_path / "eagle.ckpt", network(random_vit))
    setup = with_released_state(asked("eagle", random_vit), [path], Registry([PLUGINS]))
    method = setup.make_method(setup.released)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # positions as they are
    # The official code: q, k and v are (3, B, heads, T, d); heads stand in a row, blocks from low to high.
    model = timm.create_model(
        random_vit["backbone"],
        num_classes=0,
        dynamic_img_size=True,
        checkpoint_path=str(random_vit["weights"]),
    ).eval()
    qkv: list[Tensor] = []
    for block in model.blocks[-3:]:
        block.attn.qkv.register_forward_hook(lambda _module, _given, out: qkv.append(out))
    with torch.no_grad():
        names = [f"keys@-{block}" for block in (3, 2, 1)]
        found = method.classify(method.embed(setup.backbone(image, names)))
        info = setup.backbone.info
        mean, std = (torch.tensor(one)[:, None, None] for one in (info.mean, info.std))
        model((image - mean) / std)
        keys = [
            one.unflatten(2, (3, info.heads, -1)).permute(2, 0, 3, 1, 4)[1][:, :, 1:].transpose(2, 3)
            for one in qkv
        ]
        features = torch.cat([one.reshape(1, -1, 14, 14) for one in keys], dim=1)
    torch.testing.assert_close(found, official.logits(features), rtol=1e-3, atol=1e-3)


def test_ppap_is_the_frozen_network_with_another_last_block(random_vit, tmp_path):
    frozen = network(random_vit)
    trained = timm.create_model(random_vit["backbone"], num_classes=0)
    trained.load_state_dict(frozen)
    with torch.no_grad():
        for parameter in trained.blocks[-1].parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    clusters = torch.randn(CLUSTERS, CHANNELS)
    net = {
        **prefixed("model.", frozen),
        **prefixed("decoder.", trained.blocks[-1].state_dict()),
        "project_head.weight": torch.randn(CHANNELS, CHANNELS),
        "project_head.bias": torch.randn(CHANNELS),
    }
    torch.save(
        {"epoch": 1, "net_model_state_dict": net, "cluster_model_state_dict": {"clusters": clusters}},
        tmp_path / "best.pth",
    )
    registry = Registry([PLUGINS])
    setup = with_released_state(asked("ppap", random_vit), [tmp_path / "best.pth"], registry)
    method = setup.make_method(setup.released)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # positions as they are
    info = setup.backbone.info
    mean, std = (torch.tensor(one)[:, None, None] for one in (info.mean, info.std))
    with torch.no_grad():
        found = method.classify(method.embed(setup.backbone(image, setup.inputs)))
        tokens = trained.eval().forward_features((image - mean) / std)[:, 1:]
        code = F.normalize(tokens.transpose(1, 2).reshape(1, CHANNELS, 14, 14), dim=1)
    expected = torch.einsum("bchw,nc->bnhw", code, F.normalize(clusters, dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class TRDecoder(nn.Module):
    """CAUSE's decoder and head, by the names of its released code."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = (nn.MultiheadAttention(CHANNELS, 1) for _ in range(2))
        self.linear1, self.linear2 = nn.Linear(CHANNELS, 2048), nn.Linear(2048, CHANNELS)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(CHANNELS) for _ in range(3))
        self.f1 = nn.Conv2d(CHANNELS, DIM, 1)
        self.f2 = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU(), nn.Conv2d(CHANNELS, DIM, 1))

    def forward(self, query: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """Map queries and tokens (T, B, D) to code (B, d, h, w)."""
        both = query + positions
        query = self.norm1(query + self.self_attn(both, both, value=query)[0])
        query = self.norm2(query + self.multihead_attn(query + positions, memory, value=memory)[0])
        query = memory + self.norm3(query + self.linear2(F.relu(self.linear1(query))))
        return self.code(query.permute(1, 2, 0).unflatten(2, (4, 4)))

    def code(self, features: Tensor) -> Tensor:
        found: Tensor = self.f1(features) + self.f2(features)
        return found


@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_cause_is_evaluated_by_its_averaged_head(random_vit, registry, tmp_path, head):
    torch.manual_seed(0)
    net, codebook, probe = TRDecoder(), torch.randn(16, CHANNELS), torch.randn(CLUSTERS, DIM)
    positions = torch.randn(16, CHANNELS)
    own = net.state_dict()
    if head == "tr":
        saved = {**prefixed("head_ema.tr.", own), "head_ema.query_pos": positions}
    else:
        saved = prefixed("head_ema.", {name: one for name, one in own.items() if name.startswith("f")})
    student = {name.replace("head_ema", "head"): one + 1 for name, one in saved.items()}
    torch.save({**saved, **student, "linear.f.weight": torch.randn(3, DIM, 1, 1)}, tmp_path / "segment.pth")
    torch.save({"codebook": codebook, "cluster_probe": probe}, tmp_path / "cluster.pth")
    files = [tmp_path / "segment.pth", tmp_path / "cluster.pth"]
    setup = with_released_state(asked("cause", random_vit), files, registry)
    assert setup.params["head"] == head
    method = setup.make_method(setup.released)
    features = torch.randn(2, CHANNELS, 4, 4)
    with torch.no_grad():
        tokens = features.flatten(2).transpose(1, 2)
        chosen = (F.normalize(tokens, dim=2) @ F.normalize(codebook, dim=1).T).argmax(dim=2)
        if head == "tr":
            queries = codebook[chosen].transpose(0, 1)
            code = net.eval()(queries, tokens.transpose(0, 1), positions[:, None])
        else:
            code = net.code(features)
        expected = torch.einsum("bchw,nc->bnhw", F.normalize(code, dim=1), F.normalize(probe, dim=1))
        found = method.classify(method.embed({"tokens": features}))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- What is refused -----------------------------------------------------------------------------


def test_another_network_than_the_files_is_refused(official, random_vit, registry, tmp_path):
    frozen = network(random_vit)
    frozen["blocks.3.attn.qkv.weight"] += 1e-3
    path = official.save(tmp_path / "official.ckpt", frozen)
    with pytest.raises(DataError, match=r"another network .* 'blocks\.3\.attn\.qkv\.weight'"):
        with_released_state(asked(official.method, random_vit), [path], registry)


def test_a_network_of_another_library_with_no_common_name_is_refused(
    official, random_vit, registry, tmp_path
):
    path = official.save(tmp_path / "official.ckpt", prefixed("module.", network(random_vit)))
    with pytest.raises(DataError, match="no tensor in common"):
        with_released_state(asked(official.method, random_vit), [path], registry)


def test_a_head_of_another_width_is_refused(official, random_vit, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CHANNELS", 64)
    path = Official(official.method).save(tmp_path / "official.ckpt", {})
    with pytest.raises(DataError, match="does not fit 'random-vit'"):
        with_released_state(asked(official.method, random_vit), [path], registry)


@pytest.mark.parametrize(("option", "value"), [("dino_feat_type", "KK"), ("projection_type", "linear")])
def test_other_options_than_the_method_reproduces_are_refused(
    official, random_vit, registry, tmp_path, option, value
):
    path = official.save(tmp_path / "official.ckpt", network(random_vit), **{option: value})
    with pytest.raises(DataError, match=rf"{option} = {value}, and only"):
        with_released_state(asked(official.method, random_vit), [path], registry)


def test_the_file_of_another_method_is_refused_by_the_first_name_that_it_lacks(
    random_vit, registry, tmp_path
):
    path = Official("smooseg").save(tmp_path / "official.ckpt", network(random_vit))
    with pytest.raises(DataError, match=r"no 'state_dict\.cluster_probe\.clusters'"):
        with_released_state(asked("stego", random_vit), [path], registry)


def test_a_parameter_that_the_file_has_otherwise_is_refused(official, random_vit, registry, tmp_path):
    path = official.save(tmp_path / "official.ckpt", network(random_vit))
    with pytest.raises(UsageError, match="dim=11 contradicts"):
        with_released_state(asked(official.method, random_vit, params={"dim": 11}), [path], registry)


def test_a_method_without_official_checkpoints_names_those_that_have_some(random_vit, registry, tmp_path):
    with pytest.raises(UsageError, match="'dino' does not read official checkpoints") as error:
        with_released_state(asked("dino", random_vit), [tmp_path / "any.ckpt"], registry)
    assert "stego" in (error.value.hint or "")


# --- Reading -------------------------------------------------------------------------------------


class Trap:
    """What copies a file when an ordinary reader loads it."""

    def __init__(self, source: Path, target: Path) -> None:
        self.paths = str(source), str(target)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return shutil.copyfile, self.paths


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    path, touched = tmp_path / "trap.ckpt", tmp_path / "touched"
    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": Trap(path, touched)}, path)
    tensors, _ = read_checkpoint(path)
    assert list(tensors) == ["state_dict.a"]
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists(), "the trap works"


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_functions_that_run_text_are_not_even_stood_in_for(tmp_path, name):
    import builtins

    class Builtin:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr(builtins, name), ("1 + 1",)

    torch.save({"state_dict": {"a": torch.ones(2)}, "x": Builtin()}, tmp_path / "trap.ckpt")
    with pytest.raises(DataError, match="cannot be read"):
        read_checkpoint(tmp_path / "trap.ckpt")


def test_options_of_omegaconf_and_nested_tables_are_plain(tmp_path):
    path = save_lightning(tmp_path / "a.ckpt", {"x": torch.zeros(1)}, dim=70, name="coco", rate=0.5)
    tensors, options = read_checkpoint(path)
    assert "state_dict.x" in tensors
    assert options["hyper_parameters"]["cfg"] == {"dim": 70, "name": "coco", "rate": 0.5}
    assert options["global_step"] == 5000


def test_objects_in_circles_end(tmp_path):
    loop: dict[str, Any] = {"state_dict": {"a": torch.ones(1)}}
    loop["self"] = loop
    torch.save(loop, tmp_path / "loop.ckpt")
    tensors, options = read_checkpoint(tmp_path / "loop.ckpt")
    assert torch.equal(tensors["state_dict.a"], torch.ones(1))
    assert "self" in options


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>\n<p>Sign in</p>", "a web page"),
        (b"\x89PNG\r\n", "an image"),
        (pickle.dumps({"a": 1}), ""),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, reason):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(DataError, match=f"cannot be read: .*{reason}"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(DataError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match="no tensors"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_what_a_cell_is_depends_on_the_state(official, random_vit, registry, tmp_path):
    def setup(name: str) -> Setup:
        path = official.save(tmp_path / name, network(random_vit))
        return with_released_state(asked(official.method, random_vit), [path], registry)

    first, same = setup("a.ckpt"), setup("b.ckpt")
    official.clusters = official.clusters + 1
    other = setup("c.ckpt")
    assert first.cell(0).id == same.cell(0).id != other.cell(0).id
