"""The checks of a backbone: what `uss_bench.contracts.Backbone` promises, one by one."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.evaluation.predictor import tensor_text
from uss_bench.kit.backbone_trial import GRIDS, BackboneTrial
from uss_bench.kit.checks import Check, Finding, check, failed, note, ok, skipped
from uss_bench.kit.facet_checks import FACET_CHECKS
from uss_bench.kit.options import check_signature
from uss_bench.kit.prediction_checks import SAME
from uss_bench.kit.watching import Operations
from uss_bench.plugins.specs import is_name

_PLACES = ((0, 0), (1, 5), (3, 2), (2, 4), (3, 6))
"""Patches of a 4×7 grid that are changed, to see where features change."""


@check(todo="Correct the spec.toml.")
def spec(trial: BackboneTrial) -> Finding:
    trial.registry.backbone(trial.spec.name)
    return ok(
        "spec.toml is valid" + f"; its code is that of '{trial.spec.adapter}'" * bool(trial.spec.adapter)
    )


@check(name="import", todo="Correct the entry of spec.toml, or what the file does when it is imported.")
def imports(trial: BackboneTrial) -> Finding:
    return check_signature(trial.entry, skip=1)


@check(name="loads", needs="import", todo="Pass a weights file: --weights FILE.")
def loads(trial: BackboneTrial) -> Finding:
    backbone, spec = trial.backbone, trial.spec
    if not is_name(backbone.name):
        return failed(f"its name is '{backbone.name}'", "Lower-case letters, digits, '-', '_' and '.'.")
    if not isinstance(backbone.patch, int) or backbone.patch < 1:
        return failed(f"its patch is {backbone.patch!r}", "The side of a patch is a whole number of pixels.")
    if spec.patch not in (0, backbone.patch):
        return failed(
            f"spec.toml states patch = {spec.patch}, and it has {backbone.patch}", "Correct one of them."
        )
    if (backbone.info.name, backbone.info.patch) != (backbone.name, backbone.patch):
        return failed(f"its info is of {backbone.info.name}, {backbone.info.patch}", "See BackboneInfo.")
    return ok(f"'{backbone.name}' with patches of {backbone.patch} pixels")


@check(needs="loads")
def digest(trial: BackboneTrial) -> Finding:
    """It is 64 hex digits, the same every time, and another when the weights or their use change."""
    before = trial.backbone.sha256
    todo = (
        "Make it of the weights and of all that decides a feature: uss_bench.backbones.weights.digest_state."
    )
    if not re.fullmatch("[0-9a-f]{64}", str(before)):
        return failed(f"sha256 is {before!r}, not 64 hex digits", todo)
    if trial.load().sha256 != before:
        return failed("loaded again it has another sha256", todo)
    images = trial.images(GRIDS[0])
    variants = {"other weights": trial.with_other_weights(), "another mean and std": trial.with_other_mean()}
    for how, changed in variants.items():
        if changed is None or changed.sha256 != before:
            continue
        if not torch.equal(changed(images, ["tokens"])["tokens"], trial(images)["tokens"]):
            return failed(f"with {how} it gives other features under the same sha256", todo)
    if variants["other weights"] is None:
        return skipped("64 hex digits; it takes no weights file, so that its weights cannot be changed")
    return ok("64 hex digits, and others when the weights are changed")


@check(needs="loads", todo="Take images of any sides that are multiples of the patch.")
def shapes(trial: BackboneTrial) -> Finding:
    channels, patch = set(), trial.backbone.patch
    for grid in GRIDS:
        tokens = trial(trial.images(grid)).get("tokens")
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.float32 or tokens.shape[2:] != grid:
            text = f"for {grid[0]}×{grid[1]} patches of {patch} pixels 'tokens' is {tensor_text(tokens)}"
            return failed(text, "tokens are float32 (B, D, H / patch, W / patch).")
        if not torch.isfinite(tokens).all():
            return failed("'tokens' hold NaN or infinity", "Look for a division by 0 where an image is flat.")
        channels.add(tokens.shape[1])
    stated = {trial.backbone.info.dim, trial.spec.dim or trial.backbone.info.dim}
    if channels != stated:
        return failed(
            f"'tokens' have {channels} channels, and info or spec.toml state {stated}", "Correct `dim`."
        )
    if patch > 1 and trial.offers("tokens", torch.zeros(1, 3, 4 * patch + 1, 4 * patch)):
        todo = "Raise UsageError, as uss_bench.backbones.checks.patch_grid does: trimming shifts every label."
        return failed("it accepts a side that is no multiple of its patch", todo)
    return ok(f"tokens of {channels.pop()} channels at square, wide and tall grids; other sides are refused")


@check(needs="shapes")
def frozen(trial: BackboneTrial) -> Finding:
    modules = trial.modules()
    training = {type(part).__name__ for module in modules for part in module.modules() if part.training}
    if training:
        return failed(f"in train mode: {', '.join(sorted(training)[:4])}", "Call .eval() in the constructor.")
    if any(parameter.requires_grad for module in modules for parameter in module.parameters()):
        return failed("its parameters require gradients", "Call .requires_grad_(False) in the constructor.")
    if trial(trial.images(GRIDS[0]))["tokens"].requires_grad:
        return failed("without grad=True features carry a graph", "Use torch.set_grad_enabled(grad).")
    return ok("in evaluation mode, and without gradients unless they are asked for")


@check(needs="shapes")
def repeatable(trial: BackboneTrial) -> Finding:
    images = trial.images(GRIDS[1])
    given = images.clone()
    with Operations() as seen:
        first = trial(given)["tokens"]
    if not torch.equal(given, images):
        return failed("it changes the images that it gets", "Normalize a copy: (images - mean) / std.")
    trial(1 - images)
    if not torch.equal(first, trial(images)["tokens"]):
        text = "the same images get other features when they come again" + f": {seen.cause()}" * bool(
            seen.cause()
        )
        return failed(text, "Call .eval(), draw nothing, and keep nothing from call to call.")
    return ok("the same images get the same features, whatever came in between")


@check(needs="repeatable")
def single_images(trial: BackboneTrial) -> Finding:
    images = trial.images(GRIDS[0], 3)
    with Operations() as seen:
        together = trial(images)["tokens"]
    alone = torch.cat([trial(one[None])["tokens"] for one in images])
    apart = float((together - alone).abs().max() / together.abs().max().clamp(min=1e-12))
    if apart > SAME:
        text = f"an image alone gets other features than in a batch, {apart:.2g} of the largest apart"
        if seen.halves:
            return note(f"{text}: {seen.cause()}", "Compute in float32: on CUDA the harness uses autocast.")
        text += f": {seen.cause()}" * bool(seen.cause())
        return failed(text, "Fix batch statistics with .eval(), and look at each image by itself.")
    return ok("an image gets the same features alone and in a batch")


@check(needs="repeatable")
def places(trial: BackboneTrial) -> Finding:
    """A changed patch changes the feature at its own place more than any other."""
    grid, side = GRIDS[1], trial.backbone.patch
    images, found = trial.images(grid, 1), []
    before = trial(images)["tokens"]
    for row, column in _PLACES:
        changed = images.clone()
        patch = changed[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        patch.copy_(torch.rand(patch.shape, generator=torch.Generator().manual_seed(0)))
        moved = (trial(changed)["tokens"] - before).norm(dim=1)[0]
        found.append(divmod(int(moved.argmax()), grid[1]))
    near = [
        max(abs(a - b) for a, b in zip(*pair, strict=True)) <= 1 for pair in zip(_PLACES, found, strict=True)
    ]
    if sum(near) <= len(near) // 2:
        text = f"changes at {_PLACES} of a {grid[0]}×{grid[1]} grid show at {tuple(found)}"
        return failed(
            text, "Patches come row by row; drop the class token and every register before reshaping."
        )
    return ok("a changed patch shows at its place")


@check(needs="shapes")
def gradient(trial: BackboneTrial) -> Finding:
    images = trial.images(GRIDS[0]).requires_grad_()
    tokens = trial.backbone(images, ["tokens"], grad=True)["tokens"]
    if not tokens.requires_grad:
        return failed("with grad=True features carry no graph", "Use torch.set_grad_enabled(grad).")
    (found,) = torch.autograd.grad(tokens.square().sum(), images)
    if not found.any() or not torch.isfinite(found).all():
        return failed(
            "with grad=True the gradient of images is zero or not finite", "Keep the graph unbroken."
        )
    return ok("with grad=True images get a gradient")


@check(name="GPU", needs="shapes", todo="to(device) moves everything, and returns the backbone.")
def devices_agree(trial: BackboneTrial) -> Finding:
    if not torch.cuda.is_available():
        return skipped("there is no GPU here")
    images, here = trial.images(GRIDS[0]), trial(trial.images(GRIDS[0]))["tokens"]
    there = trial.load().to(torch.device("cuda"))(images.cuda(), ["tokens"])["tokens"]
    alike = float(F.cosine_similarity(here.flatten(1), there.cpu().flatten(1)).min())
    if there.device.type != "cuda" or alike < 1 - SAME:
        return failed(
            f"on the GPU features have a cosine of {alike:.4f} with those of the CPU", devices_agree.todo
        )
    return ok("the GPU gives the features of the CPU")


BACKBONE_CHECKS: tuple[Check[BackboneTrial], ...] = (
    spec,
    imports,
    loads,
    digest,
    shapes,
    frozen,
    repeatable,
    single_images,
    places,
    *FACET_CHECKS,
    gradient,
    devices_agree,
)
