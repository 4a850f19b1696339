"""The ledger: every cell of a published table as a `Claim`, read from TOML and checked.

A file holds one paper: its tables, their rows as printed, and in each row the numbers by *conditions*.
Conditions say how a number was measured (dataset, split, backbone, protocol, CRF, parameters). They are
written once, in ``conditions.toml``, because papers cite each other's numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.errors import DataError, did_you_mean
from uss_bench.files.bundled import bundled_folders
from uss_bench.plugins.specs import Name, Paper, decode_toml
from uss_bench.protocol import TrainingGeometry
from uss_bench.results.scores import Metric
from uss_bench.runtime.formatting import number

ClaimSource = Literal["own", "re-run", "cited"]
ClaimedCheckpoint = Literal["last", "selected", "unstated"]

CONDITIONS = "conditions.toml"
AVERAGE = "average"
"""The dataset of a claim that is a mean over datasets."""


UNVERIFIED = "unverified"
"""The variant of numbers that are remembered and could not be read: nothing is compared with them."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of a published table: what a paper says a method reaches, and how it was measured."""

    paper: str
    """Key of the paper that prints the number, which is the name of its file."""
    table: str
    label: str
    """The row's label as printed."""
    method: str
    """Name of the method, that of our plugin where there is one."""
    variant: str = ""
    """How the method differs from the one that is published; empty for the method itself."""
    source: ClaimSource
    """Whose method it is: the paper's ``own``, or another's, which was ``re-run`` or only ``cited``."""
    dataset: str
    split: str = ""
    """Test split, by the name that our adapter gives it; a name it does not know where it has none such."""
    train_split: str = ""
    backbone: str = ""
    """Name of our card where there is one. It says what was used, which is not always what is printed."""
    printed_backbone: str = ""
    """The table's own word for the backbone."""
    crf: bool | None = None
    """Whether the prediction was refined; None where the source does not say."""
    checkpoint: ClaimedCheckpoint = "unstated"
    """``selected``: the best on the labels that the number was then measured on."""
    protocol: str = ""
    """One of our protocols, ``stego320@2[flip=false]``, or the name of one that we do not have."""
    accuracy: float | None = None
    """Percent; None where the table has none."""
    miou: float | None = None
    metrics: dict[str, float] = {}
    """What else the row prints."""
    decimals: int = 1
    """Printed decimals."""
    params: dict[str, Any] = {}
    """What is known of the method's parameters, by our names for them."""
    training: dict[str, Any] = {}
    """Where it was trained on other items than its released code makes: fields of `TrainingGeometry`."""
    notes: tuple[str, ...] = ()
    """What else must be known of the number: on how it was measured, on the row, on the table."""

    @property
    def note(self) -> str:
        return " ".join(self.notes)

    @property
    def scored(self) -> bool:
        return self.accuracy is not None or self.miou is not None

    def value(self, metric: Metric) -> float | None:
        found: float | None = getattr(self, metric)
        return found

    def printed(self, metric: Metric) -> str:
        """Return the number with the decimals that it has in print, or a dash."""
        return number(self.value(metric), self.decimals)


class Ledger(msgspec.Struct, frozen=True):
    """Papers by key, and their claims in the order of print."""

    papers: dict[str, Paper]
    claims: list[Claim]
    captions: dict[tuple[str, str], str]
    """By paper and table."""


class _Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dataset: str
    split: str = ""
    train_split: str = ""
    backbone: str = ""
    protocol: str = ""
    crf: bool | None = None
    checkpoint: ClaimedCheckpoint = "unstated"
    params: dict[str, Any] = {}
    training: dict[str, Any] = {}
    note: str = ""

    def __post_init__(self) -> None:
        msgspec.convert(self.training, TrainingGeometry)


_Printed = float | Literal["-"]


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    label: str
    method: Name
    values: Annotated[
        dict[str, Annotated[list[_Printed], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)
    ]
    """Printed numbers by conditions, in the order of the table's `columns`; a dash where it has a dash."""
    source: ClaimSource = "cited"
    variant: str = ""
    backbone: str = ""
    """As printed."""
    crf: bool | None = None
    """Overrides the conditions'."""
    params: dict[str, Any] = {}
    """Added to the conditions'."""
    note: str = ""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    caption: str
    rows: Annotated[list[_Row], msgspec.Meta(min_length=1)]
    columns: tuple[str, ...] = ("accuracy", "miou")
    """What the numbers of a row are: ``accuracy``, ``miou`` or any other metric; or ``params``, the value
    of the parameter that the row's label names."""
    decimals: int = 1
    note: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    paper: Paper
    tables: list[_Table]


def load_claims(folder: Path | None = None) -> list[Claim]:
    """Return all claims of the ledger in `folder`; of the one that comes with uss-bench by default.

    Raises:
        DataError: when a file is missing, is no TOML or does not fit, naming the file and the key.
    """
    return load_ledger(folder).claims


def load_ledger(folder: Path | None = None) -> Ledger:
    """Return papers and claims; see `load_claims`."""
    folder = built_in_folder() if folder is None else Path(folder)
    conditions: dict[str, _Conditions] = decode_toml(folder / CONDITIONS, dict[str, _Conditions])
    papers: dict[str, Paper] = {}
    claims: list[Claim] = []
    captions: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*.toml")):
        if path.name == CONDITIONS:
            continue
        file: _File = decode_toml(path, _File)
        papers[path.stem] = file.paper
        for table in file.tables:
            captions[path.stem, table.name] = table.caption
            for row in table.rows:
                where = f"{path}: row '{row.label}' of {table.name}"
                claims += _claims(path.stem, table, row, conditions, where)
    return Ledger(papers, claims, captions)


def claims_for(
    claims: Iterable[Claim],
    *,
    method: str,
    dataset: str,
    split: str | None = None,
    backbone: str | None = None,
    crf: bool | None = None,
    variants: bool = False,
) -> list[Claim]:
    """Return the scores that are claimed for a method, the method's own paper first.

    Args:
        split, backbone: None fits all.
        crf: None fits all. Claims that do not say whether there was a CRF fit both.
        variants: whether ablations and extensions of the method count as well.
    """
    found = [
        claim
        for claim in claims
        if (claim.method, claim.dataset) == (method, dataset)
        and claim.scored
        and split in (None, claim.split)
        and backbone in (None, claim.backbone)
        and (crf is None or claim.crf in (None, crf))
        and (variants or not claim.variant)
    ]
    return sorted(found, key=lambda claim: (bool(claim.variant), claim.source != "own"))


def distinct(claims: Iterable[Claim]) -> list[Claim]:
    """Return claims without those that say what an earlier one says of the same experiment."""
    unique: dict[bytes, Claim] = {}
    for claim in claims:
        unique.setdefault(experiment(claim), claim)
    return list(unique.values())


def experiment(claim: Claim) -> bytes:
    """Return what two claims share that say the same of the same experiment, whoever prints it."""
    essence = msgspec.structs.replace(
        claim, paper="", table="", label="", source="own", printed_backbone="", metrics={}, notes=()
    )
    return msgspec.json.encode(essence, order="sorted")


def built_in_folder() -> Path:
    """Return the folder of the ledger that comes with uss-bench."""
    return bundled_folders("uss_bench.claims.data", "leaderboards/claims")[0]


def _claims(
    paper: str, table: _Table, row: _Row, conditions: Mapping[str, _Conditions], where: str
) -> Iterable[Claim]:
    for name, cells in row.values.items():
        if name not in conditions:
            raise DataError(
                f"{where}: {CONDITIONS} has no conditions '{name}'.", hint=did_you_mean(name, conditions)
            )
        if len(cells) > len(table.columns):
            raise DataError(f"{where}: {len(cells)} numbers for {len(table.columns)} columns ('{name}').")
        given = conditions[name]
        printed = {
            column: float(cell)
            for column, cell in zip(table.columns, cells, strict=False)
            if not isinstance(cell, str)
        }
        stated = {row.label: printed.pop("params")} if "params" in printed else {}
        yield Claim(
            paper=paper,
            table=table.name,
            label=row.label,
            method=row.method,
            variant=row.variant,
            source=row.source,
            dataset=given.dataset,
            split=given.split,
            train_split=given.train_split,
            backbone=given.backbone,
            printed_backbone=row.backbone,
            crf=given.crf if row.crf is None else row.crf,
            checkpoint=given.checkpoint,
            protocol=given.protocol,
            training=given.training,
            accuracy=printed.pop("accuracy", None),
            miou=printed.pop("miou", None),
            metrics=printed,
            decimals=table.decimals,
            params=stated or {**given.params, **row.params},
            notes=tuple(filter(None, (given.note, row.note, table.note))),
        )
