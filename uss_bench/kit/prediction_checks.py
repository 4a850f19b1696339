"""The checks of prediction: `embed`, `classify` and the state, after one training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Method, predict
from uss_bench.evaluation.predictor import is_map, tensor_text
from uss_bench.kit.checks import Finding, check, failed, note, ok, skipped
from uss_bench.kit.scenes import CLASSES
from uss_bench.kit.trial import CPU, Trial
from uss_bench.kit.watching import Operations

SAME = 1e-4
"""Relative difference up to which two results are the same: float32 sums in another order."""
_ROUNDINGS = 16
"""Roundings of a half-precision type that may lie between two results."""
_DEVICES_AGREE = 0.98
"""Share of pixels that must get the same cluster on two devices, whose kernels round differently."""
_ODD_SIZES = ((7, 13), (1, 5))
_DROPOUT = "Dropout must be off after train(): net.eval(). Draw nothing in embed or classify."
_BATCH = "Batch statistics must be frozen after training: net.eval(). Look at each image by itself."


@check(needs="training", todo="embed gets the inputs of spec.toml; classify gets a code.")
def shapes(trial: Trial) -> Finding:
    """A code is (B, d, h, w), logits are (B, K, H, W) of any code size, both floating point."""
    method, size = trial.trained.method, len(next(iter(trial.batch.values())))
    with torch.no_grad():
        code = method.embed(trial.batch)
        if not is_map(code) or len(code) != size:
            return failed(
                f"embed gave {tensor_text(code)} for {size} images", "A code is float (B, d, h, w)."
            )
        for height, width in (code.shape[2:], *_ODD_SIZES):
            logits = method.classify(code[:, :, :1, :1].expand(-1, -1, height, width).contiguous())
            if not is_map(logits) or (len(logits), *logits.shape[2:]) != (size, height, width):
                text = f"classify gave {tensor_text(logits)} for a code of {height}×{width}"
                return failed(
                    text, "Logits are float (B, K, H, W), with the code's H and W, whatever they are."
                )
        return ok(f"{size} images: code {tensor_text(code)}, logits {tensor_text(method.classify(code))}")


@check(needs="shapes")
def finite(trial: Trial) -> Finding:
    logits = logits_of(trial.trained.method, trial.batch)
    if bad := int((~torch.isfinite(logits)).sum()):
        text = f"{bad} of {logits.numel()} logits are NaN or infinite"
        return failed(text, "Look for logarithms of 0, divisions by 0, and a loss that diverged.")
    return ok(f"all {logits.numel():,} logits are finite")


@check(needs="shapes")
def clusters(trial: Trial) -> Finding:
    if "clusters" not in trial.known:
        return skipped("the method has no parameter 'clusters'")
    asked = (len(CLASSES), 2 * len(CLASSES) + 1)
    for count in asked:
        found = logits_of(trial.train(trial.setup(clusters=count)).method, trial.batch).shape[1]
        if found != count:
            text = f"clusters={count} gave logits of {found} clusters"
            return failed(text, "K is the second axis of the logits, also of clusters that stay empty.")
    return ok(f"logits have as many clusters as were asked for {asked}")


@check(name="K = 1", needs="finite", todo="K = 1 is allowed: every pixel is in cluster 0.")
def one_cluster(trial: Trial) -> Finding:
    if "clusters" not in trial.known:
        return skipped("the method has no parameter 'clusters'")
    logits = logits_of(trial.train(trial.setup(clusters=1)).method, trial.batch)
    if logits.shape[1] != 1 or not torch.isfinite(logits).all():
        return failed(
            f"with clusters=1 the logits are {tensor_text(logits)}, or not finite", "K = 1 is allowed."
        )
    return ok("with K = 1 it trains and predicts")


@check(needs="finite")
def repeatable(trial: Trial) -> Finding:
    first, second = (logits_of(trial.trained.method, trial.batch) for _ in range(2))
    found = _compared("the same batch twice", first, second, trial, _DROPOUT, exact=True)
    return found or ok("the same batch twice gets the same logits: dropout is off")


@check(needs="repeatable")
def pointwise(trial: Trial) -> Finding:
    """The evaluator classifies bands of rows, so that a band must not know what lies beside it."""
    method = trial.trained.method
    with torch.no_grad():
        code = torch.nn.functional.interpolate(method.embed(trial.batch), (9, 11), mode="bilinear")
        whole, tile = method.classify(code), method.classify(code[:, :, 3:7, 2:9].contiguous())
    todo = "What looks at neighbors belongs in embed; classify sees one place at a time."
    found = _compared("a tile of a code and the whole", whole[:, :, 3:7, 2:9], tile, trial, todo)
    return found or ok("a tile of a code gets the logits that it has in the whole")


@check(needs="repeatable")
def single_images(trial: Trial) -> Finding:
    """One image at a time predicts what a batch predicts."""
    method = trial.trained.method
    together = logits_of(method, trial.batch)
    alone = [
        logits_of(method, {name: value[index : index + 1] for name, value in trial.batch.items()})
        for index in range(len(together))
    ]
    found = _compared("an image alone and in a batch", together, torch.cat(alone), trial, _BATCH)
    return found or ok("an image gets the same logits alone and in a batch")


@check(needs="repeatable", todo="load_state_dict must build what it fills.")
def saved_state(trial: Trial) -> Finding:
    """A fresh instance that loads the saved state predicts what the trained one does."""
    before = logits_of(trial.trained.method, trial.batch)
    after = logits_of(trial.restore(trial.trained), trial.batch)
    todo = "state_dict() must hold all that prediction needs, and load_state_dict() set it all."
    found = _compared("the trained state and the loaded one", before, after, trial, todo, exact=True)
    return found or ok("written to safetensors and loaded, it predicts the same bytes")


@check(needs="finite", todo="Codes need not be square: read h and w from the tensor.")
def odd_sizes(trial: Trial) -> Finding:
    """Whole images, wide and tall, get label maps of their own size."""
    images, count = trial.setup().test_images, trial.setup().params.get("clusters")
    for index, (_, labels) in enumerate(trial.predictor(trial.trained.method).label_maps(images, None)):
        size = images.image(index).shape[:2]
        if labels.shape != size or (count and not 0 <= labels.min() <= labels.max() < count):
            text = f"an image of {size[0]}×{size[1]} got a label map of {labels.shape}, {np.unique(labels)}"
            return failed(text, "Read sizes from the tensors: h and w differ, and from image to image.")
    return ok("whole images that are not square get label maps of their size")


@check(name="GPU", needs="shapes", todo="Put every tensor on ctx.device, or on that of its input.")
def devices_agree(trial: Trial) -> Finding:
    device = trial.accelerator
    if device is None:
        return skipped("there is no GPU here")
    trial.train(device=device)
    batch = {name: value.to(device) for name, value in trial.batch.items()}
    here = logits_of(trial.trained.method, trial.batch).argmax(dim=1)
    there = logits_of(trial.restore(trial.trained, device), batch).argmax(dim=1).to(CPU)
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


def _compared(
    what: str, first: Tensor, second: Tensor, trial: Trial, todo: str, *, exact: bool = False
) -> Finding | None:
    """Return what is wrong when two logits are not the same, with its cause as far as torch shows it."""
    if first.shape != second.shape:
        return failed(f"{what} get {tensor_text(first)} and {tensor_text(second)}", todo)
    apart = float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))
    if torch.equal(first, second) or (apart <= SAME and not exact):
        return None
    with Operations() as seen:
        logits_of(trial.trained.method, trial.batch)
    text = f"{what} get other logits, {apart:.2g} of the largest apart"
    text += f": {seen.cause()}" * bool(seen.cause())
    rounding = max((torch.finfo(getattr(torch, half)).eps for half in seen.halves), default=0.0)
    if apart <= _ROUNDINGS * rounding and not exact and not seen.statistics and not seen.random:
        return note(text, "Compute in float32 if the last digits matter.")
    return failed(text, todo)


CHECKS = (
    shapes,
    finite,
    clusters,
    repeatable,
    pointwise,
    single_images,
    saved_state,
    one_cluster,
    odd_sizes,
    devices_agree,
)
