"""`neco@1` and `hummingbird@1` against literal readings of what NeCo's and open-hummingbird's code does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import MemoryFeatures
from held_memory import Held
from paired_files import voc
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import uss_bench
from uss_bench.errors import DataError
from uss_bench.experiment.backbone_features import measure_backbones
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.neco import neco_clusterings
from uss_bench.experiment.setup import Setup
from uss_bench.nn.lloyd import inertia
from uss_bench.results.feature_record import FeatureSettings
from uss_bench.runtime.seeding import derive_seed

SIDE, MASK, CLASSES, VOID = 64, 25, 21, 255
TEST, TRAIN = ["2007_000033", "2007_000042"], ["2007_000032", "2007_000039"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Setup, "check_scored_splits", lambda self, **options: None
    )  # a process for each split
    return voc(tmp_path / "data")


def measured(registry, files, protocol, tmp_path, **settings):
    asked = CellSpec(
        method="dino",
        dataset="voc21",
        data={"root": str(files.root), "partial": True},
        protocol=protocol,
        feature_dtype="float32",
    )
    found = measure_backbones(
        asked,
        ["patchstats"],
        FeatureSettings(**settings),
        registry,
        seeds=[4],
        device=torch.device("cpu"),
        out=tmp_path,
    )
    ((_, record),) = found
    return {row.name: row for row in record.rows}


def squashed(files, name):
    image = Image.open(files.root / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg").convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def tokens_of(files, names):
    """Return (images · patches, D), row by row."""
    backbone = uss_bench.backbone("patchstats", device="cpu")
    found = [backbone(squashed(files, name))["tokens"][0].flatten(1).T for name in names]
    return torch.cat(found)


def by_torch(array, side):
    found = F.interpolate(torch.from_numpy(np.array(array))[None, None].float(), size=(side, side))
    return found[0, 0].numpy().astype(np.int64)


def mean_jaccard(prediction, truth, class_of):
    """The mean over all classes of TP / (TP + FP + FN), an absent class being 0, in loops over classes."""
    renamed = np.array([class_of[k] for k in prediction])
    values = []
    for one in range(CLASSES):
        hit = ((renamed == one) & (truth == one)).sum()
        wrong = ((renamed == one) ^ (truth == one)).sum()
        values.append(hit / max(hit + wrong, 1e-8))
    return float(np.mean(values))


def hungarian_by_iou(prediction, truth, clusters):
    scores = np.zeros((CLASSES, clusters))
    for one in range(CLASSES):
        for k in range(clusters):
            both = ((prediction == k) & (truth == one)).sum()
            either = ((prediction == k) | (truth == one)).sum()
            scores[one, k] = both / max(either, 1e-8)
    return {k: one for one, k in zip(*linear_sum_assignment(1 - scores), strict=True)}


def best_precision(prediction, truth, clusters):
    """Every cluster's class of greatest precision; the first of equals, and class 0 for an unused cluster."""
    found = {}
    for k in range(clusters):
        precision = [
            ((prediction == k) & (truth == one)).sum() / max((prediction == k).sum(), 1e-8)
            for one in range(CLASSES)
        ]
        found[k] = int(np.argmax(precision))
    return found


def test_over_clustering_under_neco_is_a_literal_reading_of_its_code(registry, files, tmp_path):
    rows = measured(
        registry,
        files,
        f"neco@1[eval_side={SIDE},score_side={MASK}]",
        tmp_path,
        measures=("kmeans", "over-clustering"),
        clusters=(40,),
    )
    tokens = tokens_of(files, TEST)
    grid = SIDE // 8
    maps = tokens.view(2, grid, grid, -1).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(derive_seed(4, "neco"))
    clusterings = neco_clusterings(MemoryFeatures(maps), [CLASSES, 40], generator)
    truth = []
    for name in TEST:
        at_input = Image.fromarray(files.labels[name]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        truth.append(by_torch(at_input, MASK))
    truth = np.stack(truth).ravel()
    components = PCA(48).fit_transform(StandardScaler().fit_transform(tokens.double().numpy()))
    for clusters, name, match in (
        (CLASSES, "kmeans K=21", hungarian_by_iou),
        (40, "over-clustering K=40", best_precision),
    ):
        found = clusterings[clusters]
        assigned = found.classify(found.embed({"tokens": maps})).argmax(dim=1).numpy()
        # The clusters are those of the nearest mean, in the space that scikit-learn finds.
        own = assigned.ravel()
        means = np.stack([components[own == k].mean(axis=0) for k in range(clusters) if (own == k).any()])
        distance = ((components[:, None] - means) ** 2).sum(axis=2)
        names = [k for k in range(clusters) if (own == k).any()]
        assert (np.array(names)[distance.argmin(axis=1)] == own).mean() > 0.98
        prediction = np.stack([by_torch(one, MASK) for one in assigned]).ravel()
        valid = truth != VOID
        literal = mean_jaccard(
            prediction[valid], truth[valid], match(prediction[valid], truth[valid], clusters)
        )
        assert rows[name].scores.miou == pytest.approx(100 * literal, abs=1e-3)
        assert rows[name].scores.pixels == valid.sum()


def test_k_means_of_neco_is_as_good_as_that_of_scikit_learn_in_the_same_space():
    rng = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(12, 60, generator=rng)
    tokens = centers[torch.randint(12, (40, 6, 6), generator=rng)].permute(0, 3, 1, 2)
    tokens = 5 + 3 * (tokens + torch.randn(tokens.shape, generator=rng))
    found = neco_clusterings(MemoryFeatures(tokens), [9], torch.Generator().manual_seed(1))[9]
    points = found.embed({"tokens": tokens}).permute(0, 2, 3, 1).reshape(-1, 50)
    flat = tokens.permute(0, 2, 3, 1).reshape(-1, 60).double().numpy()
    expected = PCA(50).fit_transform(StandardScaler().fit_transform(flat))
    signs = np.sign((points.numpy() * expected).sum(axis=0))
    np.testing.assert_allclose(points.numpy() * signs, expected, atol=2e-3)
    known = KMeans(9, init="random", n_init=5, max_iter=100, algorithm="lloyd", random_state=0).fit(expected)
    assert inertia(points, found._centroids) <= 1.05 * known.inertia_


def test_fewer_patches_than_clusters_are_refused():
    with pytest.raises(DataError, match="8 patches cannot be 9 clusters"):
        neco_clusterings(MemoryFeatures(torch.randn(2, 5, 2, 2)), [3, 9], torch.Generator())


def test_k_means_of_neco_holds_no_more_for_more_images():
    class Many:
        """So many images, made when they are read."""

        def __init__(self, images: int) -> None:
            self.images = images

        def __len__(self) -> int:
            return self.images

        def batch(self, indices):
            seed = torch.Generator().manual_seed(int(indices[0]))
            return {"tokens": torch.randn(len(indices), 60, 16, 16, generator=seed)}

    def peak(images: int, clusters: int) -> int:
        with Held() as memory:
            neco_clusterings(
                Many(images), [clusters], torch.Generator().manual_seed(0), iterations=1, starts=1
            )
        return memory.peak

    few, many = peak(80, 60), peak(480, 60)
    tokens = 400 * 256
    assert many - few <= 3 * 8 * tokens, "an order of the tokens, and nothing of their 60 channels"
    assert peak(80, 500) < 2.5 * 4 * 500 * 256 * 50 + 4 * 2**26


def test_retrieval_under_hummingbird_is_a_literal_reading_of_its_code(registry, files, tmp_path):
    size = 24
    rows = measured(
        registry,
        files,
        f"hummingbird@1[eval_side={SIDE}]",
        tmp_path,
        measures=("retrieval",),
        bank_size=2 * size,
    )
    grid, keys, values = SIDE // 8, [], []
    draws = torch.Generator().manual_seed(derive_seed(4, "memory bank", 1, 0))
    for name, features in zip(TRAIN, tokens_of(files, TRAIN).split(grid * grid), strict=True):
        label = by_torch(files.labels[name], SIDE)
        label[label == VOID] = 0
        patches = label.reshape(grid, 8, grid, 8).transpose(0, 2, 1, 3).reshape(grid * grid, 64)
        frequency = np.zeros(CLASSES)
        for patch in patches:
            frequency[np.unique(patch)] += 1
        score = np.array([frequency[np.unique(patch)].sum() for patch in patches])
        score = score * torch.rand(len(score), generator=draws).numpy()
        for chosen in np.argsort(score, kind="stable")[:size]:
            keys.append(features[chosen].double().numpy())
            values.append(np.bincount(patches[chosen], minlength=CLASSES) / 64)
    keys = np.stack([key / np.linalg.norm(key) for key in keys])
    values = np.stack(values)
    prediction, truth = [], []
    for name, features in zip(TEST, tokens_of(files, TEST).split(grid * grid), strict=True):
        shares = np.zeros((grid * grid, CLASSES))
        for place, query in enumerate(features.double().numpy()):
            cosine = keys @ query / np.linalg.norm(query)
            nearest = np.argsort(-cosine)[:30]
            weights = np.exp((cosine[nearest] - cosine.max()) / 0.02)
            shares[place] = weights @ values[nearest] / weights.sum()
        shares = torch.from_numpy(shares.T.reshape(1, CLASSES, grid, grid)).float()
        at_pixels = F.interpolate(shares, size=(SIDE, SIDE), mode="bilinear")
        prediction.append(at_pixels[0].argmax(dim=0).numpy())
        truth.append(by_torch(files.labels[name], SIDE))
    prediction, truth = np.stack(prediction).ravel(), np.stack(truth).ravel()
    valid = truth != VOID
    match = hungarian_by_iou(prediction[valid], truth[valid], CLASSES)
    literal = mean_jaccard(prediction[valid], truth[valid], match)
    assert rows["retrieval"].scores.miou == pytest.approx(100 * literal, abs=0.05)
    assert rows["retrieval"].scores.pixels == valid.sum()
    assert rows["retrieval"].matching == "iou"
