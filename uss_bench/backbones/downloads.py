"""Where weights come from: a file of the user's, or the file that a backbone's card names."""

from __future__ import annotations

from pathlib import Path

import torch

from uss_bench.errors import DataError
from uss_bench.files.download import Resource, download
from uss_bench.plugins.specs import WEIGHTS_SUFFIXES, BackboneSpec


def find_weights(spec: BackboneSpec, weights: Path | None) -> Path | None:
    """Return the file `weights`, or else the file of `spec.url`, downloaded unless it is there already.

    Downloads go where torch.hub keeps its checkpoints (``$TORCH_HOME/hub/checkpoints``), under the
    name in the URL, so that a file which another project fetched is used again. A download that breaks
    off is resumed, and a web page or a file of another sha256 is never taken for weights.

    Returns:
        None when no file is given and `spec.url` names a page, not a weights file: ask a hub.

    Raises:
        DataError: when the download fails, or has not the sha256 that `spec` states.
    """
    if weights is not None or not spec.url.endswith(WEIGHTS_SUFFIXES):
        return weights
    folder, name = Path(torch.hub.get_dir()) / "checkpoints", spec.url.rpartition("/")[2]
    path = folder / name
    if path.is_file():
        return path
    try:
        return download(Resource(spec.url, name, sha256=spec.sha256), folder, attempts=3, pause=1)
    except DataError as error:
        raise DataError(
            f"The weights of '{spec.name}' cannot be had. {error.what}",
            hint=f"Fetch the file elsewhere and put it at {path}, or pass it: --weights FILE.",
        ) from error


def check_digest(spec: BackboneSpec, path: Path, digest: str) -> None:
    """Raise `DataError` when the file at `path`, of sha256 `digest`, is not the one that `spec` states."""
    if spec.sha256 not in ("", digest):
        again = f"Fetch them again from {spec.url}, or name" if spec.url else "Name"
        raise DataError(
            f"Weights '{path}' have sha256 {digest}, not {spec.sha256} as '{spec.name}' states.",
            hint=f"{again} weights of your own: --backbone-name NAME.",
        )
