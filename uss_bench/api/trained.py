"""The trained method of a record, ready to label images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uss_bench.api.arrays import as_image
from uss_bench.contracts import Images
from uss_bench.crf import CrfPool
from uss_bench.errors import DataError, RunError
from uss_bench.evaluation.predictor import Predictor
from uss_bench.experiment.recipe import find_recipe
from uss_bench.experiment.restoring import restore_method
from uss_bench.features.encoder import Encoder
from uss_bench.plots.colors import cluster_colors
from uss_bench.plugins.in_place import find_or_add
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import find_record, read_arrays, read_record
from uss_bench.results.record import UNMATCHED, Refinement, RunRecord
from uss_bench.results.scores import score_row
from uss_bench.runtime.device import pick_device


def load(
    record: Entry | str | Path,
    *,
    results: str | Path = "results",
    method: Plugin | Callable[..., Any] | None = None,
    backbone: str | Plugin | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
) -> TrainedModel:
    """Return what a recorded run has trained, ready to label images.

    Examples:
        >>> model = uss_bench.load("results/toy3/smooseg-s0-1a556007c5e9.json")
        >>> model.predict("street.jpg").save("street-classes.png")

    Args:
        record: what `uss_bench.run` returned, a record's path, or the start of its id.
        results: where a record is looked for by its id.
        method: the class, or what `uss_bench.method` returned, where the method was defined in Python.
        backbone: its name, or what `uss_bench.module_backbone` returned; None for that of the record's own
            command.
        weights: a file of its weights; None as well.
        plugins: folders of further plugins.

    Raises:
        UsageError: when there is no such record, or it has no trained state.
        DataError: when its state or the weights are missing or others.
    """
    path = record.path if isinstance(record, Entry) else find_record(str(record), [Path(results)])
    registry = Registry(map(Path, plugins))
    if method is not None:
        find_or_add(method, "methods", registry)
    return TrainedModel(
        path,
        registry,
        backbone=None if backbone is None else find_or_add(backbone, "backbones", registry),
        weights=None if weights is None else Path(weights),
        device=device,
    )


class TrainedModel:
    """A record's method and backbone, as its run left them; `load` makes one.

    Attributes:
        record: the record.
        failed: images that `label_maps` could not read, by id, with the reason.
    """

    def __init__(
        self,
        path: Path,
        registry: Registry,
        *,
        backbone: str | None = None,
        weights: Path | None = None,
        device: str = "auto",
    ) -> None:
        self.path = path
        self.record: RunRecord = read_record(path)
        self.failed: dict[str, str] = {}
        self._device = pick_device(device)
        network = find_recipe(self.record, backbone=backbone, weights=weights).backbone(registry)
        method = restore_method(path, self.record, network.to(self._device), registry, self._device)
        spec, _ = registry.method(self.record.cell.method.name)
        encoder = Encoder(network, self._device, dtype=self.record.cell.backbone.feature_dtype)
        self._predictor = Predictor(
            method, spec, encoder, self.record.protocol, self.record.cell.alpha, self.failed
        )
        self._arrays = read_arrays(path, self.record)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in label order."""
        return [row.name for row in self.record.classes]

    def class_of_cluster(self, *, crf: bool = True) -> list[int]:
        """Return the class of each cluster, -1 for none, as the record's labels matched them."""
        row = score_row(self.record, self._refinement(crf)) or score_row(self.record, "raw")
        return list(row.class_of_cluster) if row else [UNMATCHED] * self.record.clusters

    def colors(self, *, crf: bool = True) -> np.ndarray:
        """Return the color of each cluster, uint8 (K, 3): that of its class."""
        return cluster_colors(self.record, self._arrays, self._refinement(crf))

    def predict(
        self, image: Any, *, crf: bool = True, aux: Mapping[str, np.ndarray] | None = None
    ) -> Prediction:
        """Label one image, at its own size.

        Args:
            image: uint8 (H, W, 3), RGB; a torch tensor (3, H, W); a Pillow image; or a file's path.
            crf: refine with the dense CRF of the record's protocol, if it has one.
            aux: further channels that the method reads, (H, W) or (H, W, n) each.

        Raises:
            UsageError: when `image` is no image.
            DataError: when a file cannot be read.
        """
        pixels = as_image(image)
        found = list(self.label_maps(_OneImage(pixels, dict(aux or {})), crf=crf, workers=1))
        if not found:
            raise DataError(self.failed.pop("image"))
        clusters = found[0][1]
        return Prediction(
            pixels, clusters, tuple(self.class_of_cluster(crf=crf)), tuple(self.classes), self.colors(crf=crf)
        )

    def label_maps(
        self, images: Images, *, crf: bool = True, workers: int | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield id and cluster of every pixel, integer (H, W), of each image; `failed` names the others.

        Args:
            workers: threads of the CRF; None for all cores.
        """
        params = self.record.protocol.crf if crf else None
        with nullcontext() if params is None else CrfPool(params, workers=workers) as pool:
            yield from self._predictor.label_maps(images, pool)

    def _refinement(self, crf: bool) -> Refinement:
        return "crf" if crf and self.record.protocol.crf is not None else "raw"

    def __repr__(self) -> str:
        cell = self.record.cell
        return f"<{cell.method.name} trained on {cell.dataset.name}, seed {cell.seed}: {self.path}>"


@dataclass(frozen=True)
class Prediction:
    """The label map of one image. A notebook shows it laid over the image."""

    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    clusters: np.ndarray
    """Cluster of every pixel, integer (H, W)."""
    class_of_cluster: tuple[int, ...]
    """Class of each cluster, -1 for none."""
    names: tuple[str, ...]
    """Of the classes."""
    colors: np.ndarray
    """Of the clusters, uint8 (K, 3)."""

    @property
    def labels(self) -> np.ndarray:
        """Class of every pixel, int64 (H, W); -1 where a cluster has none."""
        matched: np.ndarray = np.array(self.class_of_cluster, dtype=np.int64)[self.clusters]
        return matched

    def overlay(self, opacity: float = 0.6) -> np.ndarray:
        """Return the image under the colors of its clusters, uint8 (H, W, 3)."""
        mixed: np.ndarray = (1 - opacity) * self.image + opacity * self.colors[self.clusters]
        return mixed.round().astype(np.uint8)

    def save(self, path: str | Path, *, opacity: float = 0.6) -> None:
        """Write the overlay as a picture, in the format that the name ends with. An existing file stays.

        Raises:
            RunError: when the file exists, or cannot be written.
        """
        from PIL import Image

        kind = Image.registered_extensions().get(Path(path).suffix.lower())
        if kind is None:
            raise RunError(f"{path} does not end like a picture.", hint="Call it NAME.png or NAME.jpg.")
        try:
            with Path(path).open("xb") as file:
                file.write(self._encoded(kind, opacity))
        except FileExistsError:
            raise RunError(f"{path} exists already.", hint="Choose another name.") from None
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error}.") from None

    def _repr_png_(self) -> bytes:
        return self._encoded("PNG", 0.6)

    def _encoded(self, kind: str, opacity: float) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.overlay(opacity)).save(buffer, format=kind)
        return buffer.getvalue()


@dataclass
class _OneImage:
    """An image in memory as `Images`."""

    pixels: np.ndarray
    channels: dict[str, np.ndarray]
    ids: Sequence[str] = ("image",)

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> np.ndarray:
        return self.pixels

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return self.channels

    def fingerprint(self) -> str:
        return ""
