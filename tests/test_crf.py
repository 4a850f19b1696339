"""The dense CRF on its own: the algebra, the lattice, `refine` and the pool. No reference needed.

`test_crf_reference.py` compares with pydensecrf.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from uss_bench.crf import CrfParams, CrfPool, engines, refine
from uss_bench.crf import lattice_loops as loops
from uss_bench.crf.lattice import Lattice, NormalisedFilter
from uss_bench.crf.meanfield import mean_field
from uss_bench.errors import ContractError, UsageError, UssBenchError


def grid(height: int, width: int, sxy: float) -> np.ndarray:
    rows, columns = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    return np.stack([columns, rows], axis=1) / np.float32(sxy)


def item(seed: int, classes: int = 4, height: int = 20, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.standard_normal((classes, height, width), dtype=np.float32)


# --------------------------------------------------------------------------------------------------
# Mean field, with the lattice replaced by dense matrices
# --------------------------------------------------------------------------------------------------


def brute_force(unary: np.ndarray, kernels: list[tuple[float, np.ndarray]], iterations: int) -> np.ndarray:
    """Algorithm 1 of the paper pixel by pixel: messages, Potts penalties, local update, normalise."""
    n_pixels, n_classes = unary.shape
    q = np.exp(-unary) / np.exp(-unary).sum(axis=1, keepdims=True)
    for _ in range(iterations):
        new = np.empty_like(q)
        for i in range(n_pixels):
            for label in range(n_classes):
                penalty = sum(
                    weight * kernel[i, j] * q[j, other]
                    for weight, kernel in kernels
                    for j in range(n_pixels)
                    for other in range(n_classes)
                    if other != label
                )
                new[i, label] = np.exp(-unary[i, label] - penalty)
        q = new / new.sum(axis=1, keepdims=True)
    return q


def test_mean_field_is_the_papers_algorithm() -> None:
    rng = np.random.default_rng(0)
    unary = rng.random((12, 3)) * 3
    matrices = [rng.random((12, 12)) / 12 for _ in range(2)]
    kernels = [
        (weight, lambda q, factor, out, kernel=kernel: np.add(out, factor * kernel @ q, out=out))
        for weight, kernel in zip((3.0, 4.0), matrices, strict=True)
    ]
    expected = brute_force(unary, list(zip((3.0, 4.0), matrices, strict=True)), 5)
    actual = mean_field(unary, kernels, 5)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_no_iterations_leave_the_softmax_of_the_unary() -> None:
    image, log_probs = item(0)
    q = refine(image, log_probs, CrfParams(iterations=0))
    expected = np.exp(log_probs) / np.exp(log_probs).sum(axis=0)
    np.testing.assert_allclose(q, expected, atol=1e-5)


# --------------------------------------------------------------------------------------------------
# The lattice
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Points of a colour image: (N, 5) in units of the deviations."""
    image, _ = item(1, height=30, width=40)
    smooth = image.astype(np.float32).reshape(30, 40, 3).cumsum(axis=1) / 40
    return np.concatenate([grid(30, 40, 8), smooth.reshape(-1, 3) / np.float32(20)], axis=1)


def test_barycentric_weights_are_a_partition_of_unity(points: np.ndarray) -> None:
    weights = Lattice(points).weights
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert weights.min() >= -1e-5


def test_splat_conserves_mass_and_leaves_the_missing_vertex_empty(points: np.ndarray) -> None:
    lattice = Lattice(points)
    values = np.random.default_rng(2).random((len(points), 3), dtype=np.float32)
    at_vertices = np.empty((lattice.neighbours.shape[1], 3), np.float32)
    loops.splat(values, lattice.vertices, lattice.weights, at_vertices)
    np.testing.assert_allclose(at_vertices.sum(axis=0), values.sum(axis=0), rtol=1e-4)
    assert not at_vertices[0].any()
    assert lattice.vertices.min() == 1


def test_neighbours_are_mutual(points: np.ndarray) -> None:
    for after, before in Lattice(points).neighbours.transpose(0, 2, 1):
        vertex = np.flatnonzero(after)
        np.testing.assert_array_equal(before[after[vertex]], vertex)


def blurred_pass_by_pass(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    for before, after in neighbours.transpose(0, 2, 1):
        values = values + np.float32(0.5) * (values[before] + values[after])
    return values


@pytest.mark.parametrize("block", [1, 2, 7, 64, 10**6])
@pytest.mark.parametrize("numbering", ["of colours", "of a grid", "at random"])
def test_blurring_in_blocks_is_one_pass_per_axis_to_the_last_bit(
    points: np.ndarray, block: int, numbering: str
) -> None:
    neighbours = Lattice(points if numbering == "of colours" else grid(30, 40, 1)).neighbours
    rng = np.random.default_rng(5)
    if numbering == "at random":
        number = np.append(0, 1 + rng.permutation(neighbours.shape[1] - 1))
        scattered = np.empty_like(neighbours)
        scattered[:, number] = number[neighbours]
        neighbours = scattered
    values = rng.random((neighbours.shape[1], 3), dtype=np.float32)
    values[0] = 0
    first, second = values.copy(), np.zeros_like(values)
    loops.blur_all(first, second, neighbours, loops.find_needs(neighbours, block), block)
    blurred = second if len(neighbours) % 2 else first
    np.testing.assert_array_equal(blurred, blurred_pass_by_pass(values, neighbours))


def test_on_the_grid_blocks_need_only_what_lies_near() -> None:
    neighbours = Lattice(grid(60, 80, 1)).neighbours
    block = 64
    needs = loops.find_needs(neighbours, block)
    ends = np.minimum(np.arange(1, needs.shape[1] + 1) * block, neighbours.shape[1])
    assert (needs - ends).max() < neighbours.shape[1] / 10  # or nothing would be found in the cache


def test_normalisation_preserves_what_it_should(points: np.ndarray) -> None:
    ones = np.ones((len(points), 1), np.float32)
    lattice = Lattice(points)
    np.testing.assert_allclose(lattice.filter(7 * ones) / lattice.filter(ones), 7, rtol=1e-5)
    # D^−½ G D^−½ keeps √D: its largest eigenvalue is one.
    symmetric = NormalisedFilter(points)
    root = np.sqrt(symmetric.mass)[:, None]
    out = np.zeros_like(root)
    symmetric.add_filtered(root, 1.0, out)
    np.testing.assert_allclose(out, root, rtol=1e-4)


def test_add_filtered_accumulates(points: np.ndarray) -> None:
    symmetric = NormalisedFilter(points)
    values = np.random.default_rng(3).random((len(points), 2), dtype=np.float32)
    once, onto = np.zeros_like(values), np.full_like(values, 5)
    symmetric.add_filtered(values, 1.0, once)
    symmetric.add_filtered(values, 3.0, onto)
    np.testing.assert_allclose(onto, 5 + 3 * once, rtol=1e-5)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.04), (5, 0.07)])
def test_lattice_approximates_the_gaussian(d: int, tolerance: float, points: np.ndarray) -> None:
    """Weighted means of smooth values, which the filter changes by up to 28 % (2-d) and 18 % (5-d) of
    their range, agree with exact ones within 4 and 7 % of it everywhere, and within 1 % on average."""
    features = np.ascontiguousarray(points[:, :d])
    smooth = np.stack([np.sin(features[:, 0]), np.cos(features[:, 1] / 2)], axis=1).astype(np.float32)
    distances = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(axis=2)
    kernel = np.exp(-distances / 2)
    exact = kernel @ smooth / kernel.sum(axis=1, keepdims=True)
    lattice = Lattice(features)
    approximate = lattice.filter(smooth) / lattice.filter(np.ones((len(features), 1), np.float32))
    error = np.abs(approximate - exact) / np.ptp(smooth)
    assert np.abs(smooth - exact).max() > 2 * tolerance * np.ptp(smooth)
    assert error.max() <= tolerance
    assert error.mean() <= 0.01


# --------------------------------------------------------------------------------------------------
# refine
# --------------------------------------------------------------------------------------------------


def test_refine_returns_probabilities_and_the_same_every_time() -> None:
    image, log_probs = item(4, height=37, width=53)
    before = log_probs.copy()
    q = refine(image, log_probs)
    assert (q.dtype, q.shape) == (np.float32, log_probs.shape)
    np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(q, refine(image, log_probs))
    np.testing.assert_array_equal(log_probs, before)


def test_permuting_classes_permutes_the_result() -> None:
    image, log_probs = item(5, classes=6)
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(refine(image, log_probs[order]), refine(image, log_probs)[order], atol=1e-5)


def test_edges_of_the_image_hold_labels() -> None:
    """Two flat halves with noisy logits: every pixel takes the label of its half."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 200
    truth = (np.arange(32) >= 16).astype(int) * np.ones((32, 1), int)
    noise = np.random.default_rng(6).standard_normal((2, 32, 32))
    log_probs = (np.stack([truth == 0, truth == 1]) + noise).astype(np.float32)
    assert (log_probs.argmax(axis=0) != truth).mean() > 0.1
    np.testing.assert_array_equal(refine(image, log_probs).argmax(axis=0), truth)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("classes", [1, 3])
def test_tiny_images_and_a_single_class(shape: tuple[int, int], classes: int) -> None:
    q = refine(*item(7, classes, *shape))
    assert q.shape == (classes, *shape)
    np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)


def test_layout_and_precision_of_the_inputs_do_not_matter() -> None:
    image, log_probs = item(8)
    expected = refine(image, log_probs)
    image.flags.writeable = log_probs.flags.writeable = False  # as Pillow's images are
    np.testing.assert_array_equal(refine(image, log_probs), expected)
    strided = refine(np.asfortranarray(image), np.asfortranarray(log_probs).astype(np.float64))
    np.testing.assert_allclose(strided, expected, atol=1e-6)


def test_images_of_one_size_share_what_depends_on_the_size_alone() -> None:
    items = [item(seed, classes=3 + seed % 2, height=20 + 4 * (seed // 3), width=24) for seed in range(6)]
    expected = []
    for each in items:
        engines._smoothing.cache_clear()
        expected.append(refine(*each))
    engines._smoothing.cache_clear()
    for each, alone in zip(items, expected, strict=True):
        np.testing.assert_array_equal(refine(*each), alone)
    assert engines._smoothing.cache_info().misses == 2
    with ThreadPoolExecutor(4) as threads:  # shared, but for the memory that they work in
        together = list(threads.map(lambda each: refine(*each), items * 5))
    for one, alone in zip(together, expected * 5, strict=True):
        np.testing.assert_array_equal(one, alone)


IMAGE, LOG_PROBS = item(9)
NOT_FINITE = np.where(LOG_PROBS > 2, np.float32(np.nan), LOG_PROBS)


@pytest.mark.parametrize(
    ("image", "log_probs", "message"),
    [
        (IMAGE.astype(np.float32), LOG_PROBS, r"uint8 \(H, W, 3\), not float32"),
        (IMAGE.transpose(2, 0, 1), LOG_PROBS, r"uint8 \(H, W, 3\), not uint8 \(3, 20, 24\)"),
        (IMAGE, LOG_PROBS.astype(np.int64), r"floating point \(K, H, W\), not int64"),
        (IMAGE, LOG_PROBS[0], r"floating point \(K, H, W\), not float32 \(20, 24\)"),
        (IMAGE, LOG_PROBS[:, ::2], r"cover \(10, 24\) pixels and its image \(20, 24\)"),
        (IMAGE, LOG_PROBS[:0], r"empty"),
        (IMAGE, NOT_FINITE, r"NaN or infinite"),
    ],
)
def test_wrong_arrays_are_named(image: np.ndarray, log_probs: np.ndarray, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        refine(image, log_probs)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (CrfParams(gaussian_sxy=0), "gaussian_sxy .* must be positive, not 0"),
        (CrfParams(bilateral_srgb=float("nan")), "bilateral_srgb"),
        (CrfParams(min_probability=0), "min_probability"),
        (CrfParams(iterations=-1), "iterations"),
        (CrfParams(bilateral_srgb=1e-3), "too small for this image"),
    ],
)
def test_parameters_out_of_range_are_named(params: CrfParams, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refine(IMAGE, LOG_PROBS, params)


def test_an_unknown_engine_is_answered_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'lattice'"):
        refine(IMAGE, LOG_PROBS, engine="latice")  # type: ignore[arg-type]


def test_a_missing_pydensecrf_is_answered_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(UsageError, match=r"pip install 'uss-bench\[crf\]'"):
        refine(IMAGE, LOG_PROBS, engine="pydensecrf")


def test_neither_torch_nor_at_first_numba_is_imported() -> None:
    program = (
        "import sys, numpy as np, uss_bench.crf as crf\n"
        "assert not {'torch', 'numba'} & set(sys.modules)\n"
        "crf.refine(np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 2), np.float32))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --------------------------------------------------------------------------------------------------
# The pool
# --------------------------------------------------------------------------------------------------

LETHAL, ENDLESS, WRONG = 101, 102, 103
"""Top left red values of images that end their worker, keep it for ever, or are refused."""


def pretend(image: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """A refinement without a CRF, with accidents that only ever befall a worker process."""
    command = image[0, 0, 0]
    if command == WRONG:
        raise ContractError("wrong image", hint="take another")
    if multiprocessing.parent_process() is not None:
        if command == LETHAL:
            os._exit(1)
        if command == ENDLESS:
            time.sleep(600)
    return log_probs


def commands(*reds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    items = [item(seed, height=8, width=9) for seed in range(len(reds))]
    for (image, _), red in zip(items, reds, strict=True):
        image[0, 0, 0] = red
    return items


def argmaxes(items: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [log_probs.argmax(axis=0) for _, log_probs in items]


def test_pool_equals_refine_in_order() -> None:
    items = [item(seed, classes=3, height=10 + seed, width=12) for seed in range(7)]
    expected = [refine(*each).argmax(axis=0) for each in items]
    with CrfPool(workers=1) as serial, CrfPool(workers=2) as parallel:
        for pool in (serial, parallel):
            labels = list(pool.labels(items))
            assert {each.dtype for each in labels} == {np.dtype(np.uint8)}
            for actual, wanted in zip(labels, expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)
            assert list(pool.labels([])) == []
            assert pool.fallbacks == 0
    assert multiprocessing.active_children() == []


def test_many_classes_need_sixteen_bits() -> None:
    with CrfPool(workers=1, refine_fn=pretend) as pool:
        (labels,) = pool.labels([item(0, classes=300)])
    assert labels.dtype == np.uint16


@pytest.mark.parametrize(("accident", "reason"), [(LETHAL, "died"), (ENDLESS, "longer than 1 s")])
def test_no_image_is_lost_with_its_worker(accident: int, reason: str) -> None:
    items = commands(0, 0, 0, accident, 0, 0, 0, 0, accident, 0)
    with CrfPool(workers=2, refine_fn=pretend, timeout_s=1.0) as pool:
        with pytest.warns(RuntimeWarning, match=reason) as caught:
            labels = list(pool.labels(items))
        assert len(caught) == 1
        np.testing.assert_array_equal(labels, argmaxes(items))
        # The accident and all that was not yet read; those in flight beside it may have been answered.
        assert 4 <= pool.fallbacks <= 7
        np.testing.assert_array_equal(list(pool.labels(items)), argmaxes(items))
    assert multiprocessing.active_children() == []


def test_workers_that_do_not_start_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uss_bench.crf.workers._START_TIMEOUT_S", 0.0)
    messages: list[str] = []
    items = commands(0, 0, 0, 0, 0, 0)
    with CrfPool(workers=2, refine_fn=pretend, log=messages.append) as pool:
        np.testing.assert_array_equal(list(pool.labels(items)), argmaxes(items))
        assert pool.fallbacks == len(items)
    (message,) = messages
    assert "did not start" in message


def test_errors_of_an_image_reach_the_caller_as_they_are() -> None:
    with CrfPool(workers=2, refine_fn=pretend) as pool:
        with pytest.raises(UssBenchError, match="wrong image") as caught:
            list(pool.labels(commands(0, WRONG, 0)))
        assert isinstance(caught.value, ContractError)
        assert caught.value.hint == "take another"
        assert len(list(pool.labels(commands(0, 0)))) == 2
        assert pool.fallbacks == 0


def test_input_is_read_lazily_and_closing_ends_the_workers() -> None:
    read = 0

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal read
        for each in commands(*[0] * 20):
            read += 1
            yield each

    with CrfPool(workers=2, refine_fn=pretend) as pool:
        labels = pool.labels(stream())
        assert read == 0
        for taken in range(1, 6):
            next(labels)
            assert read <= taken + 3  # four in flight, one of which was just handed out
        assert len(multiprocessing.active_children()) == 2
        labels.close()  # type: ignore[attr-defined]
        assert multiprocessing.active_children() == []


def test_pool_settings_are_checked_at_once() -> None:
    with pytest.raises(UsageError, match="time-out"):
        CrfPool(timeout_s=0)
    with pytest.raises(UsageError, match="engine"):
        CrfPool(engine="dense")  # type: ignore[arg-type]
