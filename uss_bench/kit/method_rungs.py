"""The rungs of a method: what `uss_bench.contracts.Method` promises, looked at one by one."""

from __future__ import annotations

import re

import torch

from uss_bench.errors import UsageError, UssBenchError
from uss_bench.kit.ladder import Rung, Verdict, failed, note, ok, skipped
from uss_bench.kit.prediction_rungs import (
    devices_agree,
    finite,
    logits_of,
    odd_sizes,
    pointwise,
    repeatable,
    saved_state,
    shapes,
    shown,
    single_images,
)
from uss_bench.kit.scenes import CLASSES
from uss_bench.kit.signatures import check_signature
from uss_bench.kit.trial import Trial
from uss_bench.params import check_least, check_options

_CALLS = ("train", "embed", "classify", "state_dict", "load_state_dict")
_INPUT = re.compile(r"image|aux:[^:]+|tokens|cls|cls_attention|attention|(keys|queries|values)@[1-9]\d*")


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
            check_least(preset.params, trial.spec.minimum, f"preset '{preset.name}'")
        except UsageError as error:
            return failed(error.what, "Correct the preset in spec.toml.")
    if unknown := sorted(trial.spec.minimum.keys() - trial.known):
        return failed(f"`minimum` names no parameter: {', '.join(unknown)}", "Correct it in spec.toml.")
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


def respects_clusters(trial: Trial) -> Verdict:
    if "clusters" not in trial.known:
        return skipped("the method has no parameter 'clusters'")
    for clusters in (len(CLASSES), 2 * len(CLASSES) + 1):
        trained = trial.train(trial.setup(clusters=clusters))
        found = logits_of(trained.method, trial.batch()).shape[1]
        if found != clusters:
            text = f"clusters={clusters} gave logits of {found} clusters"
            return failed(text, "K is the second axis of the logits, also of clusters that stay empty.")
    return ok(f"logits have as many clusters as was asked for ({len(CLASSES)}, {2 * len(CLASSES) + 1})")


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
    logits = logits_of(trial.train(trial.setup(clusters=1)).method, trial.batch())
    if logits.shape[1] != 1 or not torch.isfinite(logits).all():
        return failed(f"with clusters=1 the logits are {shown(logits)}, or not finite", "K = 1 is allowed.")
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
    if not torch.isfinite(logits_of(trained.method, trial.batch())).all():
        return failed("trained on one image it predicts NaN", "Look for a deviation or a mean over nothing.")
    return ok("it can be trained on one image")


def whole_run(trial: Trial) -> Verdict:
    record = trial.whole_run().record
    assert record.last is not None
    used = f"{record.last.raw.clusters_used} of {record.clusters or 'its'} clusters used"
    return ok(f"train, predict, CRF, match, score and record; {used}")


def _clusters(trial: Trial) -> int | None:
    """Return the K that the labelled problem gives, to ask for it where there are no labels."""
    return trial.setup().params["clusters"] if "clusters" in trial.known else None


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
