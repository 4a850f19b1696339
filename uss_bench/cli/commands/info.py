"""``uss-bench info``: a page about one method, dataset, backbone, protocol or study."""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from uss_bench.cli.options import common
from uss_bench.cli.output.parameter_docs import parameter_docs
from uss_bench.cli.output.tables import table
from uss_bench.errors import UsageError, blame, did_you_mean
from uss_bench.experiment.studies import Study, known_studies
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import (
    INGREDIENTS,
    KINDS,
    WEIGHTS_SUFFIXES,
    BackboneSpec,
    DatasetSpec,
    MethodSpec,
    Resources,
    TrainingRow,
)
from uss_bench.protocol import (
    SUMMARIES,
    CrfParams,
    Protocol,
    TrainingGeometry,
    default_protocol,
    get_protocol,
    protocol_fields,
    protocol_names,
    shown,
)
from uss_bench.runtime.formatting import assignments

_WIDTH = 100


@click.command("info", short_help="Show all that is known of something by name.")
@click.argument("name")
@common
def command(registry: Registry, name: str) -> None:
    """Show all that is known of a method, dataset, backbone, protocol or study."""
    pages = [_plugin_page(registry.find(kind, name)) for kind in KINDS if name in registry.names(kind)]
    with contextlib.suppress(UsageError):
        pages.append(_protocol_page(get_protocol(name)))
    studies = known_studies(registry)
    if name in studies:
        pages.append(_study_page(studies[name]))
    if not pages:
        known = [*protocol_names(), *studies, *(known for kind in KINDS for known in registry.names(kind))]
        raise UsageError(f"There is nothing called '{name}'.", hint=did_you_mean(name, known))
    click.echo("\n\n".join(pages))


def _plugin_page(plugin: Plugin) -> str:
    spec = plugin.spec
    lines = [
        f"{click.style(spec.called(), bold=True)}  ({spec.group[:-1]} '{spec.name}', {plugin.origin})",
        *textwrap.wrap(_sentence(spec.summary), _WIDTH),
    ]
    facts: list[tuple[str, object]] = []
    if isinstance(spec, MethodSpec):
        if spec.paper:
            paper = spec.paper
            facts.append(
                ("paper", f"{paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.url}")
            )
        facts.append(("inputs", ", ".join(spec.inputs)))
        if spec.reads:
            facts.append(("training reads", ", ".join(spec.reads)))
        if spec.alpha is not None:
            facts.append(("alpha", f"{spec.alpha:g}, instead of the protocol's"))
        facts.append(("trains on", TrainingGeometry(**_training(spec.training)).describe()))
        facts.append(("reserves", _resources(spec.resources)))
        if spec.diagnosis is not None:
            facts.append(("diagnosis", f"{spec.diagnosis.summary}: uss-bench diagnose {spec.name}"))
        if spec.released is not None:
            facts.append(("checkpoints", f"{spec.released.source}: uss-bench import-state {spec.name} FILE"))
    elif isinstance(spec, DatasetSpec):
        facts += [
            ("get it", spec.obtain),
            ("trained on", f"split '{spec.train_split}'"),
            ("tested on", f"split '{spec.test_split}'"),
            (
                "backbone",
                f"{spec.default_backbone} unless --backbone names another"
                if spec.default_backbone
                else "none by default: --backbone names one",
            ),
        ]
    elif isinstance(spec, BackboneSpec):
        facts += [
            ("patch", f"{spec.patch} pixels; {_fitting(spec.patch)}" if spec.patch else ""),
            ("tokens", f"{spec.dim} channels" if spec.dim else ""),
            ("mean, std", f"{spec.mean}, {spec.std}" if spec.mean else ""),
            ("trained on", spec.trained_on),
            ("weights", spec.url),
            ("", _where_from(spec)),
            ("sha256", spec.sha256),
            ("positions", spec.positions and f"interpolated by the rule of {spec.positions}"),
            ("fixed", assignments(spec.params) if spec.params else ""),
            ("code", f"{spec.adapter}; see uss-bench info {spec.adapter}" if spec.adapter else ""),
        ]
    if isinstance(spec, MethodSpec | BackboneSpec):
        facts.append(("ingredients", "; ".join(INGREDIENTS[one] for one in spec.ingredients)))
    facts += [("source", spec.source), ("license", spec.license)]
    lines += ["", _facts(facts)]
    if isinstance(spec, DatasetSpec) and spec.splits:
        splits = [
            (one.name, f"{one.images:,}", "yes" if one.labeled else "no", one.note) for one in spec.splits
        ]
        lines += ["", table(splits, ["split", "images", "labels", ""], align="lr")]
    if isinstance(spec, DatasetSpec) and spec.layout:
        lines += ["", click.style("Files", bold=True), textwrap.indent(spec.layout.rstrip(), "  ")]
    if isinstance(spec, DatasetSpec) and spec.classes:
        rows = [
            (index, row.name, row.kind or "", "#{:02x}{:02x}{:02x}".format(*row.color))
            for index, row in enumerate(spec.classes)
        ]
        lines += ["", table(rows, ["class", "name", "kind", "color"], align="r")]
    if isinstance(spec, DatasetSpec) and spec.taxonomies:
        others = [(one.name, len(one.classes), one.note) for one in spec.taxonomies]
        lines += ["", table(others, ["taxonomy", "classes", ""], align="lr")]
    if not isinstance(spec, BackboneSpec):
        flag = "--set" if isinstance(spec, MethodSpec) else "--data"
        lines += ["", _options(plugin, flag, skip=0 if isinstance(spec, MethodSpec) else 1)]
    if isinstance(spec, MethodSpec) and any(one.when for one in spec.training):
        training = [(assignments(one.params), _conditions(one.when), one.note) for one in spec.training]
        lines += ["", table(training, ["--training", "applies to", ""], widths=[None, 40, 50])]
    if isinstance(spec, MethodSpec) and spec.defaults:
        defaults = [
            (
                assignments(one.params),
                "; ".join(f"{key} {', '.join(names)}" for key, names in one.unless.items()),
                one.note,
            )
            for one in spec.defaults
        ]
        headers = ["default that depends on the run", "unless", ""]
        lines += ["", table(defaults, headers, widths=[None, 40, 50])]
    if isinstance(spec, MethodSpec) and spec.presets:
        presets = [
            (
                preset.name,
                _conditions(preset.when) or "--preset only",
                assignments(preset.params),
            )
            for preset in spec.presets
        ]
        lines += ["", table(presets, ["preset", "applies to", "parameters"])]
    for note in spec.notes:
        lines += ["", *textwrap.wrap(note, _WIDTH, initial_indent="note  ", subsequent_indent="      ")]
    return "\n".join(lines)


def _training(rows: Sequence[TrainingRow]) -> dict[str, Any]:
    """Return the fields that hold for every run."""
    return {name: value for row in rows if not row.when for name, value in row.params.items()}


def _conditions(when: Mapping[Any, str | list[str]]) -> str:
    return "; ".join(
        f"{key} {names if isinstance(names, str) else ', '.join(names)}" for key, names in when.items()
    )


def _resources(resources: Resources) -> str:
    """Return what a launcher reserves for one run."""
    gpus = {0: "no GPU", 1: "1 GPU"}.get(resources.gpus, f"{resources.gpus} GPUs")
    return (
        f"{resources.cpus} cores, {gpus}, {resources.memory_gb:g} GB and {resources.minutes} minutes, for a "
        "run that is launched on a cluster"
    )


def _protocol_page(protocol: Protocol) -> str:
    docs = parameter_docs(Protocol) | {
        f"crf.{field}": text for field, text in parameter_docs(CrfParams).items()
    }
    rows = [(field, shown(value), docs.get(field, "")) for field, value in protocol_fields(protocol).items()]
    title = f"{click.style(protocol.id, bold=True)}  (protocol, hash {protocol.hash})"
    summary = textwrap.fill(_sentence(SUMMARIES[f"{protocol.name}@{protocol.version}"]), _WIDTH)
    example = f"--protocol '{protocol.name}@{protocol.version}[flip=false]'"
    change = f"A changed field makes another protocol, for a paired comparison: {example}."
    return f"{title}\n{summary}\n\n{table(rows, widths=[None, None, 64])}\n\n{change}"


def _where_from(spec: BackboneSpec) -> str:
    """Return where a backbone's weights come from."""
    if not spec.url:
        return ""
    if spec.url.endswith(WEIGHTS_SUFFIXES):
        return "downloaded on first use to where torch.hub keeps its checkpoints, or --weights FILE"
    return "fetched from the hub on first use, or --weights FILE"


def _fitting(patch: int) -> str:
    """Return which protocols fit a patch."""
    try:
        return f"{default_protocol(patch)} unless --protocol names another"
    except UsageError:
        return "no protocol of squares fits; full@2 does"


def _study_page(study: Study) -> str:
    plan = study.plan
    rows = [(row.label, assignments(row.params)) for row in plan.settings]
    example = f"uss-bench study {plan.name} --dataset NAME --dry-run"
    facts = [
        ("method", plan.method),
        ("paper", plan.paper),
        ("all settings", assignments(plan.params)),
        ("file", study.path),
        ("try", example),
    ]
    lines = [
        f"{click.style(plan.title, bold=True)}  (study '{plan.name}')",
        "",
        _facts(facts),
        "",
        table(rows, ["setting", "parameters"]),
    ]
    for note in plan.notes:
        lines += ["", *textwrap.wrap(note, _WIDTH, initial_indent="note  ", subsequent_indent="      ")]
    return "\n".join(lines)


def _options(plugin: Plugin, flag: str, *, skip: int) -> str:
    """Return the table of keyword options, with the docstrings that follow them in the source."""
    entry = plugin.load()
    minimum = plugin.spec.minimum if isinstance(plugin.spec, MethodSpec) else {}
    with blame(f"'{plugin.name}'", "stating its options"):
        parameters = list(inspect.signature(entry).parameters.values())[skip:]
        docs = parameter_docs(entry)
    rows = []
    for parameter in parameters:
        default = "needed" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
        if parameter.name in minimum:
            default += f" (≥ {minimum[parameter.name]:g})"
        rows.append((parameter.name, default, docs.get(parameter.name, "")))
    if not rows:
        return f"It takes no options ({flag})."
    return table(rows, [flag, "default", ""], widths=[None, None, 70])


def _facts(facts: Sequence[tuple[str, object]]) -> str:
    # Wrapped here and not by `table`, which breaks addresses and digests that are there to be copied.
    width = _WIDTH - 14
    rows = [
        (key, textwrap.fill(str(value), width, break_long_words=False, break_on_hyphens=False))
        for key, value in facts
        if value
    ]
    return table(rows)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
