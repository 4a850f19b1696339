"""What is claimed, as a person reads it in the terminal: a table per dataset, with numbered notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import click

from uss_bench.claims.ledger import AVERAGE, Claim, experiment
from uss_bench.cli.output.tables import table

LEGEND = (
    "CRF: whether the prediction was refined. ckpt: whether it is the last checkpoint, or the best on the "
    "labels that it was then scored with. ?: the source does not say.",
    "said by: papers and their tables. *: the method is its own; +: it ran another's; no mark: it cites.",
)

_WIDTHS = [22, None, None, None, None, None, 21, 6]
_CRF = {True: "yes", False: "no", None: "?"}
_CHECKPOINT = {"selected": "labels", "last": "last", "unstated": "?"}
_MARK = {"own": "*", "re-run": "+", "cited": ""}


def claims_table(
    claims: Sequence[Claim], usual: Mapping[str, tuple[str, str]], titles: Mapping[str, str], width: int = 100
) -> str:
    """Return a table for each dataset, one row for each experiment and number, whoever prints it.

    Args:
        usual: by dataset, the test split and the protocol that need no note.
        titles: of datasets, by name.
        width: columns of the terminal, for the notes.
    """
    # A row of a linear probe has neither score of clusters, and its numbers stand in its note.
    scored = [claim for claim in claims if claim.scored or claim.metrics]
    stated = [claim for claim in claims if not (claim.scored or claim.metrics)]
    datasets = sorted(dict.fromkeys(claim.dataset for claim in scored), key=lambda name: name == AVERAGE)
    parts = [
        _section(
            titles.get(name, "Means over datasets" if name == AVERAGE else name),
            [claim for claim in scored if claim.dataset == name],
            usual.get(name, ("", "")),
            width,
        )
        for name in datasets
    ]
    parts += [_configurations(stated, width)] if stated else []
    parts += ["\n".join(textwrap.fill(line, width) for line in LEGEND)] if scored else []
    return "\n\n".join(parts)


def _section(title: str, claims: Sequence[Claim], usual: tuple[str, str], width: int) -> str:
    numbers: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    above = ""
    for same in _grouped(claims):
        first = same[0]
        notes = dict.fromkeys(note for claim in same for note in _notes(claim, usual))
        rows.append(
            (
                # Rows of one method stand together; its name once is enough.
                f"· {first.variant}" if first.variant else first.method if first.method != above else "",
                first.backbone or first.printed_backbone or ("" if first.dataset == AVERAGE else "?"),
                _CRF[first.crf],
                "" if first.dataset == AVERAGE else _CHECKPOINT[first.checkpoint],
                first.printed("accuracy"),
                first.printed("miou"),
                _said_by(same),
                " ".join(str(numbers.setdefault(note, len(numbers) + 1)) for note in notes),
            )
        )
        above = first.method
    headers = ["method", "backbone", "CRF", "ckpt", "Acc", "mIoU", "said by", ""]
    shown = table(rows, headers, align="llll..ll", widths=_WIDTHS)
    listed = [
        textwrap.fill(note, width, initial_indent=f"{number:3}  ", subsequent_indent="     ")
        for note, number in numbers.items()
    ]
    return "\n".join([click.style(title, bold=True), shown, *([""] if listed else []), *listed])


def _configurations(claims: Sequence[Claim], width: int) -> str:
    """Return what papers state of parameters without a score beside it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for claim in claims:
        for name, value in claim.params.items():
            rows.setdefault((claim.method, name, _said_by([claim])), []).append(f"{claim.dataset} {value:g}")
    shown = table(
        [(method, name, ", ".join(values), said) for (method, name, said), values in rows.items()],
        ["method", "parameter", "value", "said by"],
    )
    notes = [textwrap.fill(note, width) for note in dict.fromkeys(claim.note for claim in claims) if note]
    return "\n".join([click.style("Configurations", bold=True), shown, *([""] if notes else []), *notes])


def _grouped(claims: Iterable[Claim]) -> list[list[Claim]]:
    """Return claims that say the same of the same experiment together, a method's in one place."""
    groups: dict[bytes, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(experiment(claim), []).append(claim)
    return sorted(groups.values(), key=lambda group: _order(group[0]))


def _order(claim: Claim) -> tuple[object, ...]:
    return claim.method, bool(claim.variant), claim.backbone, claim.crf is False, -(claim.miou or 0.0)


def _said_by(claims: Iterable[Claim]) -> str:
    tables: dict[str, list[str]] = {}
    for claim in claims:
        name = claim.table.partition(",")[0].replace("Table ", "T")
        named = tables.setdefault(f"{claim.paper}{_MARK[claim.source]}", [])
        named += [name] if name not in named else []
    own_first = sorted(tables.items(), key=lambda item: not item[0].endswith("*"))
    return ", ".join(f"{paper} {' '.join(names)}" for paper, names in own_first)


def _notes(claim: Claim, usual: tuple[str, str]) -> list[str]:
    """Return the claim's notes; what is unusual about its split and protocol stands before the first."""
    split, protocol = usual
    notes = list(claim.notes)
    if claim.dataset != AVERAGE and (claim.split, claim.protocol) != usual:
        facts = [f"Split {claim.split or 'not stated'}"] if claim.split != split else []
        facts += [f"Protocol {claim.protocol or 'not stated'}"] if claim.protocol != protocol else []
        text = ", ".join(facts).replace(", P", ", p") + "."
        notes[:1] = [f"{text} {notes[0]}" if notes else text]
    if claim.metrics:
        more = ", ".join(f"{name} {value:.{claim.decimals}f}" for name, value in claim.metrics.items())
        more = more.replace("_", " ").replace("miou", "mIoU")
        notes.append(f"Also printed: {more}.")
    return notes
