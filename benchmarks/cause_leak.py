"""What the label gradient of CAUSE's released third phase is worth. **This script learns from labels.**

::

    python benchmarks/cause_leak.py [--dataset toy3] [--seeds 3] [--out leak.json] [--small]

The released third phase trains a linear probe with ground truth beside the cluster probe, and does not cut
its gradient: it reaches the head that is evaluated. Here the first two phases are those of the method
`cause`, which sees no label. From the head that they end with, the third phase is run three times, on the
same batches:

- ``cut``: the linear probe sees a detached code, and the head stays as it is: what the method does;
- ``leak``: as released, the linear probe's gradient trains the head;
- ``leak, wrong labels``: the same with every training image's labels taken from another image, which shows
  whether it is the labels that help, and not the longer training.

The result is a table, and a JSON file that is no record: it states `labels_used`, and no board reads it.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import arguments, begin, machine, method_module
from tabulate import tabulate
from torch import Tensor, nn

from uss_bench.contracts import IGNORE
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.scoring import score_under
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

LABELS_USED = ["the ground truth of the training images trains the evaluated head"]
ARMS = ("cut", "leak", "leak, wrong labels")
Targets = Callable[[Sequence[int]], Tensor]


def third_phase(method, ctx: RunContext, targets: Targets, classes: int, *, leak: bool):  # type: ignore[no-untyped-def]
    """Return a copy of a trained `method` after the third phase, and the labels' gradient in its first step.

    Args:
        targets: labels of training items, int64 (B, side, side).
        leak: whether the gradient of the linear probe reaches the head.

    Returns:
        The copy, and the norm of the gradient of the cross entropy by the name of each of the head's tensors.
    """
    cause = method_module("cause")
    seed_everything(ctx.seed)
    learned = copy.copy(method)
    net = learned.net = copy.deepcopy(method.net).requires_grad_()
    net.probe.data.copy_(cause.uniform(learned.clusters, learned.dim, ctx.generator("probe"), ctx))
    linear = nn.Conv2d(learned.dim, classes, 1).to(ctx.device)
    trained = [*net.head.parameters(), *linear.parameters()]
    by_labels = torch.optim.Adam(trained, lr=learned.lr, weight_decay=learned.weight_decay)
    by_modularity = torch.optim.Adam([net.probe], lr=learned.lr)
    features, draws = ctx.features(["tokens"]), ctx.generator("places of the probe")
    batches = ShuffledBatches(len(features), learned.batch_size, ctx.generator("batches of the probe"))
    norms: dict[str, float] = {}
    net.head.train()
    for step in range(learned.steps_probe):
        chosen = next(batches)
        code = net.head(net.standardizer(features.batch(chosen)["tokens"]))
        loss = cause.modularity_loss(net.probe, cause.take(code, cause.pooled(code, learned.pooling, draws)))
        target = targets(chosen).to(code.device)
        logits = linear(code if leak else code.detach())
        logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
        loss_of_labels = F.cross_entropy(logits, target, ignore_index=IGNORE)
        for optimizer in (by_labels, by_modularity):
            optimizer.zero_grad(set_to_none=True)
        loss_of_labels.backward()
        if step == 0:
            norms = {
                name: 0.0 if one.grad is None else float(one.grad.norm())
                for name, one in net.head.named_parameters()
            }
        loss.backward()
        nn.utils.clip_grad_norm_(trained, learned.clip)
        if learned.halve_probe_every and step and step % learned.halve_probe_every == 0:
            for optimizer in (by_labels, by_modularity):
                optimizer.param_groups[0]["lr"] /= 2
        by_labels.step()
        by_modularity.step()
    net.eval().requires_grad_(False)
    return learned, norms


def targets_of(setup: Setup, *, wrong: bool) -> Targets:
    """Return the labels of training items as a function of their indices, or those of other images."""
    items, labels = setup.training_items(), setup.train_labels()
    order = np.random.default_rng(0).permutation(len(labels)) if wrong else np.arange(len(labels))

    def targets(rows: Sequence[int]) -> Tensor:
        maps = [
            items.transform(labels.label(int(order[items.source(row)[0]])), row, "nearest") for row in rows
        ]
        return torch.from_numpy(np.stack(maps).astype(np.int64))

    return targets


def scores(setup: Setup, store: FeatureStore, method) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Return accuracy and mIoU in percent, clusters matched with classes, without a CRF."""
    items = setup.evaluation_items()
    evaluator = Evaluator(
        method_name="cause",
        inputs=setup.inputs,
        items=items,
        features=store.open(items, setup.facets),
        labels=setup.test_labels,
        n_classes=len(setup.dataset.classes),
        protocol=setup.protocol,
        alpha=setup.alpha,
        pool=None,
        device=store.device,
    )
    found = score_under(evaluator.evaluate(method).raw, setup.protocol)
    return 100 * found.accuracy, 100 * found.miou


def measure(
    asked: CellSpec, seed: int, folder: Path, device: torch.device
) -> dict[str, tuple[float, float, dict[str, float]]]:
    """Return accuracy, mIoU and the labels' gradient of each of `ARMS`, after a training without labels."""
    setup = resolve(asked, Registry())
    store = FeatureStore(folder / "features", setup.backbone.to(device), device=device)
    seed_everything(seed)
    method, scratch = setup.make_method(), folder / f"seed-{seed}"
    scratch.mkdir()
    context = RunContext(
        store=store,
        seed=seed,
        scratch=scratch,
        clock=Clock(),
        method=method,
        items=setup.training_items(),
    )
    method.train(setup.train_images, context)
    found = {}
    for arm in ARMS:
        targets = targets_of(setup, wrong="wrong" in arm)
        learned, norms = third_phase(method, context, targets, len(setup.dataset.classes), leak=arm != "cut")
        found[arm] = (*scores(setup, store, learned), norms)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dataset", default="toy3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60, help="images of each split")
    parser.add_argument("--steps", type=int, default=100, help="of the first and the third phase, each")
    parser.add_argument("--side", type=int, default=160, help="of training and test images, pixels")
    parser.add_argument("--out", type=Path, help="where a JSON file goes")
    options = parser.parse_args()
    if options.small:
        options.seeds, options.limit, options.steps, options.side = 1, 6, 2, 64
    begin(options)
    asked = CellSpec(
        method="cause",
        dataset=options.dataset,
        limit=options.limit,
        training={"side": options.side},
        protocol=f"stego320@2[eval_side={options.side},crf=none]",
        params={"steps_codebook": options.steps, "steps": 2 * options.steps, "steps_probe": options.steps},
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(asked, seed, Path(folder), device) for seed in range(options.seeds)]

    print(f"labels_used: {LABELS_USED[0]}. This is no result of a method, and is never ranked.\n")
    rows = []
    for arm in ARMS:
        accuracy, miou = ([one[arm][i] for one in found] for i in (0, 1))
        largest = max(max(one[arm][2].values()) for one in found)
        each = " ".join(f"{one:.1f}" for one in accuracy)
        rows.append([arm, statistics.mean(accuracy), statistics.mean(miou), each, largest])
    seeds = f"means of seeds 0 to {options.seeds - 1}"
    print(f"Third phase of CAUSE on {options.dataset}, {options.limit} images, {seeds}, {machine()}\n")
    headers = ("third phase", "Acc", "mIoU", "Acc by seed", "largest gradient of labels on the head")
    print(tabulate(rows, headers=headers, floatfmt=("", ".1f", ".1f", "", ".1e")))
    names = found[0]["leak"][2]
    print("\nNorm of the gradient of the label loss on the evaluated head, first step of seed 0\n")
    for name, norm in names.items():
        print(f"  {name:30} leak {norm:.1e}   cut {found[0]['cut'][2][name]:.1e}")
    if options.out:
        arms = {arm: [{"accuracy": a, "miou": m} for a, m, _ in (one[arm] for one in found)] for arm in ARMS}
        content = {
            "labels_used": LABELS_USED,
            "ranked": False,
            "dataset": options.dataset,
            "third_phase": arms,
        }
        content |= {"label_gradient_on_head": {arm: found[0][arm][2] for arm in ARMS}}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
