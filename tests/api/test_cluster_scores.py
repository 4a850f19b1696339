"""`ClusterScores` inside anybody's loop: the board's numbers, whatever the batches, processes and types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from uss_bench import ClusterScores
from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import per_image_oracle, score

K, C, SIDE = 5, 4, 12


def maps(seed: int, images: int = 6) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, C, (images, SIDE, SIDE))
    pred = np.where(rng.random(target.shape) < 0.6, (target + 1) % K, rng.integers(0, K, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    return pred, target


def brute_force(pred: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return accuracy and mIoU by trying every one-to-one matching, for the most correct pixels."""
    valid = target != 255
    pred, target = pred[valid], target[valid]
    best = max(
        itertools.permutations(range(K), C),
        key=lambda chosen: sum(((pred == k) & (target == c)).sum() for c, k in enumerate(chosen)),
    )
    hits = [((pred == k) & (target == c)).sum() for c, k in enumerate(best)]
    unions = [((pred == k) | (target == c)).sum() for c, k in enumerate(best)]
    return sum(hits) / len(target), float(np.mean(np.array(hits) / unions))


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_best_matching(seed):
    pred, target = maps(seed)
    scores = ClusterScores(C, K)
    scores.update(pred, target)
    found = scores.compute()
    assert (found.accuracy, found.miou) == pytest.approx(brute_force(pred, target))


def test_batches_types_and_order_do_not_matter():
    pred, target = maps(0)
    whole, parts = ClusterScores(C, K), ClusterScores(C, K)
    whole.update(pred, target)
    for index in (3, 0, 5):
        parts.update(torch.tensor(pred[index]), torch.tensor(target[index]).to(torch.uint8))
    parts.update(pred[[1, 2, 4]].astype(np.uint8), np.where(target == 255, -7, target)[[1, 2, 4]])
    assert np.array_equal(whole.counts, parts.counts)


def test_scores_of_clusters_count_by_the_greatest():
    pred, target = maps(1)
    logits = torch.nn.functional.one_hot(torch.tensor(pred), K).movedim(3, 1) + 0.1
    by_label, by_logit = ClusterScores(C, K), ClusterScores(C, K)
    by_label.update(pred, target)
    by_logit.update(logits, torch.tensor(target))
    by_logit.update(logits[0], torch.tensor(target[0]))
    by_label.update(pred[0], target[0])
    assert np.array_equal(by_label.counts, by_logit.counts)


@pytest.mark.parametrize("per_image", [False, True])
def test_states_merge_to_what_one_object_counts(per_image):
    pred, target = maps(2)
    whole = ClusterScores(C, K, per_image=per_image)
    whole.update(pred, target)
    parts = [ClusterScores(C, K, per_image=per_image) for _ in range(3)]
    for index, part in enumerate(parts):
        part.update(pred[2 * index : 2 * index + 2], target[2 * index : 2 * index + 2])
    restored = ClusterScores(C, K, per_image=per_image)
    restored.load_state_dict(parts[2].state_dict())
    merged = parts[0].merge_state([parts[1], restored])
    assert np.array_equal(merged.counts, whole.counts)
    assert merged.compute().miou == whole.compute().miou
    assert np.array_equal(merged.state_dict()["counts"], whole.state_dict()["counts"])


def test_other_rules_are_those_of_the_harness():
    pred, target = maps(3)
    scores = ClusterScores(C, K, per_image=True)
    scores.update(pred, target)
    counts = scores.state_dict()["counts"]
    for options in ({"matching": "many-to-one"}, {"extra_clusters": "drop"}, {"absent_classes": "zero"}):
        assert scores.compute(**options).miou == score(counts, **options).miou
    assert scores.per_image_oracle().miou == per_image_oracle(counts).miou
    assert scores.per_image_oracle().miou >= scores.compute().miou


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.zeros((2, 3, 3), int), np.zeros((2, 3, 4), int), "do not fit"),
        (np.zeros((3, 3)), np.zeros((3, 3), int), "must be integers"),
        (np.full((3, 3), K), np.zeros((3, 3), int), "out of range for 5 clusters"),
        (np.full((3, 3), -1), np.zeros((3, 3), int), "out of range for 5 clusters"),
        (np.zeros((3, 3), int), np.full((3, 3), 7), "out of range for 4 classes"),
        (np.zeros((2, 4, 3, 3)), np.zeros((2, 3, 3), int), "with 5 channels"),
        (np.full((2, K, 3, 3), np.nan), np.zeros((2, 3, 3), int), "NaN"),
        (np.zeros((2, K, 3, 3), int), np.zeros((2, 3, 3), int), "floating point"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_counted(pred, target, message):
    scores = ClusterScores(C, K)
    with pytest.raises(UsageError, match=message):
        scores.update(pred, target)
    assert not scores.counts.any()


def test_a_wrong_image_leaves_its_whole_batch_uncounted():
    pred, target = maps(0, images=2)
    target[1, 0, 0] = C
    scores = ClusterScores(C, K)
    with pytest.raises(UsageError):
        scores.update(pred, target)
    assert not scores.counts.any()


def test_nothing_counted_is_an_error_and_reset_forgets():
    scores = ClusterScores(C, K)
    with pytest.raises(UsageError, match="No pixel"):
        scores.compute()
    scores.update(*maps(0))
    with pytest.raises(UsageError, match="per_image=True"):
        scores.per_image_oracle()
    scores.reset()
    with pytest.raises(UsageError, match="No pixel"):
        scores.compute()


def test_counts_of_other_sizes_are_not_added():
    scores = ClusterScores(C, K)
    scores.update(*maps(0))
    before = scores.counts
    for other in (ClusterScores(C, K + 1), ClusterScores(C + 1, K), ClusterScores(C, K, per_image=True)):
        with pytest.raises(UsageError, match="cannot be added"):
            scores.merge_state([scores, other])
    with pytest.raises(UsageError, match="not one of"):
        scores.load_state_dict(ClusterScores(C, K + 1).state_dict())
    assert np.array_equal(scores.counts, before)


def _count(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    scores = ClusterScores(C, K, per_image=True)
    pred, target = maps(4)
    scores.update(pred[rank::2], target[rank::2])
    np.save(f"{folder}/{rank}.npy", scores.all_reduce().counts)
    torch.distributed.destroy_process_group()


def test_processes_add_up_their_counts(tmp_path):
    torch.multiprocessing.spawn(_count, (str(tmp_path),), nprocs=2)
    whole = ClusterScores(C, K)
    whole.update(*maps(4))
    for rank in range(2):
        assert np.array_equal(np.load(tmp_path / f"{rank}.npy"), whole.counts)


@pytest.mark.parametrize("rule", ["matching", "extra_clusters", "absent_classes"])
def test_a_rule_that_does_not_exist_is_refused_and_gives_no_number(rule):
    scores = ClusterScores(classes=2)
    scores.update(np.array([[0, 1]]), np.array([[0, 1]]))
    with pytest.raises(UsageError, match=f"{rule} = 'many_to_one' is none of "):
        scores.compute(**{rule: "many_to_one"})
