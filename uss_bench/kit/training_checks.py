"""The checks of training: its loops, its seeds, and whether a killed run ends the same when it is resumed."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load

from uss_bench.errors import UssBenchError
from uss_bench.kit.checks import Finding, check, failed, note, ok, skipped
from uss_bench.kit.formula import value_of
from uss_bench.kit.observing import Killed, ObservedLoop
from uss_bench.kit.prediction_checks import logits_of
from uss_bench.kit.trained import difference
from uss_bench.kit.trial import Trial

_LONG = 20.0
"""Seconds of one training beyond which its author should shorten it for checks."""
_ENDS = 4
"""Steps at either end of a loop that are interrupted, one after another."""
_INTERRUPTIONS = 30
"""Interruptions of one training at most."""


@check(needs="inputs", todo="The traceback of a run shows where: uss-bench run --debug.")
def training(trial: Trial) -> Finding:
    size = sum(value.numel() for value in load(trial.trained.state).values())
    chosen = "".join(f" {name}={value}" for name, value in trial.chosen.items())
    return ok(f"on {trial.backbone.name}{',' * bool(chosen)}{chosen}; its state is {size:,} numbers")


@check(needs="training", todo="Formulas of [check] are of parameters and `items`, the training images.")
def loops(trial: Trial) -> Finding:
    """Every loop runs, does not take long, and takes the batches and images that the spec states."""
    found, spec = list(trial.trained.context.loops.values()), trial.spec.check
    if not found:
        return ok("it has no loop over ctx.steps: a run that is killed begins again")
    todo = "Set parameters in the table [check] params of spec.toml, so that all of training takes seconds."
    if idle := [loop.label for loop in found if not loop.steps]:
        return failed(f"loop '{idle[0]}' runs no step", todo)
    stated = {"batches": spec.batches, "images": spec.images}
    names = {**trial.setup().params, "items": len(trial.setup().training_items())}
    for what, formula in stated.items():
        expected = value_of(formula, names) if formula else None
        counted = sum(getattr(loop, what) for loop in found)
        if formula and counted != expected:
            text = f"it takes {counted} {what}, and spec.toml states {formula} = {expected}"
            return failed(
                text, f"Correct `{what}` of [check], or the loop; partners of a batch's items count."
            )
    text = "; ".join(map(_describe, found))
    if any(loop.seconds > _LONG for loop in found):
        return note(text, todo)
    if trial.trained.lines and not spec.params:
        return note(
            f"{text}; passed over: {', '.join(trial.trained.lines[:6])}", f"If that is a phase: {todo}"
        )
    if not all(stated.values()):
        return note(text, 'State what a run takes: [check] batches = "steps", images = "steps * batch_size".')
    return ok(f"{text}: as spec.toml states")


def _describe(loop: ObservedLoop) -> str:
    counts = f", {loop.images} images, {loop.optimizer_steps} optimizer steps" * bool(loop.batches)
    return f"'{loop.label}' {loop.steps} steps{counts}, {loop.seconds:.1f} s"


@check(needs="training")
def same_seed(trial: Trial) -> Finding:
    moved = difference(trial.trained, trial.train())
    if not moved:
        return ok("two runs with seed 0 learn the same bytes")
    text = f"two runs with seed 0 differ: {moved}"
    if not difference(trial.train(anew=True), trial.train(anew=True)):
        return failed(
            f"{text}; with its code imported again they do not", "Keep nothing in the module or the class."
        )
    return failed(
        text, "Draw from ctx.generator(purpose), or from torch's global generator, and nowhere else."
    )


@check(needs="training")
def other_seed(trial: Trial) -> Finding:
    if trial.train(seed=1).state != trial.trained.state:
        return ok("seed 1 learns something else than seed 0")
    return note("seed 1 learns the same as seed 0: fine for a method that draws nothing")


@check(needs="same seed")
def resume(trial: Trial) -> Finding:
    """Killed in every loop, and once more after the last, it ends the same, byte for byte."""
    if not trial.trained.context.loops:
        return skipped("it has no loop over ctx.steps")
    places = _spread(trial.trained.context.places)
    with tempfile.TemporaryDirectory(dir=trial.folder) as folder:
        try:
            for place in places:
                with contextlib.suppress(Killed):
                    trial.train(scratch=Path(folder), anew=True, kill=place)
            ends = [trial.train(scratch=Path(folder), anew=True) for _ in range(2)]
        except UssBenchError as error:
            todo = "A resumed train() runs from its top, with loops that are shorter or empty."
            return failed(f"resumed: {error.what}", todo)
    if moved := [text for end in ends if (text := difference(trial.trained, end))]:
        loops = trial.train(diagnose=True).context.loops.values()
        lost = [f"{', '.join(loop.changed)} in '{loop.label}'" for loop in loops if loop.changed]
        return failed(
            f"killed and resumed, it ends differently: {moved[0]}"
            + f"; changed and not kept: {'; '.join(lost)}" * bool(lost),
            "Name in ctx.steps(total, **keep) all that a step reads and changes; change tensors in place.",
        )
    return ok(f"killed {len(places)} times, in every loop, it ends the same, byte for byte")


def _spread(places: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the first and the last steps of every loop, and of many loops some."""
    steps = Counter(loop for loop, _ in places)
    kept = [(loop, step) for loop, step in places if not _ENDS < step <= steps[loop] - _ENDS]
    return kept[:: 1 + len(kept) // _INTERRUPTIONS]


@check(needs="finite")
def one_image(trial: Trial) -> Finding:
    """A single training image trains the method, or is refused in words and not by a crash."""
    try:
        trained = trial.train(trial.setup(limit=1))
    except UssBenchError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, ValueError):
            return note(f"it cannot be trained on one image, and states why: {cause or error.what}")
        return failed(error.what, "Raise ValueError in plain words, or do without what one image lacks.")
    if not torch.isfinite(logits_of(trained.method, trial.batch)).all():
        return failed("trained on one image it predicts NaN", "Look for a deviation or a mean over nothing.")
    return ok("it can be trained on one image")


CHECKS = (training, loops, same_seed, other_seed, resume)
