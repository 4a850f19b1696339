"""Write the tables of docs/scale.md from the costs that were measured; with ``--check`` only compare.

The study is the one of DS²DL's Table 1, repeated: 13 methods, 3 datasets, 3 backbones, 5 seeds. Numbers of
images, steps and batches are the published ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from parts import table, update

from uss_bench.estimate.costs import installed_costs
from uss_bench.estimate.estimating import PHASES, CellSize, Estimate, Extraction, Phase, Range, estimate
from uss_bench.runtime.formatting import byte_size, duration

PAGE = Path(__file__).parent / "scale.md"
SEEDS = 5
EXAMPLE_RATE = 10e12
"""Operations per second that a device might sustain; no measurement."""


@dataclass(frozen=True)
class Data:
    name: str
    title: str
    train: int
    crops: int
    test: int
    clusters: int

    @property
    def items(self) -> int:
        """Training items: images, or their five crops."""
        return self.train * self.crops


@dataclass(frozen=True)
class Network:
    name: str
    title: str
    patch: int
    dim: int
    blocks: int
    eval_side: int
    train_side: int = 224
    prefix: int = 1
    """Tokens beside the patches: the class token."""

    def patches(self, side: int) -> int:
        return (side // self.patch) ** 2

    def macs(self, side: int) -> int:
        """Multiplications of one forward: patch embedding, and per block 12·T·D² + 2·T²·D."""
        tokens = self.patches(side) + self.prefix
        per_block = 12 * tokens * self.dim**2 + 2 * tokens**2 * self.dim
        return self.blocks * per_block + self.patches(side) * 3 * self.patch**2 * self.dim

    def item_bytes(self, side: int) -> int:
        """In float16, as they are stored."""
        return 2 * self.dim * self.patches(side)


DATA = (
    Data("cocostuff27", "COCO-Stuff-27", 97_702, 5, 2_175, 27),
    Data("cityscapes27", "Cityscapes-27", 2_975, 5, 500, 27),
    Data("potsdam3", "Potsdam-3", 4_545, 1, 855, 3),
)
NETWORKS = (
    Network("dino_vits8", "DINO ViT-S/8", 8, 384, 12, 320),
    Network("dino_vitb8", "DINO ViT-B/8", 8, 768, 12, 320),
    Network("dinov2_vitb14", "DINOv2 ViT-B/14", 14, 768, 12, 322),
)
STEPS = {
    "dino": ({"cocostuff27": 300, "cityscapes27": 300, "potsdam3": 300}, 32, 100),
    "stego": ({"cocostuff27": 5000, "cityscapes27": 5000, "potsdam3": 5000}, 16, 100),
    "smooseg": ({"cocostuff27": 8000, "cityscapes27": 3000, "potsdam3": 3000}, 32, 400),
    "ds2dl": ({"cocostuff27": 15000, "cityscapes27": 8000, "potsdam3": 4000}, 32, 400),
}
"""Steps per dataset, images per step, and steps between checkpoints, as the methods have them here."""
TITLES = {"dino": "DINO, k-means", "stego": "STEGO", "smooseg": "SmooSeg", "ds2dl": "DS²DL"}
ELSEWHERE = ("IIC", "MDC", "PiCIE", "TransFGU", "HP", "DepthG", "EAGLE", "OMH", "D&S++")
FORWARDS = {"stego": 2}
"""Forwards per image of a step where no feature is kept: STEGO's neighbors go through the backbone too."""


def cell_size(method: str, data: Data, network: Network) -> CellSize:
    steps, batch_size, every = STEPS[method]
    where = f"{data.name} {network.name}"
    side, eval_side = network.train_side, network.eval_side
    facets = ("tokens",)
    return CellSize(
        method=method,
        dataset=data.name,
        backbone=network.name,
        train_side=side,
        eval_side=eval_side,
        whole=False,
        refined=True,
        clusters=data.clusters,
        steps=steps[data.name],
        batch_size=batch_size,
        candidates=steps[data.name] // every + 1,
        images=data.test,
        extractions=(
            Extraction(f"{where} train", facets, side, data.items, network.item_bytes(side)),
            Extraction(f"{where} test", facets, eval_side, 2 * data.test, network.item_bytes(eval_side)),
        ),
    )


def study(method: str | None = None, network: Network | None = None) -> Estimate:
    """Estimate all cells of the methods that are here, or of one method or network."""
    sizes = [
        cell_size(one, data, backbone)
        for one in STEPS
        for data in DATA
        for backbone in NETWORKS
        if method in (None, one) and network in (None, backbone)
        for _ in range(SEEDS)
    ]
    return estimate(sizes, installed_costs(), device="cpu")


def cells_table() -> str:
    here = len(STEPS) * len(DATA) * len(NETWORKS) * SEEDS
    rows = [
        ("in uss-bench", len(STEPS), ", ".join(TITLES[one] for one in STEPS), here),
        (
            "not here",
            len(ELSEWHERE),
            ", ".join(ELSEWHERE),
            len(ELSEWHERE) * len(DATA) * len(NETWORKS) * SEEDS,
        ),
    ]
    rows.append(("together", sum(row[1] for row in rows), "", sum(row[3] for row in rows)))
    return table(("", "methods", "which", "cells"), rows, "lrlr")


def store_table() -> str:
    rows = []
    for data in DATA:
        for network in NETWORKS:
            one = cell_size("dino", data, network)
            train, test = one.extractions
            rows.append(
                (
                    *(data.title, network.title, f"{train.items:,}", f"{test.items:,}"),
                    *(f"{train.item_bytes / 1e3:,.0f} kB", f"{test.item_bytes / 1e3:,.0f} kB"),
                    f"{(train.bytes + test.bytes) / 1e9:,.1f} GB",
                )
            )
    total = study().store_bytes
    rows.append(("**together**", "", "", "", "", "", f"**{total / 1e9:,.0f} GB**"))
    headers = ("dataset", "backbone", "training items", "test items", "each", "each", "store")
    return table(headers, rows, "llrrrrr")


def backbone_table() -> str:
    """Return the work of the backbones: extracted once, and recomputed by every run."""
    rows = []
    totals = [0.0, 0.0]
    for network in NETWORKS:
        train, test = network.macs(network.train_side), network.macs(network.eval_side)
        once = sum(data.items * train + 2 * data.test * test for data in DATA)
        again = SEEDS * sum(
            FORWARDS.get(method, 1) * steps[data.name] * batch * train + 2 * data.test * test
            for method, (steps, batch, _) in STEPS.items()
            for data in DATA
        )
        totals = [totals[0] + once, totals[1] + again]
        rows.append(
            (
                *(network.title, f"{train / 1e9:.1f}", f"{test / 1e9:.1f}"),
                *(f"{2 * once / 1e18:.2f}", f"{2 * again / 1e18:.2f}"),
            )
        )
    rows.append(("**together**", "", "", *(f"**{2 * one / 1e18:.2f}**" for one in totals)))
    hours = [2 * one / (EXAMPLE_RATE * 3600) for one in totals]
    rate = f"{EXAMPLE_RATE / 1e12:.0f} TFLOP/s"
    rows.append((f"hours at {rate}, an example", "", "", *(f"{one:,.1f}" for one in hours)))
    sides = "GMAC, training item", "GMAC, test item"
    return table(
        ("backbone", *sides, "EFLOP, extracted once", "EFLOP, recomputed by every run"), rows, "lrrrr"
    )


def time_table() -> str:
    rows = []
    for network in NETWORKS:
        found = study(network=network)
        whole = "not measured" if found.unmeasured else duration(found.total.middle)
        rows.append((network.title, *(phase_time(found, phase) for phase in PHASES), whole))
    found = study()
    whole = f"**{duration(found.total.middle)}{' and more' * bool(found.unmeasured)}**"
    rows.append(("**together**", *(phase_time(found, phase) for phase in PHASES), whole))
    return table(("backbone", *PHASES, "sum"), rows, "lrrrrrr")


def method_table() -> str:
    """Return what one seed of every method takes once its features lie in the store."""
    rows = []
    for method in STEPS:
        for network in NETWORKS:
            cells = [
                estimate([cell_size(method, data, network)], installed_costs(), device="cpu") for data in DATA
            ]
            times = [
                "not measured"
                if set(found.unmeasured) - {"extract"}
                else duration(sum(found.seconds[phase].middle for phase in PHASES[1:]))
                for found in cells
            ]
            rows.append((TITLES[method], network.title, *times))
    return table(("method", "backbone", *(data.title for data in DATA)), rows, "llrrr")


def record_table() -> str:
    rows = []
    for method in STEPS:
        one = estimate([cell_size(method, DATA[0], NETWORKS[0])], installed_costs(), device="cpu")
        rows.append(
            (
                TITLES[method],
                study(method).cells,
                at_most(study(method).record_bytes),
                at_most(one.state_bytes),
            )
        )
    here, whole = study(), len(STEPS) + len(ELSEWHERE)
    cells = here.cells * whole // len(STEPS)
    rows.append(("**together**", here.cells, f"**{at_most(here.record_bytes)}**", ""))
    rows.append(
        (
            f"{whole} methods, if the others' are as large",
            cells,
            at_most(here.record_bytes, whole / len(STEPS)),
            "",
        )
    )
    return table(("method", "cells", "records, at most", "one trained state, ViT-S/8"), rows, "lrrr")


def at_most(sizes: Range | None, times: float = 1.0) -> str:
    return "not measured" if sizes is None else byte_size(sizes.high * times)


def phase_time(found: Estimate, phase: Phase) -> str:
    if phase not in found.seconds:
        return "not measured"
    return duration(found.seconds[phase].middle) + " and more" * (phase in found.unmeasured)


def basis() -> str:
    found = study()
    return f"{found.runs} runs on {' and '.join(found.machines)}."


PARTS: dict[str, Callable[[], str]] = {
    "cells": cells_table,
    "store": store_table,
    "backbone": backbone_table,
    "basis": basis,
    "time": time_table,
    "method": method_table,
    "records": record_table,
}


if __name__ == "__main__":
    sys.exit(update(PAGE, PARTS, "docs/scale.py"))
