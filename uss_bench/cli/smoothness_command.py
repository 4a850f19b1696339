"""``uss-bench smoothness``: SmooSeg's shifts judged without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from uss_bench.cli.experiment import request_options
from uss_bench.cli.options import common, out_option
from uss_bench.registry import Registry

if TYPE_CHECKING:
    from uss_bench.contracts import Features
    from uss_bench.setup import Setup
    from uss_bench.smoothness import Degree

_METHOD = "smooseg"

EPILOG = """\b
Examples:
  uss-bench smoothness --dataset toy3
  uss-bench smoothness --dataset folder --root photos --set clusters=8 --set b_inter=0.6 \\
                       --backbone vit_small_patch14_dinov2
"""


@click.command("smoothness", epilog=EPILOG, short_help="Judge SmooSeg's shifts without labels.")
@request_options
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the run to look for.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@out_option("Where records lie and the figure goes. Default: results.")
@common
def command(registry: Registry, request: dict[str, Any], seed: int, device: str, out: Path) -> None:
    """Show which pairs of patches SmooSeg pulls together at its shifts, from frozen features alone.

    With --set b_intra=… and --set b_inter=… it tries other shifts. If SmooSeg has run with these very
    options, the smoothness degree of what it learned is shown as well (SmooSeg, Fig. 8).
    """
    registry.dataset(request["dataset"])

    import torch

    from uss_bench.device import pick_device
    from uss_bench.geometry import Items
    from uss_bench.monitoring import sample_indices
    from uss_bench.nn import Standardizer
    from uss_bench.setup import Request, resolve
    from uss_bench.smoothness import closeness, margin
    from uss_bench.smoothness_plot import save_figure

    setup = resolve(Request(method=_METHOD, **request), registry)
    torch_device = pick_device(device)
    store = setup.open_store(torch_device)
    items = Items.for_training(
        setup.train_images,
        setup.protocol,
        dataset_five_crop=setup.dataset_spec.five_crop,
        patch=setup.backbone.patch,
    )
    features = store.open(items, setup.spec.facets)
    params = setup.params
    chosen = sample_indices(len(items))
    standardizer = Standardizer(features[0]["tokens"].shape[0])
    if params["standardize"]:
        standardizer.fit(features.moments("tokens"))
    with torch.no_grad():
        images = {i: standardizer(features[i]["tokens"][None])[0].flatten(1) for i in chosen}
    half = -(-len(chosen) // 2)
    partners = [*chosen[half:], *chosen[:half]]  # far apart, so that no crop meets one of its own image
    offset = params["global_offset"]
    within = closeness(images, [(i, i) for i in chosen], params["b_intra"], global_offset=offset)
    across = closeness(
        images, list(zip(chosen, partners, strict=True)), params["b_inter"], global_offset=offset
    )
    rows = [
        (name, f"{kind.mean:+.3f}", f"{kind.shift:+.3f}", f"{kind.pulled:.1%}")
        for name, kind in (("within images", within), ("across images", across))
    ]
    click.echo(f"{setup.dataset.name} · {setup.backbone.name} · standardize={params['standardize']}\n")
    click.echo(tabulate(rows, headers=["closeness W", "mean", "shift b", "pairs pulled together (W > b)"]))
    gap = margin(within, across)
    cheaper = "apart" if gap > 0 else "alike"
    click.echo(
        f"\nMargin {gap:+.3f} (sum of shifts less sum of means): labelling all patches {cheaper} is the "
        "cheaper extreme."
    )
    if gap <= 0:
        click.echo(
            f"Expect a collapse; b_inter above {params['b_inter'] - gap:.2f} lifts the margin above 0."
        )
    degree = _degree(setup, seed, out, features, chosen, torch_device)
    if degree is None:
        click.echo("SmooSeg has no record with these options here: no smoothness degree.")
    else:
        click.echo(
            f"Smoothness degree within images: {degree.smooth:.1%} of pairs below 0.1, {degree.apart:.1%} "
            f"above 0.9; bimodality {degree.bimodality:.2f}."
        )
    target = out / setup.dataset.name / f"smoothness-{setup.backbone.name}.png"
    save_figure(within, across, degree, f"{setup.dataset.name}, {setup.backbone.name}", target)
    click.echo(f"figure  {target}")


def _degree(
    setup: Setup, seed: int, out: Path, features: Features, chosen: list[int], device: Any
) -> Degree | None:
    """Return the smoothness degree of the run of this very cell, if there is one."""
    import torch
    from safetensors.torch import load

    from uss_bench.record_files import read_record, read_state, record_path
    from uss_bench.smoothness import smoothness_degree

    path = record_path(out, setup.cell(seed))
    if not path.exists():
        return None
    method = setup.make_method()
    state = load(read_state(path, read_record(path)))
    method.load_state_dict({name: value.to(device) for name, value in state.items()})
    with torch.no_grad():
        logits = (method.classify(method.embed(features.batch([i])))[0].flatten(1).cpu() for i in chosen)
        return smoothness_degree(torch.softmax(one / setup.params["tau"], dim=0) for one in logits)
