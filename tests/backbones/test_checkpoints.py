"""Weights as people have them: loaded when there is no doubt, else refused with what the file is or lacks."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.backbones.timm.positions import interpolate_positions
from uss_bench.backbones.timm.vit import TimmViT
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.specs import BackboneSpec

NAME = "vit_tiny_patch16_224"
State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = timm.create_model(NAME, num_classes=0).state_dict()
    generator = torch.Generator().manual_seed(1)
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


def load(path: Path) -> TimmViT:
    spec = BackboneSpec(name="timm", title="", summary="", entry="vit:TimmViT")
    return TimmViT(spec, model=NAME, weights=path)


def tensors(vit: TimmViT) -> dict[str, Tensor]:
    return dict(vit._model.state_dict())


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> dict[str, Tensor]:
    return {key: value + 1 for key, value in state.items()}


ONE = torch.zeros(1)
HEAD = {"head.weight": torch.zeros(10, 192), "mask_token": torch.zeros(1, 192)}
DINO_HEAD = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}

LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "a head beside it": lambda s: {**s, **HEAD},
    "a decoder beside it": lambda s: {**s, "decoder_embed.weight": ONE, "decoder_pos_embed": ONE},
    "remarks beside it": lambda s: {**s, "epoch": 3, "arch": "vit_tiny", "best": 0.7, "ema": None},
    **{
        f"prefix {prefix}": lambda s, prefix=prefix: prefixed(prefix, s)
        for prefix in (
            *("_orig_mod.", "encoder.", "model.", "net.model.", "module.", "backbone.", "teacher."),
            *("module.backbone.", "_orig_mod.module.", "teacher.backbone.", "student.", "vit."),
        )
    },
    "compiled block by block": lambda s: {k.replace("attn.", "_orig_mod.attn."): v for k, v in s.items()},
    **{
        f"under {nest}": lambda s, nest=nest: {"epoch": 3, "optimizer": {"state": {0: {"step": 1}}}, nest: s}
        for nest in ("model", "state_dict", "model_state_dict", "teacher", "student", "net", "encoder")
    },
    "options of argparse beside it": lambda s: {**s, "args": argparse.Namespace(arch="vit_tiny")},
    "options of argparse above it": lambda s: {"model": s, "args": argparse.Namespace(lr=1.0, data="coco")},
    "under a name of its own": lambda s: {"weights_of_the_network": s, "args": "x"},
    "under two": lambda s: {"model": {"state_dict": prefixed("module.", s)}, "epoch": torch.tensor(3)},
    "teacher and student": lambda s: {
        "student": prefixed("module.backbone.", other(s)),
        "teacher": {**prefixed("backbone.", s), **DINO_HEAD},
    },
    "an empty student": lambda s: {"student": {}, "teacher": prefixed("module.", s)},
    "both in one": lambda s: (
        prefixed("student.backbone.", other(s))
        | prefixed("teacher.backbone.", s)
        | prefixed("teacher.", DINO_HEAD)
    ),
    "MoCo": lambda s: {
        "state_dict": prefixed("module.encoder_k.", other(s))
        | prefixed("module.encoder_q.", s)
        | {"queue": ONE}
    },
    "the same twice": lambda s: {**prefixed("model.", s), **prefixed("model_again.", s)},
    "half precision": lambda s: {key: value.half() for key, value in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_without_doubt_is_loaded(layout, state, tmp_path):
    torch.save(LAYOUTS[layout](state), tmp_path / "w.pth")
    loaded = tensors(load(tmp_path / "w.pth"))
    assert loaded.keys() == state.keys()
    tolerance = 2e-3 if layout == "half precision" else 0
    for key, value in state.items():
        torch.testing.assert_close(loaded[key], value, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("suffix", "save"), [(".pth", safetensors.torch.save_file), (".safetensors", torch.save)]
)
def test_the_content_says_what_a_file_is_and_not_the_suffix(suffix, save, state, tmp_path):
    save(dict(state), tmp_path / f"w{suffix}")
    assert torch.equal(tensors(load(tmp_path / f"w{suffix}"))["cls_token"], state["cls_token"])


@pytest.mark.parametrize("side", [7, 24, 1])
def test_a_position_table_of_another_square_grid_becomes_the_native_one(side, state, tmp_path):
    """As if the network had been built for that size, which timm itself can do."""
    table = torch.randn(1, 1 + side**2, 192, generator=torch.Generator().manual_seed(2))
    torch.save({**state, "pos_embed": table}, tmp_path / "w.pth")
    vit = load(tmp_path / "w.pth")
    reference = timm.create_model(NAME, num_classes=0, img_size=16 * side).eval()
    reference.load_state_dict({**state, "pos_embed": table})
    images = torch.rand(1, 3, 16 * side, 16 * side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference.forward_features((images - 0.5) / 0.5)[:, 1:]
        found = vit(images, ["tokens"])["tokens"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        vit(torch.rand(1, 3, 80, 48), ["tokens"])
        kept = vit._embed._grids[5, 3]
    torch.testing.assert_close(kept, interpolate_positions(table[:, 1:], (side, side), (5, 3), "dino"))


@pytest.mark.parametrize(
    "shape", [(1, 196, 192), (1, 198, 192), (1, 1 + 14 * 15, 192), (197, 192), (1, 197, 384)]
)
def test_a_table_that_leaves_doubt_is_refused_with_both_sizes(shape, state, tmp_path):
    torch.save({**state, "pos_embed": torch.zeros(shape)}, tmp_path / "w.pth")
    with pytest.raises(DataError) as refused:
        load(tmp_path / "w.pth")
    assert f"pos_embed is {list(shape)} instead of [1, 197, 192]" in refused.value.what


def test_networks_that_differ_and_have_no_names_to_choose_by_are_refused(state, tmp_path):
    torch.save({**prefixed("a.", state), **prefixed("b.net.", other(state))}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"hold 2 networks that differ: 'a\.' and 'b\.net\.'"):
        load(tmp_path / "w.pth")


def test_a_misfit_names_the_common_prefix_and_what_is_missing(state, tmp_path):
    strange = {f"vit.deep.{key.replace('blocks', 'layer')}x": value for key, value in state.items()}
    torch.save(strange, tmp_path / "w.pth")
    with pytest.raises(DataError) as refused:
        load(tmp_path / "w.pth")
    assert f"{len(state)} missing (blocks.0.attn.proj.bias, " in refused.value.what
    assert f"{len(state)} unexpected (vit.deep.cls_tokenx, " in refused.value.what
    assert "All names in the file begin with 'vit.deep'." in refused.value.what

    deeper = {**state, **{key.replace("blocks.0", "blocks.12"): value for key, value in state.items()}}
    torch.save(prefixed("encoder.", deeper), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"do not fit: 12 unexpected \(blocks\.12\.attn\.proj\.bias"):
        load(tmp_path / "w.pth")


class Payload:
    """Stands for whatever a pickle could bring with it."""


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def arrays(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    path.write_bytes(buffer.getvalue())


NO_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "no checkpoint but an empty file"),
    "a login page": (lambda path: path.write_text("<!DOCTYPE html><title>404</title>"), "but a web page"),
    "another page": (lambda path: path.write_text("\n  <html>not found</html>"), "but a web page"),
    "an LFS pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "but a pointer of Git LFS",
    ),
    "JSON": (lambda path: path.write_text('{"epoch": 3}'), "but a text file"),
    "an image": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "but an image"),
    "Keras": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "but an HDF5 file"),
    "an array": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(100)), "but a NumPy array"),
    "arrays": (arrays, "but a NumPy archive"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)), "but a gzip archive"),
    "zip": (zipped, "but a zip archive"),
    "TorchScript": (scripted, "but a TorchScript program"),
    "a module": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "hold Python objects beside tensors"),
    "objects": (
        lambda path: torch.save({"w": torch.zeros(1), "args": Payload()}, path),
        "hold Python objects",
    ),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"w": np.zeros(3)})), "Weights"),
    "a list": (lambda path: torch.save([1, 2], path), "hold no state dict but a list"),
    "numbers": (lambda path: torch.save({"epoch": 1}, path), "hold no state dict: it has no tensors"),
    "an empty dict": (lambda path: torch.save({}, path), "hold no state dict: it has no tensors"),
    "an optimizer": (
        lambda path: torch.save({"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": [{}]}, path),
        "hold no state dict",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ".pth.tar"])
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_called_what_it_is(kind, suffix, tmp_path):
    write, message = NO_CHECKPOINTS[kind]
    path = tmp_path / f"w{suffix}"
    write(path)
    with pytest.raises(DataError) as refused:
        read_state_dict(path)
    assert message in refused.value.what
    assert refused.value.hint
    assert "weights_only" not in str(refused.value)


def test_a_damaged_checkpoint_is_told_from_what_is_none(state, tmp_path):
    for save, name in ((torch.save, "whole.pth"), (safetensors.torch.save_file, "whole.safetensors")):
        save(dict(state), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for cut in (len(content) // 2, len(content) - 100, 200):
            (tmp_path / f"cut-{name}").write_bytes(content[:cut])
            with pytest.raises(DataError, match=r"are truncated or unreadable") as refused:
                read_state_dict(tmp_path / f"cut-{name}")
            assert refused.value.hint == "Fetch the file again."
    for path, error in (("absent.pth", DataError), ("w.npz", UsageError)):
        with pytest.raises(error):
            read_state_dict(tmp_path / path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_state_dict(tmp_path / "folder.pth")
