"""One image through the dense CRF: what is checked, what the unary is, and who computes the rest."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from uss_bench.errors import ContractError, UsageError, did_you_mean
from uss_bench.protocol import CrfParams

if TYPE_CHECKING:
    from uss_bench.crf.lattice import Stream

Engine = Literal["lattice", "pydensecrf"]
"""``lattice`` is this package's own; ``pydensecrf`` is the reference, an optional extra."""

LabelMap = NDArray[np.uint8] | NDArray[np.uint16]

DEFAULT_PARAMS = CrfParams()

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's moments, by which the lineage normalizes."""


def refine(
    image: NDArray[np.uint8],
    log_probs: NDArray[np.floating[Any]],
    params: CrfParams = DEFAULT_PARAMS,
    *,
    engine: Engine = "lattice",
) -> NDArray[np.float32]:
    """Return the CRF's class probabilities of one image.

    Args:
        image: uint8 (H, W, 3), RGB; `params` say in what order the CRF sees it. The order matters: all
            channels share one deviation, but the lattice's cells lie otherwise.
        log_probs: float (K, H, W), log-probabilities or any other logits. Their softmax over the
            classes, clipped at `params.min_probability`, is the unary term.
        params: deviations and weights of the two kernels, and the number of mean-field updates.
        engine: who computes it, see `Engine`.

    Returns:
        Probabilities, float32 (K, H, W), summing to one over the classes.

    Raises:
        ContractError: for a wrong shape or dtype, or a logit that is NaN or infinite.
        UsageError: for an unknown engine, pydensecrf not installed, or parameters out of range.
    """
    rows = _rows(image, log_probs, params, engine)
    return np.ascontiguousarray(rows.T).reshape(log_probs.shape)


def label_map(
    image: NDArray[np.uint8], log_probs: NDArray[np.floating[Any]], params: CrfParams, engine: Engine
) -> LabelMap:
    """Return what is most probable after `refine`: uint8 (H, W), or uint16 for more than 256 classes."""
    labels: NDArray[np.intp] = _rows(image, log_probs, params, engine).argmax(axis=1).reshape(image.shape[:2])
    return labels.astype(np.uint8) if len(log_probs) <= 256 else labels.astype(np.uint16)


def bytes_needed(image: NDArray[Any], log_probs: NDArray[Any]) -> int:
    """Return what an image takes while it is refined: its arrays, two of probabilities, and the lattice's."""
    return image.nbytes + log_probs.nbytes + 10 * log_probs.size + 66 * image.size


def check_settings(params: CrfParams, engine: str) -> None:
    """Raise `UsageError` for an unknown or missing engine, or for parameters out of range."""
    if engine not in get_args(Engine):
        raise UsageError(f"There is no CRF engine '{engine}'.", hint=did_you_mean(engine, get_args(Engine)))
    if engine == "pydensecrf":
        _import_pydensecrf()
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        deviation = getattr(params, name)
        if not 0 < deviation < float("inf"):
            raise UsageError(f"The CRF's {name} is a deviation and must be positive, not {deviation}.")
    if not 0 < params.min_probability < 1:
        raise UsageError(f"The CRF's min_probability must lie in (0, 1), not at {params.min_probability}.")
    if params.iterations < 0:
        raise UsageError(f"The CRF's iterations must be 0 or more, not {params.iterations}.")


def _check_arrays(image: NDArray[Any], log_probs: NDArray[Any]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ContractError(
            f"The CRF's image must be uint8 (H, W, 3), not {image.dtype} {image.shape}.",
            hint="Give the colors in 0..255 with the channels last: neither normalized nor a torch layout.",
        )
    if not np.issubdtype(log_probs.dtype, np.floating) or log_probs.ndim != 3:
        raise ContractError(
            f"The CRF's log_probs must be floating point (K, H, W), not {log_probs.dtype} {log_probs.shape}."
        )
    if log_probs.shape[1:] != image.shape[:2]:
        raise ContractError(
            f"The CRF's log_probs cover {log_probs.shape[1:]} pixels and its image {image.shape[:2]}.",
            hint="Upsample the logits to the image before the CRF.",
        )
    if 0 in log_probs.shape:
        raise ContractError(f"The CRF's log_probs are empty: {log_probs.shape}.")
    if not np.isfinite(log_probs).all():
        raise ContractError(
            "The CRF's log_probs hold NaN or infinite values.",
            hint="Use log_softmax of finite logits; the logarithm of a probability of 0 is not finite.",
        )


def _log_unary(logits: NDArray[np.floating[Any]], min_probability: float) -> NDArray[np.float32]:
    """Return the log of the clipped softmax over the classes, float32 (K, N)."""
    logits = logits.astype(np.float32, copy=False)
    probabilities = np.exp(logits - logits.max(axis=0))
    probabilities /= probabilities.sum(axis=0)
    logs: NDArray[np.float32] = np.log(probabilities.clip(min_probability, 1))
    return logs


def _rows(
    image: NDArray[np.uint8], log_probs: NDArray[np.floating[Any]], params: CrfParams, engine: Engine
) -> NDArray[np.float32]:
    """Check everything and return the class probabilities, float32 (N, K)."""
    check_settings(params, engine)
    _check_arrays(image, log_probs)
    params = params.at_size(*image.shape[:2])
    image = _as_handed_over(image, params)
    refine_rows = _refine_with_pydensecrf if engine == "pydensecrf" else _refine_with_lattice
    return refine_rows(image, log_probs, params)


def _as_handed_over(image: NDArray[np.uint8], params: CrfParams) -> NDArray[np.uint8]:
    """Return an image uint8 (H, W, 3) as the CRF is to see it: `params.truncate` and `params.channels`."""
    if params.truncate:  # rounded in this order of operations: a fifth of the values ends one lower
        values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        normalized = (values - _MEAN) / _STD
        table = ((normalized * _STD + _MEAN) * np.float32(255)).astype(np.uint8)
        image = np.take_along_axis(table, image.reshape(-1, 3), axis=0).reshape(image.shape)
    return image[:, :, ::-1] if params.channels == "bgr" else image


def _refine_with_lattice(
    image: NDArray[np.uint8], log_probs: NDArray[np.floating[Any]], params: CrfParams
) -> NDArray[np.float32]:
    from uss_bench.crf.filtering import row_length
    from uss_bench.crf.lattice import Lattice, zeros
    from uss_bench.crf.meanfield import block_length, mean_field

    classes, height, width = log_probs.shape
    channels = row_length(classes)
    log_unary = zeros((height * width, channels))
    log_unary[:, classes:] = -np.inf
    flat = log_probs.reshape(classes, -1)
    length = block_length(channels)
    for start in range(0, height * width, length):
        part = slice(start, start + length)
        log_unary[part, :classes] = _log_unary(flat[:, part], params.min_probability).T
    colors = image.reshape(-1, 3).astype(np.float32) / np.float32(params.bilateral_srgb)
    features = np.concatenate([_positions(height, width) / np.float32(params.bilateral_sxy), colors], axis=1)
    smoothing = _smoothing(height, width, params.gaussian_sxy, length)
    weights = (params.gaussian_compat, params.bilateral_compat)
    return mean_field(log_unary, smoothing, Lattice(features), weights, params.iterations)[:, :classes]


@functools.lru_cache(maxsize=1)
def _smoothing(height: int, width: int, deviation: float, block: int) -> Stream:
    """Return the filter over positions alone, which all images of one size share."""
    from uss_bench.crf.lattice import Lattice, Stream

    return Stream(Lattice(_positions(height, width) / np.float32(deviation)), block)


def _positions(height: int, width: int) -> NDArray[np.float32]:
    """Return x and y of every pixel, float32 (H·W, 2)."""
    rows, columns = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    return np.stack([columns, rows], axis=1)


def _refine_with_pydensecrf(
    image: NDArray[np.uint8], log_probs: NDArray[np.floating[Any]], params: CrfParams
) -> NDArray[np.float32]:
    classes, height, width = log_probs.shape
    model = _import_pydensecrf().DenseCRF2D(width, height, classes)
    log_unary = _log_unary(log_probs.reshape(classes, -1), params.min_probability)
    model.setUnaryEnergy(np.ascontiguousarray(-log_unary))
    model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=np.array(image, order="C"),  # a copy, because it refuses read-only arrays such as Pillow's
        compat=params.bilateral_compat,
    )
    return np.array(model.inference(params.iterations), dtype=np.float32).T


def _import_pydensecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise UsageError(
            "The CRF engine 'pydensecrf' is not installed.",
            hint="pip install 'uss-bench[crf]' (it needs a C++ compiler), or use the engine 'lattice'.",
        ) from None
    return densecrf
