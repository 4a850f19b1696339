"""The checks that no label reaches what is learned: the badges of `LabelAudit`.

The scenes lie on disk beside their labels, as datasets do. Training is watched for label files that it
opens, repeated where there are no labels, and repeated while every label is another one, on disk and in
the code that draws scenes.

A method with a supervised probe beside what is evaluated may offer ``label_loss(batch, labels)``: the loss
by which its probe would learn from labels, int64 (B, H, W), of the inputs that `Method.embed` gets. Nothing
but these checks calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uss_bench.kit.checks import Finding, check, failed, ok
from uss_bench.kit.prediction_checks import logits_of
from uss_bench.kit.scenes import CLASSES
from uss_bench.kit.trained import difference
from uss_bench.kit.trial import Trial
from uss_bench.kit.watching import Operations, address

_TODO = "Learn from what train() is given, and from nothing that is found by other ways."


@check(needs="same seed", badge="label_free")
def no_labels(trial: Trial) -> Finding:
    if opened := trial.trained.labels_opened:
        first = "/".join(Path(opened[0]).parts[-3:])
        return failed(f"{len(opened)} label files were opened while it trained, first {first}", _TODO)
    if moved := difference(trial.trained, trial.train(trial.setup(labeled=False))):
        return failed(f"without labels it learns something else: {moved}", _TODO)
    return ok("no label file was opened, and without labels it learns the same bytes")


@check(needs="same seed", badge="permuted_labels_equal")
def permuted_labels(trial: Trial) -> Finding:
    first, second = trial.trained, trial.relabeled
    moved = difference(first, second)
    predicted = [logits_of(one.method, trial.batch).numpy().tobytes() for one in (first, second)]
    if moved or predicted[0] != predicted[1]:
        text = f"with other labels on disk it learns something else: {moved or 'its predictions'}"
        return failed(text, _TODO)
    return ok("with other labels on disk it learns and predicts the same bytes")


@check(needs="same seed", badge="no_label_gradient")
def label_gradient(trial: Trial) -> Finding:
    evaluated = _evaluated(trial)
    if leaked := _leak(trial, evaluated):
        text = f"its label loss has a gradient of {leaked}, which is evaluated"
        return failed(text, "Detach what a label loss reads.")
    first = [(evaluated.get(address(one.parameter), ""), one) for one in trial.trained.gradients]
    if not any(name for name, _ in first):  # its state is a copy, or the average of what is trained
        first = [("a parameter", one) for _, one in first]
    others = [one.digest for one in trial.relabeled.gradients]
    for (name, one), other in zip(first, others, strict=False):
        if name and one.digest != other:
            text = f"with other labels on disk the gradient of {name} differs from {one.where} on"
            return failed(text, _TODO)
    if len(first) != len(others):
        return failed(
            f"with other labels on disk optimizers take {len(others)} gradients, not {len(first)}", _TODO
        )
    compared = sum(bool(name) for name, _ in first)
    return ok(f"labels change none of {compared} gradients of evaluated parameters")


def _evaluated(trial: Trial) -> dict[int, str]:
    """Return the parts of the state that prediction reads, by the address of their memory."""
    method = trial.trained.method
    with Operations() as operations:
        logits_of(method, trial.batch)
    state = {address(value): name for name, value in method.state_dict().items()}
    return {where: name for where, name in state.items() if where in operations.read}


def _leak(trial: Trial, evaluated: dict[int, str]) -> str:
    """Name an evaluated part of the state that the method's own label loss moves; '' for none."""
    label_loss = getattr(trial.trained.method, "label_loss", None)
    if label_loss is None:
        return ""
    size, side = len(next(iter(trial.batch.values()))), trial.setup().protocol.eval_side
    labels = torch.randint(len(CLASSES), (size, side, side), generator=torch.Generator().manual_seed(0))
    loss = label_loss(trial.batch, labels)
    leaves = [leaf for leaf in _leaves(loss.grad_fn) if address(leaf) in evaluated]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
    moved = (leaf for leaf, one in zip(leaves, gradients, strict=True) if one is not None and one.any())
    return next((evaluated[address(leaf)] for leaf in moved), "")


def _leaves(node: Any) -> Iterator[Tensor]:
    """Yield the tensors that a graph ends in."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [further for further, _ in node.next_functions]
            if hasattr(node, "variable"):
                yield node.variable


CHECKS = (no_labels, permuted_labels, label_gradient)
