"""The checks of a backbone's facets, and of what may be trained of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from uss_bench.backbones.facets import facet_shape, parse_facet
from uss_bench.contracts import BackboneInfo
from uss_bench.errors import UsageError
from uss_bench.evaluation.predictor import tensor_text
from uss_bench.kit.backbone_trial import GRIDS, BackboneTrial
from uss_bench.kit.checks import Finding, check, failed, ok
from uss_bench.kit.prediction_checks import SAME


@check(needs="repeatable", todo="See uss_bench.contracts.Backbone for the facets, and BackboneInfo.")
def facets(trial: BackboneTrial) -> Finding:
    info, images = trial.backbone.info, trial.images(GRIDS[1])
    known = _names(info)
    for unknown in ("token", "keys@0", f"keys@{info.blocks + 1}", f"keys@-{info.blocks + 1}", "keys@12.5"):
        if trial.offers(unknown, images):
            todo = "Raise UsageError for what it does not have: a method would train on something else."
            return failed(f"it accepts '{unknown}', and has {info.blocks} blocks", todo)
    given = trial(images, known)
    for name in known:
        value, facet = given[name], parse_facet(name, info)
        expected = facet_shape(facet, info, *images.shape[2:])
        if expected and value.shape != (len(images), *expected):
            return failed(
                f"'{name}' is {tensor_text(value)}, not B×{'×'.join(map(str, expected))}", facets.todo
            )
        if not torch.isfinite(value).all():
            return failed(f"'{name}' holds NaN or infinity", facets.todo)
        aliases = [name, f"{facet.kind}@{facet.block - info.blocks - 1}"] if facet.block else [name]
        for alias in aliases:
            if not torch.allclose(value, trial(images, [alias])[alias], rtol=SAME, atol=SAME):
                return failed(f"'{alias}' alone is not '{name}' among all facets", "Name each by its block.")
    blocks = [name for name in known if "@" in name]
    for one, other in itertools.combinations(blocks, 2):
        if given[one].shape == given[other].shape and torch.equal(given[one], given[other]):
            return failed(f"'{one}' and '{other}' are the same", "Return each facet from its own place.")
    for block in range(1, info.blocks + 1):
        of_block = {name.partition("@")[0]: given[name] for name in known if name.endswith(f"@{block}")}
        if fault := _contradiction(of_block):
            return failed(f"in block {block} {fault}", facets.todo)
    return ok(f"{', '.join(info.facets)}; {info.blocks} blocks")


def _contradiction(given: Mapping[str, Tensor]) -> str:
    """Describe how facets of one block contradict each other; '' where they do not."""
    attention, logits = given.get("attention"), given.get("attention_logits")
    derived: dict[str, Tensor] = {}
    if logits is not None:
        derived |= {"attention": logits.softmax(dim=3), "attention_logits_mean": logits.mean(dim=1)}
    if attention is not None:
        derived["attention_mean"] = attention.mean(dim=1)
        if _differ(attention.sum(dim=3), torch.ones(attention.shape[:3])):
            return "the rows of attention do not sum to 1"
    if attention is not None and "cls_attention" in given:
        grid = given["cls_attention"].shape[2:]
        derived["cls_attention"] = attention[:, :, 0, -grid.numel() :].unflatten(2, grid)
    for name, value in derived.items():
        if name in given and _differ(given[name], value):
            return f"{name} is not what follows from the attention of its block"
    if logits is not None and {"queries", "keys"} <= given.keys():
        queries, keys = (
            given[one].flatten(2).unflatten(1, (logits.shape[1], -1)) for one in ("queries", "keys")
        )
        products = (queries.mT @ keys / queries.shape[2] ** 0.5).mT
        of_patches = logits[..., -products.shape[2] :, -products.shape[3] :]
        # With rotary positions or normalized keys the logits are others.
        if not _differ(products, of_patches) and _differ(products, products.mT):
            return "queries are keys, and keys queries"
    return ""


def _differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@check(needs="shapes")
def trainable(trial: BackboneTrial) -> Finding:
    """A trainable copy begins as the backbone, and is one."""
    images, offered = trial.images(GRIDS[1]), []
    before = trial(images)["tokens"]
    for count in (1, None):
        try:
            part = trial.backbone.trainable(count)
        except UsageError:
            continue
        name = "the whole network" if count is None else "the last block"
        features = trial(images, [one for one in part.inputs if one != "image"])
        with torch.no_grad():
            tokens = part({"image": images, **features})
            if tokens.shape != before.shape or not torch.allclose(tokens, before, rtol=1e-3, atol=1e-3):
                return failed(f"{name} to train does not begin with the frozen tokens", "Copy the weights.")
            parameters = [one for one in part.parameters() if one.requires_grad]
            if not parameters:
                return failed(
                    f"{name} to train has no parameter with a gradient", "part.requires_grad_(True)"
                )
            for parameter in parameters:
                parameter.mul_(2)
        if not torch.equal(trial(images)["tokens"], before):
            return failed(f"training {name} changes the frozen backbone", "Return a copy: copy.deepcopy.")
        offered.append(name)
    return ok(" and ".join(offered) + " can be trained" if offered else "there is nothing to train")


def _names(info: BackboneInfo) -> list[str]:
    """Return all facets that a backbone states, of every block."""
    return [
        facet.replace("@i", f"@{block}")
        for facet in info.facets
        for block in (range(1, info.blocks + 1) if "@" in facet else (0,))
    ]


FACET_CHECKS = (facets, trainable)
