"""Where weights come from: a file of the user's, or the file that a backbone's card names."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from uss_bench.errors import DataError
from uss_bench.specs import BackboneSpec

from .weights import SUFFIXES


def find_weights(spec: BackboneSpec, weights: Path | None) -> Path | None:
    """Return the file `weights`, or else the file of `spec.url`, downloaded unless it is there already.

    Downloads go where torch.hub keeps its checkpoints (``$TORCH_HOME/hub/checkpoints``), under the
    name in the URL, so that a file which another project fetched is used again.

    Returns:
        None when no file is given and `spec.url` names a page, not a weights file: ask a hub.

    Raises:
        DataError: when the download fails, or has not the sha256 that `spec` states.
    """
    if weights is not None or not spec.url.endswith(SUFFIXES):
        return weights
    path = Path(torch.hub.get_dir()) / "checkpoints" / spec.url.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                spec.url, str(path), hash_prefix=spec.sha256 or None, progress=sys.stderr.isatty()
            )
        except (OSError, RuntimeError, ValueError) as error:  # in turn: the network, the hash, the URL
            reason = (str(error) or type(error).__name__).split("\n", 1)[0]
            raise DataError(
                f"The weights of '{spec.name}' cannot be had from {spec.url}: {reason}",
                hint=f"Fetch the file elsewhere and put it at {path}, or pass it: --weights FILE.",
            ) from error
    return path


def check_digest(spec: BackboneSpec, path: Path, digest: str) -> None:
    """Raise `DataError` when the file at `path`, of sha256 `digest`, is not the one that `spec` states."""
    if spec.sha256 not in ("", digest):
        again = f"Fetch them again from {spec.url}, or name" if spec.url else "Name"
        raise DataError(
            f"Weights '{path}' have sha256 {digest}, not {spec.sha256} as '{spec.name}' states.",
            hint=f"{again} weights of your own: --backbone-name NAME.",
        )
