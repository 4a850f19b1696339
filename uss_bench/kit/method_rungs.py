"""The rungs of a method: what `uss_bench.contracts.Method` promises, looked at one by one."""

from __future__ import annotations

import re
import typing

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Method, predict
from uss_bench.errors import UsageError, UssBenchError
from uss_bench.kit.ladder import Rung, Verdict, failed, note, ok, skipped
from uss_bench.kit.scenes import CLASSES
from uss_bench.kit.signatures import check_signature
from uss_bench.kit.trial import CPU, Trial
from uss_bench.params import check_options

_CALLS = ("train", "embed", "classify", "state_dict", "load_state_dict")
_INPUT = re.compile(r"image|aux:[^:]+|tokens|cls|cls_attention|attention|(keys|queries|values)@[1-9]\d*")
_SAME = 1e-4
"""Relative difference up to which two logits are the same: float32 sums in another order."""
_DEVICES_AGREE = 0.98
"""Share of pixels that must get the same cluster on two devices, whose kernels round differently."""
_ODD_SIZES = ((7, 13), (1, 5))


def inputs_known(trial: Trial) -> Verdict:
    wrong = [name for name in trial.spec.inputs if not _INPUT.fullmatch(name)]
    if wrong or not trial.spec.inputs:
        said = f"inputs = {trial.spec.inputs}, and '{wrong[0]}' is no input" if wrong else "inputs is empty"
        return failed(said, "Name image, aux:NAME, tokens, keys@i, queries@i, values@i, cls or attention.")
    return ok(f"spec.toml is valid; embed reads {', '.join(trial.spec.inputs)}")


def imports(trial: Trial) -> Verdict:
    entry = trial.plugin.load()
    missing = [name for name in _CALLS if not callable(getattr(entry, name, None))]
    if missing:
        return failed(
            f"{trial.spec.entry} has no {', '.join(missing)}",
            "A method has " + ", ".join(_CALLS) + ": see uss_bench.contracts.Method.",
        )
    return ok(f"{trial.spec.entry} has {', '.join(_CALLS)}")


def parameters(trial: Trial) -> Verdict:
    entry = trial.plugin.load()
    verdict = check_signature(entry)
    if verdict.status != "ok":
        return verdict
    for preset in trial.spec.presets:
        try:
            check_options(entry, preset.params, f"preset '{preset.name}'", "params:")
        except UsageError as error:
            return failed(error.what, "Correct the preset in spec.toml.")
    presets = "; presets keep to them" if trial.spec.presets else ""
    return ok(f"{', '.join(trial.known) or 'none'}: their types refuse other values{presets}")


def trains(trial: Trial) -> Verdict:
    trained = trial.trained
    few = " ".join(f"{name}={value}" for name, value in trial.chosen.items())
    tensors = trained.tensors()
    size = sum(value.numel() for value in tensors.values())
    return ok(f"on {trial.backbone.name}{', ' if few else ''}{few}; its state is {size:,} numbers")


def no_labels(trial: Trial) -> Verdict:
    if trial.trained.label_reads:
        todo = "Use what train() is given, and nothing that it finds by other ways."
        return failed(f"{trial.trained.label_reads} labels were read while it trained", todo)
    blind = trial.train(trial.setup(clusters=_clusters(trial), labelled=False))
    if blind.state != trial.trained.state:
        todo = "Whatever it learns from must not depend on labels, nor on whether there are any."
        return failed("without labels it learns something else", todo)
    return ok("none was read, and without labels it learns the same bytes")


def curves(trial: Trial) -> Verdict:
    if not trial.trained.curves:
        return note("it reports no curve", "ctx.report(step, loss=loss) puts one into the record.")
    return ok(f"it reports {', '.join(trial.trained.curves)}")


def checkpoints(trial: Trial) -> Verdict:
    if not trial.trained.offers:
        todo = "ctx.checkpoint(step) offers one, to see what choosing it by labels would gain."
        return note("it offers no checkpoint but the last state", todo)
    return ok(f"it offered {trial.trained.offers}")


def shapes(trial: Trial) -> Verdict:
    """A code is (B, d, h, w), logits are (B, K, H, W) of any code size, both floating point."""
    method, batch = trial.trained.method, trial.batch()
    size = len(next(iter(batch.values())))
    with torch.no_grad():
        code = method.embed(batch)
        if not _is_map(code) or len(code) != size:
            return failed(f"embed gave {_shown(code)} for {size} images", "A code is float (B, d, h, w).")
        for height, width in (code.shape[2:], *_ODD_SIZES):
            part = code[:, :, :1, :1].expand(-1, -1, height, width).contiguous()
            logits = method.classify(part)
            if not _is_map(logits) or (len(logits), *logits.shape[2:]) != (size, height, width):
                text = f"classify gave {_shown(logits)} for a code of {height}×{width}"
                return failed(
                    text, "Logits are float (B, K, H, W), with the code's H and W, whatever they are."
                )
    return ok(f"{size} images: code {_sizes(code)}, logits {_sizes(method.classify(code))}")


def finite(trial: Trial) -> Verdict:
    logits = _logits(trial.trained.method, trial.batch())
    bad = int((~torch.isfinite(logits)).sum())
    if bad:
        text = f"{bad} of {logits.numel()} logits are NaN or infinite"
        return failed(text, "Look for logarithms of 0, divisions by 0, and a loss that diverged.")
    return ok(f"all {logits.numel():,} logits are finite")


def respects_clusters(trial: Trial) -> Verdict:
    if "clusters" not in trial.known:
        return skipped("the method has no parameter 'clusters'")
    for clusters in (len(CLASSES), 2 * len(CLASSES) + 1):
        trained = trial.train(trial.setup(clusters=clusters))
        found = _logits(trained.method, trial.batch()).shape[1]
        if found != clusters:
            text = f"clusters={clusters} gave logits of {found} clusters"
            return failed(text, "K is the second axis of the logits, also of clusters that stay empty.")
    return ok(f"logits have as many clusters as was asked for ({len(CLASSES)}, {2 * len(CLASSES) + 1})")


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
    together = _logits(method, batch)
    for index in range(len(together)):
        alone = _logits(method, {name: value[index : index + 1] for name, value in batch.items()})
        if not _same(together[index : index + 1], alone):
            text = (
                f"image {index} alone gets other logits ({_difference(together[index : index + 1], alone)})"
            )
            return failed(text, "Batch statistics must be frozen after training: net.eval().")
    return ok("an image gets the same logits alone and in a batch")


def repeatable(trial: Trial) -> Verdict:
    first, second = (_logits(trial.trained.method, trial.batch()) for _ in range(2))
    if not torch.equal(first, second):
        text = f"the same batch twice gets other logits ({_difference(first, second)})"
        return failed(
            text, "Dropout must be off after train(): net.eval(). Draw nothing in embed or classify."
        )
    return ok("the same batch twice gets the same logits: dropout is off")


def saved_state(trial: Trial) -> Verdict:
    """A fresh instance that loads the saved state predicts what the trained one does."""
    before = _logits(trial.trained.method, trial.batch())
    after = _logits(trial.restore(trial.trained), trial.batch())
    if before.shape != after.shape or not torch.equal(before, after):
        text = f"loaded from a file it predicts something else ({_difference(before, after)})"
        return failed(
            text, "state_dict() must hold all that prediction needs, and load_state_dict() set it all."
        )
    return ok("written to safetensors and loaded, it predicts the same bytes")


def same_seed(trial: Trial) -> Verdict:
    again = trial.train()
    if again.state == trial.trained.state:
        return ok("seed 0 twice learns the same bytes")
    before, after = trial.trained.tensors(), again.tensors()
    moved = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    text = f"seed 0 twice learns two things: {', '.join(moved[:3])} differ"
    return failed(
        text, "Draw from ctx.generator(purpose), or from torch's global generator, and nowhere else."
    )


def other_seed(trial: Trial) -> Verdict:
    if trial.train(seed=1).state != trial.trained.state:
        return ok("seed 1 learns something else than seed 0")
    return note("seed 1 learns the same as seed 0: fine for a method that draws nothing")


def one_cluster(trial: Trial) -> Verdict:
    if "clusters" not in trial.known:
        return skipped("the method has no parameter 'clusters'")
    logits = _logits(trial.train(trial.setup(clusters=1)).method, trial.batch())
    if logits.shape[1] != 1 or not torch.isfinite(logits).all():
        return failed(f"with clusters=1 the logits are {_shown(logits)}, or not finite", "K = 1 is allowed.")
    return ok("with K = 1 it trains and predicts")


def one_image(trial: Trial) -> Verdict:
    """A single training image trains the method, or is refused in words and not by a crash."""
    try:
        trained = trial.train(trial.setup(images=1))
    except UssBenchError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, ValueError):
            return note(f"it cannot be trained on one image, and says why: {cause or error.what}")
        return failed(error.what, "Raise ValueError in plain words, or do without what one image lacks.")
    if not torch.isfinite(_logits(trained.method, trial.batch())).all():
        return failed("trained on one image it predicts NaN", "Look for a deviation or a mean over nothing.")
    return ok("it can be trained on one image")


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
    here = _logits(trial.trained.method, trial.batch()).argmax(dim=1)
    there = _logits(trial.restore(trial.trained, device), trial.batch(device)).argmax(dim=1).to(CPU)
    agreed = float((here == there).double().mean())
    if agreed < _DEVICES_AGREE:
        text = f"the same state gives {device.type} and CPU the same cluster for only {agreed:.1%} of places"
        return failed(
            text, "load_state_dict must leave everything on the device of the tensors that it gets."
        )
    return ok(f"it trains on {device.type}, and the same state predicts there what it does on the CPU")


def whole_run(trial: Trial) -> Verdict:
    record = trial.whole_run().record
    assert record.last is not None
    used = f"{record.last.raw.clusters_used} of {record.clusters or 'its'} clusters used"
    return ok(f"train, predict, CRF, match, score and record; {used}")


def _clusters(trial: Trial) -> int | None:
    """Return the K that the labelled problem gives, to ask for it where there are no labels."""
    return trial.setup().params["clusters"] if "clusters" in trial.known else None


@torch.no_grad()
def _logits(method: Method, batch: Batch) -> Tensor:
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


def _shown(value: object) -> str:
    return f"{_sizes(value)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _sizes(value: Tensor) -> str:
    return "×".join(map(str, value.shape))


METHOD_RUNGS: tuple[Rung[Trial], ...] = (
    Rung("spec", inputs_known),
    Rung(
        "import", imports, todo="Correct the entry of spec.toml, or what the file does when it is imported."
    ),
    Rung("parameters", parameters, needs="import"),
    Rung(
        "training", trains, needs="import", todo="The traceback of a run shows where: uss-bench run --debug."
    ),
    Rung("no labels", no_labels, needs="training"),
    Rung("curves", curves, needs="training"),
    Rung("checkpoints", checkpoints, needs="training"),
    Rung(
        "shapes", shapes, needs="training", todo="embed gets the inputs of spec.toml; classify gets a code."
    ),
    Rung("finite", finite, needs="shapes"),
    Rung("clusters", respects_clusters, needs="shapes"),
    Rung("pointwise", pointwise, needs="shapes"),
    Rung("repeatable", repeatable, needs="shapes"),
    Rung("single images", single_images, needs="repeatable"),
    Rung("saved state", saved_state, needs="repeatable", todo="load_state_dict must build what it fills."),
    Rung("same seed", same_seed, needs="training"),
    Rung("other seed", other_seed, needs="training"),
    Rung("K = 1", one_cluster, needs="shapes", todo="K = 1 is allowed: every pixel is in cluster 0."),
    Rung("one image", one_image, needs="shapes"),
    Rung(
        "odd sizes", odd_sizes, needs="shapes", todo="Codes need not be square: read h and w from the tensor."
    ),
    Rung(
        "GPU", devices_agree, needs="shapes", todo="Put every tensor on ctx.device, or on that of its input."
    ),
    Rung("whole run", whole_run, needs="finite"),
)
