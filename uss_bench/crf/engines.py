"""One image through the dense CRF: what is checked, what the unary is, and who computes the rest."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from uss_bench.errors import ContractError, UsageError, did_you_mean
from uss_bench.protocol import CrfParams

if TYPE_CHECKING:
    from uss_bench.crf.lattice import NormalisedFilter

Engine = Literal["lattice", "pydensecrf"]
"""``lattice`` is this package's own; ``pydensecrf`` is the reference, an optional extra."""

DEFAULT_PARAMS = CrfParams()


def refine(
    image: NDArray[np.uint8],
    log_probs: NDArray[np.floating[Any]],
    params: CrfParams = DEFAULT_PARAMS,
    *,
    engine: Engine = "lattice",
) -> NDArray[np.float32]:
    """Return the CRF's class probabilities of one image.

    Args:
        image: uint8 (H, W, 3). The order of the channels does not matter: all share one deviation.
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
    check_settings(params, engine)
    _check_arrays(image, log_probs)
    classes, height, width = log_probs.shape
    params = params.at_size(height, width)
    unary = _unary(
        log_probs.reshape(classes, height * width).astype(np.float32, copy=False), params.min_probability
    )
    refine_unary = _refine_with_pydensecrf if engine == "pydensecrf" else _refine_with_lattice
    probabilities = refine_unary(image, unary, params)
    return probabilities.reshape(classes, height, width)


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
            hint="Give the colours in 0..255 with the channels last: neither normalised nor a torch layout.",
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


def _unary(logits: NDArray[np.float32], min_probability: float) -> NDArray[np.float32]:
    """Return −log of the clipped softmax over the classes, float32 (K, N)."""
    probabilities = np.exp(logits - logits.max(axis=0))
    probabilities /= probabilities.sum(axis=0)
    energies: NDArray[np.float32] = -np.log(probabilities.clip(min_probability, 1))
    return energies


def _refine_with_lattice(
    image: NDArray[np.uint8], unary: NDArray[np.float32], params: CrfParams
) -> NDArray[np.float32]:
    from uss_bench.crf.lattice import NormalisedFilter
    from uss_bench.crf.meanfield import mean_field

    height, width = image.shape[:2]
    xy = _positions(height, width)
    rgb = image.reshape(-1, 3).astype(np.float32)
    bilateral = np.concatenate(
        [xy / np.float32(params.bilateral_sxy), rgb / np.float32(params.bilateral_srgb)], axis=1
    )
    kernels = [
        (params.gaussian_compat, _smoothing(height, width, params.gaussian_sxy).own().add_filtered),
        (params.bilateral_compat, NormalisedFilter(bilateral).add_filtered),
    ]
    # Pixels first: a lattice vertex then holds its K values side by side, which is what makes it fast.
    q: NDArray[np.float32] = mean_field(np.ascontiguousarray(unary.T), kernels, params.iterations)
    return np.ascontiguousarray(q.T)


@functools.lru_cache(maxsize=1)
def _smoothing(height: int, width: int, deviation: float) -> NormalisedFilter:
    """Return the filter over positions alone, which all images of one size share."""
    from uss_bench.crf.lattice import NormalisedFilter

    return NormalisedFilter(_positions(height, width) / np.float32(deviation))


def _positions(height: int, width: int) -> NDArray[np.float32]:
    """Return x and y of every pixel, float32 (H·W, 2)."""
    rows, columns = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    return np.stack([columns, rows], axis=1)


def _refine_with_pydensecrf(
    image: NDArray[np.uint8], unary: NDArray[np.float32], params: CrfParams
) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    model = _import_pydensecrf().DenseCRF2D(width, height, len(unary))
    model.setUnaryEnergy(np.ascontiguousarray(unary))
    model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=np.array(image, order="C"),  # a copy, because it refuses read-only arrays such as Pillow's
        compat=params.bilateral_compat,
    )
    return np.array(model.inference(params.iterations), dtype=np.float32)


def _import_pydensecrf() -> Any:
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise UsageError(
            "The CRF engine 'pydensecrf' is not installed.",
            hint="pip install 'uss-bench[crf]' (it needs a C++ compiler), or use the engine 'lattice'.",
        ) from None
    return densecrf
