"""The dense CRF on its own: the algebra, the lattice, `refine` and the pool. No reference needed.

`test_crf_reference.py` compares with pydensecrf.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from torchvision import transforms

from uss_bench.crf import CrfParams, CrfPool, engines, filtering, refine, simplices
from uss_bench.crf import lattice as lattices
from uss_bench.crf.lattice import Lattice, Stream, zeros
from uss_bench.errors import ContractError, RunError, UsageError


def grid(height: int, width: int, sxy: float) -> np.ndarray:
    rows, columns = np.indices((height, width), dtype=np.float32).reshape(2, -1)
    return np.stack([columns, rows], axis=1) / np.float32(sxy)


def item(seed: int, classes: int = 4, height: int = 20, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.standard_normal((classes, height, width), dtype=np.float32)


# --------------------------------------------------------------------------------------------------
# Mean field
# --------------------------------------------------------------------------------------------------


def brute_force(unary: np.ndarray, kernels: list[tuple[float, np.ndarray]], iterations: int) -> np.ndarray:
    """Algorithm 1 of the paper pixel by pixel: messages, Potts penalties, local update, normalize."""
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


@pytest.mark.parametrize("block_bytes", [64, 1 << 19])
@pytest.mark.parametrize("classes", [3, 11])
def test_refine_is_the_papers_algorithm(
    classes: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lattice's filters written out as matrices, in blocks of a few pixels and all at once."""
    monkeypatch.setattr("uss_bench.crf.meanfield.BLOCK_BYTES", block_bytes)
    engines._smoothing.cache_clear()
    image, log_probs = item(0, classes, 5, 6)
    params = CrfParams(5, 1.5, 3.0, 4.0, 60.0, 4.0, 1e-3)
    probabilities = np.exp(log_probs.astype(float)) / np.exp(log_probs.astype(float)).sum(axis=0)
    unary = -np.log(probabilities.clip(1e-3, 1)).reshape(classes, -1).T
    colors = image.reshape(-1, 3).astype(np.float32) / 60
    features = (grid(5, 6, 1.5), np.concatenate([grid(5, 6, 4), colors], axis=1))
    matrices = [Lattice(each).filter(np.eye(30, dtype=np.float32)).astype(float) for each in features]
    expected = brute_force(unary, list(zip((3.0, 4.0), matrices, strict=True)), 5)
    actual = refine(image, log_probs, params).reshape(classes, -1).T
    assert abs(expected - np.exp(-unary)).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    engines._smoothing.cache_clear()


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
    """Points of a color image: (N, 5) in units of the deviations."""
    image, _ = item(1, height=30, width=40)
    smooth = image.astype(np.float32).reshape(30, 40, 3).cumsum(axis=1) / 40
    return np.concatenate([grid(30, 40, 8), smooth.reshape(-1, 3) / np.float32(20)], axis=1)


@pytest.mark.parametrize("channels", [1, 4, 5, 8, 11, 16, 20, 27, 40, 63, 64, 70, 130])
@pytest.mark.parametrize("onto", [False, True])
def test_rows_are_added_as_plain_arithmetic_adds_them(channels: int, onto: bool) -> None:
    length = filtering.row_length(channels)
    assert length >= channels
    out, first, second = zeros((3, 5, length))
    assert not out.ctypes.data % 64
    first[:], second[:] = np.random.default_rng(channels).standard_normal((2, 5, length))
    expected = out.copy()
    expected[1] = first[2] + np.float32(0.3) * second[3]
    if onto:
        out, expected = first, first.copy()
        expected[1] = expected[1] + np.float32(0.3) * second[3]
    add = numba.njit(lambda *arguments: filtering.add_rows(*arguments))
    add(out, 1, *((out, 1) if onto else (first, 2)), np.float32(0.3), second, 3, filtering.length_of(out))
    np.testing.assert_array_equal(out, expected)


def test_points_are_the_weighted_means_of_their_vertices(points: np.ndarray) -> None:
    """Coordinates are read back from the keys, and compared with the points in the hyperplane."""
    d = points.shape[1]
    scale = lattices._axis_scale(d)
    lows, strides = lattices._key_layout(points, scale)
    vertices, weights, keys, _ = simplices.find_simplices(points, scale, lows, strides)
    left = keys[vertices].astype(np.int64)
    coordinates = np.empty((*vertices.shape, d + 1))
    for j in reversed(range(d)):
        coordinates[..., j], left = left // strides[j] + lows[j], left % strides[j]
    coordinates[..., d] = -coordinates[..., :d].sum(axis=2)
    assert len(np.unique(keys[1:])) == len(keys) - 1
    np.testing.assert_array_equal((coordinates - coordinates[..., :1]) % (d + 1), 0)
    np.testing.assert_array_equal(
        coordinates[:, :, 0] % (d + 1), np.arange(d + 1) * np.ones((len(points), 1))
    )
    scaled = points * scale
    elevated = np.stack(
        [scaled[:, j:].sum(axis=1) - (j * scaled[:, j - 1] if j else 0) for j in range(d + 1)], 1
    )
    means = (weights[..., None] * coordinates).sum(axis=1)
    np.testing.assert_allclose(means, elevated, atol=1e-3)


def test_barycentric_weights_are_a_partition_of_unity(points: np.ndarray) -> None:
    weights = Lattice(points, normalized=False).weights
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert weights.min() >= -1e-5


def test_neighbors_are_mutual(points: np.ndarray) -> None:
    for after, before in Lattice(points).neighbors.transpose(0, 2, 1):
        vertex = np.flatnonzero(after)
        np.testing.assert_array_equal(before[after[vertex]], vertex)


def plainly(lattice: Lattice, values: np.ndarray) -> np.ndarray:
    """Splat, blur and slice number by number, in float32."""
    table = np.zeros((lattice.neighbors.shape[1], values.shape[1]), np.float32)
    corners = range(lattice.vertices.shape[1])
    for n in range(len(values)):
        for r in corners:
            table[lattice.vertices[n, r]] += lattice.weights[n, r] * values[n]
    for before, after in lattice.neighbors.transpose(0, 2, 1):
        table = table + np.float32(0.5) * (table[before] + table[after])
    out = np.zeros_like(values)
    for n in range(len(values)):
        for r in corners:
            out[n] += lattice.weights[n, r] * table[lattice.vertices[n, r]]
    return out


@pytest.mark.parametrize("channels", [1, 6, 27, 70])
def test_the_filter_is_splat_blur_and_slice_to_the_last_bit(points: np.ndarray, channels: int) -> None:
    values = np.random.default_rng(2).random((len(points), channels), dtype=np.float32)
    for lattice in (Lattice(points), Lattice(points, normalized=False), Lattice(grid(30, 40, 1))):
        np.testing.assert_array_equal(lattice.filter(values), plainly(lattice, values))


@pytest.mark.parametrize("block", [1, 7, 64, 1000, 10**6])
@pytest.mark.parametrize("features", ["colors", "grid", "tall grid", "shuffled grid"])
def test_a_stream_gives_what_the_whole_lattice_gives_to_the_last_bit(
    points: np.ndarray, block: int, features: str
) -> None:
    """Also where values are replaced as soon as their block was read, which is how mean field uses it."""
    choices = {"colors": points, "grid": grid(30, 40, 1), "tall grid": grid(400, 3, 0.7)}
    rng = np.random.default_rng(5)
    chosen = choices.get(features, rng.permutation(choices["grid"]))
    values = zeros((len(chosen), 4))
    values[:] = rng.random(values.shape, dtype=np.float32)
    expected = Lattice(chosen).filter(values)
    stream = Stream(Lattice(chosen), block)
    rings = stream.rings(4)
    for _ in range(2):  # rings are not cleared between two passes
        ours, replaced = zeros(values.shape), values.copy()
        for number, start in enumerate(range(0, len(chosen), block)):
            part = slice(start, start + block)
            stream.advance(replaced, number, rings)
            corners = stream.lattice.corners(part)
            filtering.slice_(rings[-1], *corners, np.float32(1), ours[part], filtering.length_of(ours))
            replaced[part] = np.nan
        np.testing.assert_array_equal(ours, expected)


def test_on_a_grid_a_stream_holds_only_what_lies_near() -> None:
    lattice = Lattice(grid(200, 80, 1))
    vertices = lattice.neighbors.shape[1]
    assert Stream(lattice, 64).rows < vertices / 10


def test_normalization_preserves_what_it_should(points: np.ndarray) -> None:
    ones = np.ones((len(points), 1), np.float32)
    lattice = Lattice(points, normalized=False)
    mass = lattice.filter(ones)
    np.testing.assert_allclose(lattice.filter(7 * ones) / mass, 7, rtol=1e-5)
    # D^−½ G D^−½ keeps √D: its largest eigenvalue is one.
    np.testing.assert_allclose(Lattice(points).filter(np.sqrt(mass)), np.sqrt(mass), rtol=1e-4)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.04), (5, 0.07)])
def test_lattice_approximates_the_gaussian(d: int, tolerance: float, points: np.ndarray) -> None:
    """Weighted means of smooth values, which the filter changes by up to 28 % (2-d) and 18 % (5-d) of
    their range, agree with exact ones within 4 and 7 % of it everywhere, and within 1 % on average."""
    features = np.ascontiguousarray(points[:, :d])
    smooth = np.stack([np.sin(features[:, 0]), np.cos(features[:, 1] / 2)], axis=1).astype(np.float32)
    distances = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(axis=2)
    kernel = np.exp(-distances / 2)
    exact = kernel @ smooth / kernel.sum(axis=1, keepdims=True)
    lattice = Lattice(features, normalized=False)
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
    with ThreadPoolExecutor(4) as threads:
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
        (CrfParams(gaussian_sxy=1e-6), "too small for this image"),
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


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_the_image_is_handed_over_as_the_lineage_does_it(channels: str, truncate: bool) -> None:
    """Its steps, literally: a normalized tensor, an image again by torchvision, reversed by numpy."""
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image, log_probs = item(11, height=40, width=40)
    image[0] = np.arange(40)[:, None]
    handed_over = image
    if truncate:
        tensor = transforms.functional.to_tensor(image)
        tensor = transforms.Normalize(mean, deviation)(tensor)
        for plane, m, s in zip(tensor, mean, deviation, strict=True):
            plane.mul_(s).add_(m)
        handed_over = np.array(transforms.functional.to_pil_image(tensor))
        difference = image.astype(int) - handed_over
        assert set(np.unique(difference)) == {0, 1}
    if channels == "bgr":
        handed_over = handed_over[:, :, ::-1]
    params = CrfParams(bilateral_srgb=30.0, channels=channels, truncate=truncate)
    expected = refine(handed_over, log_probs, CrfParams(bilateral_srgb=30.0))
    np.testing.assert_array_equal(refine(image, log_probs, params), expected)
    if truncate or channels == "bgr":
        assert (refine(image, log_probs, CrfParams(bilateral_srgb=30.0)) != expected).any()


# --------------------------------------------------------------------------------------------------
# The pool
# --------------------------------------------------------------------------------------------------

Labels = Callable[..., np.ndarray]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Labels], None]:
    """Put something else in the place of the refinement."""
    return lambda function: monkeypatch.setattr("uss_bench.crf.pool.label_map", function)


def unrefined(image: np.ndarray, log_probs: np.ndarray, **_: object) -> np.ndarray:
    return log_probs.argmax(axis=0)


def test_pool_equals_refine_in_order() -> None:
    items = [item(seed, classes=3, height=10 + seed, width=12) for seed in range(7)]
    expected = [refine(*each).argmax(axis=0) for each in items]
    for workers in (1, 2, 5):
        with CrfPool(workers=workers) as pool:
            for _ in range(2):
                labels = list(pool.labels(items))
                assert {each.dtype for each in labels} == {np.dtype(np.uint8)}
                for actual, wanted in zip(labels, expected, strict=True):
                    np.testing.assert_array_equal(actual, wanted)
            assert list(pool.labels([])) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("crf")]


def test_the_pool_has_the_parameters_and_the_engine_that_it_was_given() -> None:
    one, params = item(3, height=40, width=40), CrfParams(bilateral_srgb=30.0, channels="bgr")
    with CrfPool(params, workers=2) as pool:
        (labels,) = pool.labels([one])
    np.testing.assert_array_equal(labels, refine(*one, params).argmax(axis=0))
    assert (labels != refine(*one).argmax(axis=0)).any()


def test_many_classes_need_sixteen_bits() -> None:
    with CrfPool(CrfParams(iterations=0), workers=1) as pool:
        image, log_probs = item(0, classes=300)
        (labels,) = pool.labels([(image, log_probs)])
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, log_probs.argmax(axis=0))


def test_images_that_finish_out_of_order_are_handed_out_in_order(pretend) -> None:
    """The first is refined last: it waits for all others that fit beside it."""
    items = [item(seed, height=8, width=9) for seed in range(4)]
    others = threading.Semaphore(0)

    def late_first(image: np.ndarray, log_probs: np.ndarray, **_: object) -> np.ndarray:
        if image is items[0][0]:
            for _ in range(3):
                assert others.acquire(timeout=60)
        else:
            others.release()
        return log_probs.argmax(axis=0)

    pretend(late_first)
    with CrfPool(workers=2) as pool:
        labels = list(pool.labels(items))
    np.testing.assert_array_equal(labels, [log_probs.argmax(axis=0) for _, log_probs in items])


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ((IMAGE, NOT_FINITE), ContractError, "The CRF of image 'b' failed. .* hold NaN"),
        ((IMAGE[:5], LOG_PROBS), ContractError, r"The CRF of image 'b' failed. .* cover \(20, 24\) pixels"),
        ((IMAGE, LOG_PROBS[0]), ContractError, "The CRF of image 'b' failed"),
    ],
)
def test_an_image_that_cannot_be_refined_is_named_at_its_turn(wrong, kind, message: str) -> None:
    with CrfPool(workers=2) as pool:
        labels = pool.labels([item(0), wrong, item(1)], names=["a", "b", "c"])
        next(labels)
        with pytest.raises(kind, match=message):
            next(labels)
        assert len(list(pool.labels([item(0), item(1)]))) == 2
        with pytest.raises(kind, match="The CRF of image '2' failed"):
            list(pool.labels([item(0), wrong]))


def test_memory_that_runs_out_is_told_with_the_image(pretend) -> None:
    def greedy(image: np.ndarray, log_probs: np.ndarray, **_: object) -> np.ndarray:
        raise MemoryError("Unable to allocate 9 TiB")

    pretend(greedy)
    with CrfPool(workers=2) as pool, pytest.raises(RunError, match="out of memory on image 'a'"):
        list(pool.labels([item(0)], names=["a"]))


@pytest.mark.parametrize(("fitting", "in_flight"), [(0, 1), (1, 1), (2, 2), (3, 3), (100, 4)])
def test_what_is_read_ahead_is_bounded_by_bytes_and_by_the_threads(
    pretend, fitting: int, in_flight: int
) -> None:
    """With room for so many images, but at least one; two threads hold four at most."""
    pretend(unrefined)
    items = [item(seed, height=8, width=9) for seed in range(20)]
    read = 0

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal read
        for each in items:
            read += 1
            yield each

    with CrfPool(workers=2, max_bytes=fitting * engines.bytes_needed(*items[0])) as pool:
        labels = pool.labels(stream())
        assert read == 0
        for taken in range(1, 6):
            next(labels)
            assert read == taken - 1 + in_flight
        labels.close()  # type: ignore[attr-defined]
        assert read == 4 + in_flight
        assert len(list(pool.labels(items))) == 20


def test_larger_images_leave_room_for_fewer(pretend) -> None:
    sizes = [(30, 30), (30, 30), (8, 8), (8, 8), (8, 8), (30, 30)]
    items = [item(0, height=height, width=width) for height, width in sizes]
    most = 2 * engines.bytes_needed(*items[0])
    held = highest = 0

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal held, highest
        for each in items:
            held += engines.bytes_needed(*each)
            highest = max(highest, held)
            yield each

    pretend(unrefined)
    with CrfPool(workers=4, max_bytes=most) as pool:
        for each, _ in zip(items, pool.labels(stream()), strict=True):
            held -= engines.bytes_needed(*each)
    assert highest <= 2 * most


def test_a_consumer_that_stops_cancels_what_waits(pretend) -> None:
    started, go = threading.Semaphore(0), threading.Event()

    def wait(image: np.ndarray, log_probs: np.ndarray, **_: object) -> np.ndarray:
        started.release()
        assert go.wait(60)
        return log_probs.argmax(axis=0)

    pretend(wait)
    with CrfPool(workers=1) as pool:
        labels = pool.labels([item(seed) for seed in range(9)])
        threading.Timer(0.2, go.set).start()
        next(labels)
        go.clear()
        labels.close()  # type: ignore[attr-defined]
        go.set()
    assert started.acquire(timeout=60)
    assert not (started.acquire(blocking=False) and started.acquire(blocking=False))


INTERRUPTED = """
import numpy as np
from uss_bench.crf import CrfPool

rng = np.random.default_rng(0)
item = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), rng.random((4, 64, 64), dtype=np.float32)
with CrfPool(workers=2) as pool:
    for _ in pool.labels(item for _ in range(10**9)):
        print("refined", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupt_ends_the_process() -> None:
    command = [
        sys.executable,
        "-c",
        "import signal\nsignal.signal(2, signal.default_int_handler)" + INTERRUPTED,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "refined\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert errors.strip().endswith("KeyboardInterrupt")


def test_pool_settings_are_checked_at_once() -> None:
    with pytest.raises(UsageError, match="engine"):
        CrfPool(engine="dense")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="iterations"):
        CrfPool(CrfParams(iterations=-1))
