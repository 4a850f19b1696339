"""The pictures beside a record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uss_bench.errors import DataError
from uss_bench.plots.curves import save_training
from uss_bench.plots.panels import save_panel
from uss_bench.results.files import CURVES_SUFFIX, read_record
from uss_bench.training.workspace import Workspace

if TYPE_CHECKING:
    from uss_bench.experiment.setup import Setup


def draw_pictures(path: Path, setup: Setup) -> None:
    """Draw the predictions and the training of the record at `path`.

    Raises:
        DataError: when a picture cannot be written; the record is not touched.
    """
    save_panel(path, setup.test_images, setup.test_labels)
    save_training(path)


def draw_missing(path: Path, setup: Setup) -> None:
    """Do what a run that was killed after it wrote the record at `path` had left to do: draw, and tidy up.

    Raises:
        DataError: when the record cannot be read, or a picture cannot be written.
    """
    try:
        record = read_record(path)
    except DataError as error:
        raise DataError(error.what, hint="Add --force to run the cell again, or delete the record.") from None
    if not path.with_suffix(".png").exists():
        save_panel(path, setup.test_images, setup.test_labels)
    if record.monitor and not path.with_suffix(CURVES_SUFFIX).exists():
        save_training(path)
    Workspace.beside(path).tidy()
