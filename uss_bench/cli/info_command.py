"""``uss-bench info``: a page about one method, dataset, backbone, protocol or study."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from tabulate import tabulate

from uss_bench.cli.options import common
from uss_bench.cli.source_docs import parameter_docs
from uss_bench.errors import UsageError, blame, did_you_mean
from uss_bench.protocol import (
    SUMMARIES,
    CrfParams,
    Protocol,
    default_protocol,
    get_protocol,
    protocol_names,
)
from uss_bench.registry import Plugin, Registry
from uss_bench.specs import KINDS, WEIGHTS_SUFFIXES, BackboneSpec, DatasetSpec, MethodSpec, Resources
from uss_bench.studies import Study, known_studies

_WIDTH = 100


@click.command("info", short_help="Show all that is known of something by name.")
@click.argument("name")
@common
def command(registry: Registry, name: str) -> None:
    """Show all that is known of a method, dataset, backbone, protocol or study."""
    pages = [_plugin_page(registry.find(kind, name)) for kind in KINDS if name in registry.names(kind)]
    if name.partition("[")[0] in protocol_names():
        pages.append(_protocol_page(name))
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
        f"{click.style(spec.title, bold=True)}  ({spec.group[:-1]} '{spec.name}', {plugin.origin})",
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
        if spec.alpha is not None:
            facts.append(("alpha", f"{spec.alpha:g}, instead of the protocol's"))
        facts.append(("reserves", _resources(spec.resources)))
    elif isinstance(spec, DatasetSpec):
        facts += [
            ("get it", spec.obtain),
            ("trained on", f"split '{spec.train_split}'" + ", five crops of each image" * spec.five_crop),
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
            ("fixed", _assignments(spec.params) if spec.params else ""),
            ("code", f"{spec.adapter}; see uss-bench info {spec.adapter}" if spec.adapter else ""),
        ]
    facts += [("source", spec.source), ("licence", spec.licence)]
    lines += ["", _facts(facts)]
    if isinstance(spec, DatasetSpec) and spec.splits:
        splits = [
            (one.name, f"{one.images:,}", "yes" if one.labelled else "no", one.note) for one in spec.splits
        ]
        headers = ["split", "images", "labels", ""]
        lines += ["", tabulate(splits, headers=headers, colalign=("left", "right"), disable_numparse=True)]
    if isinstance(spec, DatasetSpec) and spec.layout:
        lines += ["", click.style("Files", bold=True), textwrap.indent(spec.layout.rstrip(), "  ")]
    if isinstance(spec, DatasetSpec) and spec.classes:
        rows = [
            (index, row.name, row.kind or "", "#{:02x}{:02x}{:02x}".format(*row.colour))
            for index, row in enumerate(spec.classes)
        ]
        lines += ["", tabulate(rows, headers=["class", "name", "kind", "colour"])]
    if not isinstance(spec, BackboneSpec):
        flag = "--set" if isinstance(spec, MethodSpec) else "--data"
        lines += ["", _options(plugin, flag, skip=0 if isinstance(spec, MethodSpec) else 1)]
    if isinstance(spec, MethodSpec) and spec.defaults:
        defaults = [
            (
                _assignments(one.params),
                "; ".join(f"{key} {', '.join(names)}" for key, names in one.unless.items()),
                one.note,
            )
            for one in spec.defaults
        ]
        headers = ["default that depends on the run", "unless", ""]
        lines += ["", tabulate(defaults, headers=headers, maxcolwidths=[None, 40, 50])]
    if isinstance(spec, MethodSpec) and spec.presets:
        presets = [
            (
                preset.name,
                ", ".join(f"{key} {value}" for key, value in preset.when.items()) or "--preset only",
                _assignments(preset.params),
            )
            for preset in spec.presets
        ]
        lines += ["", tabulate(presets, headers=["preset", "applies to", "parameters"])]
    for note in spec.notes:
        lines += ["", *textwrap.wrap(note, _WIDTH, initial_indent="note  ", subsequent_indent="      ")]
    return "\n".join(lines)


def _resources(resources: Resources) -> str:
    """Say what a launcher reserves for one run."""
    gpus = {0: "no GPU", 1: "1 GPU"}.get(resources.gpus, f"{resources.gpus} GPUs")
    return (
        f"{resources.cpus} cores, {gpus}, {resources.memory_gb:g} GB and {resources.minutes} minutes, for a "
        "run that is launched on a cluster"
    )


def _protocol_page(name: str) -> str:
    protocol = get_protocol(name)
    docs = parameter_docs(Protocol) | {
        f"crf.{field}": text for field, text in parameter_docs(CrfParams).items()
    }
    values: dict[str, Any] = msgspec.structs.asdict(protocol)
    crf = msgspec.structs.asdict(values.pop("crf"))
    values |= {f"crf.{field}": value for field, value in crf.items()}
    rows = [
        (field, "–" if value is None else msgspec.json.encode(value).decode().strip('"'), docs.get(field, ""))
        for field, value in values.items()
        if field not in ("name", "version")
    ]
    title = f"{click.style(protocol.id, bold=True)}  (protocol, hash {protocol.hash})"
    summary = textwrap.fill(_sentence(SUMMARIES[name.partition("[")[0]]), _WIDTH)
    table = tabulate(rows, tablefmt="plain", maxcolwidths=[None, None, 64], disable_numparse=True)
    example = f"--protocol '{protocol.name}@{protocol.version}[flip=false]'"
    change = f"A changed field makes another protocol, for a paired comparison: {example}."
    return f"{title}\n{summary}\n\n{table}\n\n{change}"


def _where_from(spec: BackboneSpec) -> str:
    """Say what happens to get a backbone's weights."""
    if not spec.url:
        return ""
    if spec.url.endswith(WEIGHTS_SUFFIXES):
        return "downloaded on first use to where torch.hub keeps its checkpoints, or --weights FILE"
    return "fetched from the hub on first use, or --weights FILE"


def _fitting(patch: int) -> str:
    """Say which protocols fit a patch."""
    try:
        return f"{default_protocol(patch)} unless --protocol names another"
    except UsageError:
        return "no protocol of squares fits; full@1 does"


def _study_page(study: Study) -> str:
    plan = study.plan
    rows = [(row.label, _assignments(row.params)) for row in plan.settings]
    example = f"uss-bench study {plan.name} --dataset NAME --dry-run"
    facts = [
        ("method", plan.method),
        ("paper", plan.paper),
        ("all settings", _assignments(plan.params)),
        ("file", study.path),
        ("try", example),
    ]
    lines = [
        f"{click.style(plan.title, bold=True)}  (study '{plan.name}')",
        "",
        _facts(facts),
        "",
        tabulate(rows, headers=["setting", "parameters"], disable_numparse=True),
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
    return tabulate(rows, headers=[flag, "default", ""], maxcolwidths=[None, None, 70], disable_numparse=True)


def _assignments(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in params.items())


def _facts(facts: Sequence[tuple[str, object]]) -> str:
    # Wrapped here and not by tabulate, which breaks addresses and digests that are there to be copied.
    width = _WIDTH - 14
    rows = [
        (key, textwrap.fill(str(value), width, break_long_words=False, break_on_hyphens=False))
        for key, value in facts
        if value
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
