"""The rungs about prediction: `embed`, `classify` and the state, looked at after one training."""

from __future__ import annotations

import typing

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Method, predict
from uss_bench.kit.ladder import Verdict, failed, ok, skipped
from uss_bench.kit.trial import CPU, Trial

_SAME = 1e-4
"""Relative difference up to which two logits are the same: float32 sums in another order."""
_DEVICES_AGREE = 0.98
"""Share of pixels that must get the same cluster on two devices, whose kernels round differently."""
_ODD_SIZES = ((7, 13), (1, 5))


def shapes(trial: Trial) -> Verdict:
    """A code is (B, d, h, w), logits are (B, K, H, W) of any code size, both floating point."""
    method, batch = trial.trained.method, trial.batch()
    size = len(next(iter(batch.values())))
    with torch.no_grad():
        code = method.embed(batch)
        if not _is_map(code) or len(code) != size:
            return failed(f"embed gave {shown(code)} for {size} images", "A code is float (B, d, h, w).")
        for height, width in (code.shape[2:], *_ODD_SIZES):
            part = code[:, :, :1, :1].expand(-1, -1, height, width).contiguous()
            logits = method.classify(part)
            if not _is_map(logits) or (len(logits), *logits.shape[2:]) != (size, height, width):
                text = f"classify gave {shown(logits)} for a code of {height}×{width}"
                return failed(
                    text, "Logits are float (B, K, H, W), with the code's H and W, whatever they are."
                )
    return ok(f"{size} images: code {_sizes(code)}, logits {_sizes(method.classify(code))}")


def finite(trial: Trial) -> Verdict:
    logits = logits_of(trial.trained.method, trial.batch())
    bad = int((~torch.isfinite(logits)).sum())
    if bad:
        text = f"{bad} of {logits.numel()} logits are NaN or infinite"
        return failed(text, "Look for logarithms of 0, divisions by 0, and a loss that diverged.")
    return ok(f"all {logits.numel():,} logits are finite")


def pointwise(trial: Trial) -> Verdict:
    """The evaluator classifies bands of rows, so that a band must not know what lies beside it."""
    method = trial.trained.method
    with torch.no_grad():
        code = torch.nn.functional.interpolate(method.embed(trial.batch()), (9, 11), mode="bilinear")
        whole = method.classify(code)
        tile = method.classify(code[:, :, 3:7, 2:9].contiguous())
    if not _same(whole[:, :, 3:7, 2:9], tile):
        text = (
            f"a tile of a code gets other logits than the whole ({_difference(whole[:, :, 3:7, 2:9], tile)})"
        )
        return failed(text, "What looks at neighbours belongs into embed; classify sees one place at a time.")
    return ok("a tile of a code gets the logits that it has in the whole")


def single_images(trial: Trial) -> Verdict:
    """One image at a time predicts what a batch predicts."""
    method, batch = trial.trained.method, trial.batch()
    together = logits_of(method, batch)
    for index in range(len(together)):
        alone = logits_of(method, {name: value[index : index + 1] for name, value in batch.items()})
        if not _same(together[index : index + 1], alone):
            text = (
                f"image {index} alone gets other logits ({_difference(together[index : index + 1], alone)})"
            )
            return failed(text, "Batch statistics must be frozen after training: net.eval().")
    return ok("an image gets the same logits alone and in a batch")


def repeatable(trial: Trial) -> Verdict:
    first, second = (logits_of(trial.trained.method, trial.batch()) for _ in range(2))
    if not torch.equal(first, second):
        text = f"the same batch twice gets other logits ({_difference(first, second)})"
        return failed(
            text, "Dropout must be off after train(): net.eval(). Draw nothing in embed or classify."
        )
    return ok("the same batch twice gets the same logits: dropout is off")


def saved_state(trial: Trial) -> Verdict:
    """A fresh instance that loads the saved state predicts what the trained one does."""
    before = logits_of(trial.trained.method, trial.batch())
    after = logits_of(trial.restore(trial.trained), trial.batch())
    if before.shape != after.shape or not torch.equal(before, after):
        text = f"loaded from a file it predicts something else ({_difference(before, after)})"
        return failed(
            text, "state_dict() must hold all that prediction needs, and load_state_dict() set it all."
        )
    return ok("written to safetensors and loaded, it predicts the same bytes")


def odd_sizes(trial: Trial) -> Verdict:
    """Whole images, wide and tall, get label maps of their own size."""
    images = trial.setup().test_images
    clusters = trial.setup().params.get("clusters")
    for index, (_, labels) in enumerate(trial.predictor(trial.trained.method).label_maps(images, None)):
        size = images.image(index).shape[:2]
        if labels.shape != size or (clusters and not 0 <= labels.min() <= labels.max() < clusters):
            text = f"an image of {size[0]}×{size[1]} got a label map of {labels.shape}, {np.unique(labels)}"
            return failed(text, "Read sizes from the tensors: h and w differ, and from image to image.")
    height, width = images.image(0).shape[:2]
    return ok(f"whole images that are not square ({height}×{width}) get label maps of their size")


def devices_agree(trial: Trial) -> Verdict:
    device = trial.accelerator
    if device is None:
        return skipped("there is no GPU here")
    trial.train(device=device)
    here = logits_of(trial.trained.method, trial.batch()).argmax(dim=1)
    there = logits_of(trial.restore(trial.trained, device), trial.batch(device)).argmax(dim=1).to(CPU)
    agreed = float((here == there).double().mean())
    if agreed < _DEVICES_AGREE:
        text = f"the same state gives {device.type} and CPU the same cluster for only {agreed:.1%} of places"
        return failed(
            text, "load_state_dict must leave everything on the device of the tensors that it gets."
        )
    return ok(f"it trains on {device.type}, and the same state predicts there what it does on the CPU")


@torch.no_grad()
def logits_of(method: Method, batch: Batch) -> Tensor:
    """Return what the method predicts for a batch, (B, K, h, w)."""
    return predict(method, batch)


def _same(first: Tensor, second: Tensor) -> bool:
    scale = float(first.abs().max())
    return first.shape == second.shape and torch.allclose(first, second, rtol=_SAME, atol=_SAME * scale)


def _difference(first: Tensor, second: Tensor) -> str:
    if first.shape != second.shape:
        return f"{_sizes(first)} and {_sizes(second)}"
    return f"up to {float((first - second).abs().max()):.2g} apart"


def _is_map(value: object) -> typing.TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def shown(value: object) -> str:
    """Describe what should have been a tensor."""
    return f"{_sizes(value)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _sizes(value: Tensor) -> str:
    return "×".join(map(str, value.shape))
