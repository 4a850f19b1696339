"""The pictures beside a record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uss_bench.monitor_plot import SUFFIX, save_monitor
from uss_bench.panels import save_panel
from uss_bench.record_files import read_record
from uss_bench.workspace import Workspace

if TYPE_CHECKING:
    from uss_bench.setup import Setup


def draw_pictures(path: Path, setup: Setup) -> None:
    """Draw the predictions and the training of the record at `path`.

    Raises:
        DataError: when a picture cannot be written; the record is not touched.
    """
    save_panel(path, setup.test_images, setup.test_labels)
    save_monitor(path)


def draw_missing(path: Path, setup: Setup) -> None:
    """Do what a run that was killed after it wrote the record at `path` has not: draw, and tidy up.

    Raises:
        DataError: when a picture cannot be written.
    """
    if not path.with_suffix(".png").exists():
        save_panel(path, setup.test_images, setup.test_labels)
    if read_record(path).monitor and not path.with_suffix(SUFFIX).exists():
        save_monitor(path)
    Workspace.beside(path).tidy()
