"""The page of backbones: what frozen features are worth, beside what they cost and what they look like."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from uss_bench.board import backbone_figures
from uss_bench.board.backbone_figures import Figure, cluster_figure, cost_figure
from uss_bench.board.backbone_tables import BackboneRow, FeatureTable, feature_tables
from uss_bench.board.pictures import generated_dataset, image_uri
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.subset import limited
from uss_bench.experiment.feature_picture import SHOWN
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import INGREDIENTS, BackboneSpec
from uss_bench.protocol import get_protocol
from uss_bench.results.feature_record import FeatureRecord, picture_path
from uss_bench.runtime import formatting
from uss_bench.runtime.pages import environment

_ASSETS = Path(__file__).parent / "assets"
_SHOWN = "toy27"
"""The data set whose images are shown, if features of it were measured."""
_COLORS = 8
"""Before they begin again."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Backbones, each with a picture of its features on the same generated images."""

    dataset: str
    images: tuple[str, ...]
    """As data addresses."""
    entries: tuple[tuple[BackboneRow, str], ...]
    """A backbone and its picture, '' where there is none."""


def render(records: Sequence[tuple[Path, FeatureRecord]], home: Path, registry: Registry) -> str:
    """Return the page, a function of the records and the pictures beside them.

    Args:
        records: of features, one or more, with their paths.
        home: the folder that the page will lie in; links to records are relative to it.
        registry: for the cards of backbones, and for the generated images.
    """

    def card(name: str) -> BackboneSpec | None:
        found = {plugin.name: plugin.spec for plugin in registry.all("backbones")}.get(name)
        return found if isinstance(found, BackboneSpec) else None

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path, home)).as_posix())

    tables = feature_tables(records, card=card)
    series = backbone_figures.names_by_series([row for table in tables for row in table.rows])
    style = "".join((_ASSETS / name).read_text(encoding="utf-8") for name in ("board.css", "backbones.css"))
    return (
        environment(__package__)
        .get_template("backbones.html")
        .render(
            tables=tables,
            gallery=_gallery(tables, registry),
            figures={table.slug: _figures(table, series) for table in tables},
            color={name: number % _COLORS for name, number in series.items()},
            size=backbone_figures,
            formatting=formatting,
            count=_count,
            gflops=_gflops,
            seconds=_seconds,
            INGREDIENTS=INGREDIENTS,
            link=link,
            style=Markup(style),
        )
    )


def _figures(table: FeatureTable, series: dict[str, int]) -> list[tuple[bool, Figure]]:
    """Return the figures of a table, and whether each is about something that learned from labels."""
    unlabeled = [cost_figure(table, one, series) for one in table.unlabeled[:1]]
    labeled = [cost_figure(table, one, series) for one in table.labeled if one.name in ("retrieval", "probe")]
    found = [(False, one) for one in (*unlabeled, cluster_figure(table, series))]
    return [(uses, one) for uses, one in (*found, *((True, one) for one in labeled)) if one is not None]


def _gallery(tables: Sequence[FeatureTable], registry: Registry) -> Gallery:
    """Return every backbone once, with its picture on the generated data set that most have one of."""
    rows: dict[str, BackboneRow] = {}
    for table in tables:
        for row in table.rows:
            if not row.is_block:
                rows.setdefault(row.name, row)
    pictured = [
        (table, {row.name: uri for row in table.rows if not row.is_block and (uri := _picture(row))})
        for table in tables
    ]
    table, pictures = max(pictured, key=lambda one: (len(one[1]), one[0].cell.dataset.name == _SHOWN))
    names = sorted(rows, key=lambda name: (name not in pictures, name))
    return Gallery(
        dataset=table.cell.dataset.name if pictures else "",
        images=_images(table, registry) if pictures else (),
        entries=tuple((rows[name], pictures.get(name, "")) for name in names),
    )


def _picture(row: BackboneRow) -> str:
    for path in row.paths:
        found = picture_path(path)
        if found.is_file():
            return f"data:image/png;base64,{base64.b64encode(found.read_bytes()).decode()}"
    return ""


def _images(table: FeatureTable, registry: Registry) -> tuple[str, ...]:
    """Return the images of the pictures, drawn again; none where the generator has changed."""
    data = table.cell.dataset
    dataset = generated_dataset(data, registry)
    if dataset is None:
        return ()
    images = limited(dataset.images(data.test_split), data.limit)
    items = TransformedImages.for_evaluation(images, get_protocol(table.cell.protocol), patch=1)
    return tuple(image_uri(items[index]) for index in range(min(SHOWN, len(items))))


def _count(number: int | None) -> str:
    """Return a number of parameters as people say it: ``1.55 M``."""
    if number is None:
        return formatting.MISSING
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _gflops(number: float) -> str:
    return f"{number:.3g}" if number >= 0.01 else f"{number:.1g}"


def _seconds(seconds: float) -> str:
    """Return a short time: ``72 ms``."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
