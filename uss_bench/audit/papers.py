"""How papers evaluate: one TOML file each, every fact with its source in their code or text."""

from __future__ import annotations

from pathlib import Path

import msgspec

from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.files.bundled import bundled_folders
from uss_bench.plugins.specs import decode_toml
from uss_bench.protocol import CrfParams, Protocol, get_protocol


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that a paper does when it evaluates."""

    value: bool | float | str
    source: str
    """File and name in the paper's code, or a section of its text."""
    note: str = ""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an evaluation does, from the images to the score; None where no source says it.

    Values of the fields that `uss_bench.protocol.Protocol` has too are in its vocabulary.
    """

    coco: Fact | None = None
    """Test images of COCO-Stuff-27."""
    cityscapes: Fact | None = None
    """Test images of Cityscapes-27."""
    potsdam: Fact | None = None
    """Test images of Potsdam-3."""
    resize: Fact | None = None
    """Filter for images."""
    geometry: Fact | None = None
    """What part of an image is scored, at which size."""
    five_crop: Fact | None = None
    """``on`` or ``off``: training on five half-size crops of each image. Our protocols leave it open."""
    flip: Fact | None = None
    upsample: Fact | None = None
    alpha: Fact | None = None
    crf: Fact | None = None
    """Constants of the dense CRF, or ``none``."""
    clusters: Fact | None = None
    """K at evaluation."""
    extra_clusters: Fact | None = None
    """What the metric does with clusters beyond the classes."""
    matching: Fact | None = None
    absent_classes: Fact | None = None
    checkpoint: Fact | None = None
    """``last``, or ``selected``: the best on the labels of the reported split."""
    monitor: Fact | None = None
    """The score that selects the checkpoint, and how often it is looked at."""


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a paper or its repository prints on both sides of a difference: points that it costs or gives."""

    field: str
    """Of `Facts`."""
    before: str
    after: str
    accuracy: float
    """Percent points from `before` to `after`."""
    miou: float
    method: str
    """As the source calls what was scored."""
    source: str
    note: str = ""


class PaperProtocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one paper evaluates."""

    title: str
    paper: str
    year: int
    code: str = ""
    """Repository that was read; empty where none is public and the text is the source."""
    commit: str = ""
    facts: Facts
    costs: list[Cost] = []
    """Of differences that it measured itself. Records come first: these are for what no record shows."""


def load_papers(folder: Path | None = None) -> dict[str, PaperProtocol]:
    """Return the ledger by the names of its files; the one that comes with uss-bench by default.

    Raises:
        DataError: when a file does not fit, naming the file and the key, or there is none.
    """
    folder = folder or bundled_folders("uss_bench.audit.ledger", "leaderboards/protocols")[0]
    found: dict[str, PaperProtocol] = {
        path.stem: decode_toml(path, PaperProtocol) for path in sorted(folder.glob("*.toml"))
    }
    if not found:
        raise DataError(f"{folder} holds no protocol of a paper (*.toml).", hint="Reinstall uss-bench.")
    return found


def find_paper(name: str, papers: dict[str, PaperProtocol]) -> PaperProtocol:
    """Return the paper of this name; a protocol of ours (``stego320@2``) will do as well.

    Raises:
        UsageError: when there is none, with the closest names.
    """
    if name in papers:
        return papers[name]
    if "@" in name:
        return as_paper(get_protocol(name))
    raise UsageError(
        f"There is no paper '{name}' in the ledger of protocols.", hint=did_you_mean(name, papers)
    )


def as_paper(protocol: Protocol) -> PaperProtocol:
    """Say a protocol of ours in the terms of the ledger."""

    def fact(value: bool | float | str, note: str = "") -> Fact:
        return Fact(value, protocol.id, note)

    height, width = protocol.input_size
    geometry = {
        "whole": "whole images at native size",
        "square": f"short side {height}, center crop {height}×{height}",
        "squash": f"squashed to {height}×{width}",
    }[protocol.extent]
    return PaperProtocol(
        title=protocol.id,
        paper="uss-bench",
        year=2026,
        facts=Facts(
            resize=fact(protocol.resize),
            geometry=fact(geometry),
            flip=fact(protocol.flip),
            upsample=fact(protocol.upsample),
            alpha=fact(protocol.alpha, "a method's spec may override it"),
            crf=fact(crf_text(protocol.crf), "scores before and after, both always"),
            clusters=fact("K = C", "unless --set clusters says otherwise"),
            extra_clusters=fact(protocol.extra_clusters),
            matching=fact(protocol.matching),
            absent_classes=fact(protocol.absent_classes),
            checkpoint=fact("last", "the selected one stands beside it"),
        ),
    )


def crf_text(crf: CrfParams | None) -> str:
    """Say the constants of a CRF as the ledger does."""
    if crf is None:
        return "none"
    text = (
        f"{crf.iterations} iterations; Gaussian sxy {crf.gaussian_sxy:g}, compat {crf.gaussian_compat:g}; "
        f"bilateral sxy {crf.bilateral_sxy:g}, srgb {crf.bilateral_srgb:g}, "
        f"compat {crf.bilateral_compat:g}"
    )
    return text if crf.reference_side is None else f"{text}; sxy at short side {crf.reference_side}"
