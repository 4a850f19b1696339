"""Measured against claimed: the rule on data of known truth, and every difference that forbids it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from uss_bench.claims import Claim, check_claims, claim_differences, reproduction
from uss_bench.protocol import TrainingGeometry, get_protocol
from uss_bench.results.arrays import Arrays
from uss_bench.results.collection import Configuration, Entry, gather
from uss_bench.results.files import read_record, write_record
from uss_bench.results.record import (
    SCHEMA,
    BackboneId,
    Cell,
    CheckpointResult,
    ClassRow,
    DatasetId,
    MethodId,
    RunRecord,
    ScoreRow,
)

CELL = Cell(
    method=MethodId(name="smooseg", params={"steps": 3000, "b_inter": 0.5, "dim": 64}, code="c0de"),
    dataset=DatasetId(name="cityscapes27", fingerprint="f", train_split="train", test_split="val"),
    backbone=BackboneId(name="dino_vits8", sha256="ab12", feature_dtype="float16"),
    training=TrainingGeometry(crops="five", crop_jpeg=True),
    protocol="stego320@2",
    protocol_hash=get_protocol("stego320@2").hash,
    alpha=2.0,
    seed=0,
)
CLAIM = Claim(
    paper="smooseg",
    table="Table 2",
    label="+ SmooSeg",
    method="smooseg",
    source="own",
    dataset="cityscapes27",
    split="val",
    train_split="train",
    backbone="dino_vits8",
    crf=True,
    checkpoint="last",
    protocol="stego320@2",
    accuracy=82.8,
    miou=18.4,
    params={"steps": 3000, "b_inter": 0.5},
)


def status(values, claim=CLAIM, interval=None, cell=CELL, metric="miou"):
    return reproduction(claim, values=values, interval=interval, cell=cell, metric=metric)


def on(protocol: str, alpha: float = 2.0) -> Cell:
    return replace(CELL, protocol=protocol, protocol_hash=get_protocol(protocol).hash, alpha=alpha)


# --- The rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_claim_from_the_same_distribution_is_reproduced_ninety_five_times_in_a_hundred(seeds):
    rng = np.random.default_rng(seeds)
    draws = rng.normal(18.0, 0.01, (1000, seeds + 1))
    claims = [replace(CLAIM, miou=float(one), decimals=6) for one in draws[:, 0]]
    found = [status(tuple(ours), claim)[0] for ours, claim in zip(draws[:, 1:].tolist(), claims, strict=True)]
    share = {name: found.count(name) / len(found) for name in set(found)}
    assert share["reproduced"] == pytest.approx(0.95, abs=0.021)  # three standard errors
    assert share["higher"] == pytest.approx(share["lower"], abs=0.021)


def test_against_the_interval_computed_by_hand():
    # Three seeds: mean 18.0, s = 0.1, t(0.975, 2) = 4.302653, so 0.1 × 4.302653 × √(4/3) = 0.496827.
    values = (17.9, 18.0, 18.1)
    # Printed with two decimals a number may be 0.005 off, so that 0.501827 from the mean is the limit.
    for miou, expected in ((18.50, "reproduced"), (18.51, "lower"), (17.50, "reproduced"), (17.49, "higher")):
        assert status(values, replace(CLAIM, miou=miou, decimals=2))[0] == expected, miou


def test_a_number_printed_with_one_decimal_may_be_half_a_tenth_off():
    equal = (18.44, 18.44)
    assert status(equal)[0] == "reproduced"
    assert status((18.46, 18.46))[0] == "higher"
    assert status((18.34, 18.34))[0] == "lower"
    assert status(equal, replace(CLAIM, decimals=2))[0] == "higher"


def test_each_metric_is_compared_with_its_own_number():
    assert status((82.7, 82.9), metric="accuracy")[0] == "reproduced"
    assert status((60.0, 60.1), metric="accuracy")[0] == "lower"


def test_one_seed_is_judged_by_the_interval_over_images_and_says_so():
    assert status((18.0,), interval=(17.5, 18.6))[0] == "reproduced"
    assert status((17.0,), interval=(16.5, 17.5))[0] == "lower"
    assert status((20.0,), interval=(19.5, 20.5))[0] == "higher"
    assert "one seed" in status((18.0,), interval=(17.5, 18.6))[1]
    assert status((18.0,)) == ("n/a", "one seed says nothing of the spread: run more, --seeds 3")


def test_several_seeds_are_not_helped_by_the_interval_over_images():
    assert status((16.0, 16.01, 16.02), interval=(10.0, 22.0))[0] == "lower"


def test_seeds_that_lie_far_apart_confirm_nothing_but_can_still_refute():
    apart = (10.0, 18.0, 26.0)
    assert status(apart)[0] == "n/a"
    assert "too uncertain" in status(apart)[1]
    assert status((70.0, 75.0, 80.0))[0] == "higher"


def test_where_there_is_nothing_to_compare_nothing_is_said():
    assert status((18.0, 18.1), replace(CLAIM, miou=None))[0] == "n/a"
    assert status(())[0] == "n/a"
    assert status((18.0, float("nan")))[0] == "n/a"


# --- The same experiment, or not -----------------------------------------------------------------

DATA, BACKBONE, METHOD = CELL.dataset, CELL.backbone, CELL.method
DIFFERENT = {
    "dataset toy27 instead of cityscapes27": replace(CELL, dataset=replace(DATA, name="toy27")),
    "test split picie-eval instead of val": replace(CELL, dataset=replace(DATA, test_split="picie-eval")),
    "train split train-partial instead of train": replace(
        CELL, dataset=replace(DATA, train_split="train-partial")
    ),
    "at most 50 images of each split instead of all": replace(CELL, dataset=replace(DATA, limit=50)),
    "backbone dino_vits8_hub instead of dino_vits8": replace(
        CELL, backbone=replace(BACKBONE, name="dino_vits8_hub")
    ),
    "eval_side 322 instead of 320": on("stego322@2"),
    "training crop_jpeg false instead of true": replace(CELL, training=TrainingGeometry(crops="five")),
    "training side 256 instead of 224": replace(CELL, training=replace(CELL.training, side=256)),
    "flip false instead of true": on("stego320@2[flip=false]"),
    "resize bicubic instead of nearest": on("stego320@2[resize=bicubic]"),
    "alpha 4.0 instead of 2.0": on("stego320@2", alpha=4.0),
    "steps 500 instead of 3000": replace(
        CELL, method=replace(METHOD, params={"steps": 500, "b_inter": 0.5, "dim": 64})
    ),
    "no parameter b_inter, which the claim has at 0.5": replace(
        CELL, method=replace(METHOD, params={"steps": 3000, "dim": 64})
    ),
}


@pytest.mark.parametrize("told", DIFFERENT)
def test_every_difference_is_named_and_forbids_a_verdict(told):
    assert claim_differences(CLAIM, DIFFERENT[told]) == [told]
    assert status((18.4, 18.4), cell=DIFFERENT[told]) == ("protocol differs", told)


def test_the_same_experiment_has_no_differences_whatever_the_seed_and_what_the_claim_leaves_open():
    assert claim_differences(CLAIM, CELL) == []
    other = replace(CELL, seed=7, method=replace(METHOD, params={**METHOD.params, "dim": 32}))
    assert claim_differences(CLAIM, other) == []


def test_several_differences_are_all_named():
    cell = replace(on("stego322@2"), dataset=replace(DATA, limit=50))
    assert status((18.4, 18.4), cell=cell)[1] == (
        "at most 50 images of each split instead of all; eval_side 322 instead of 320"
    )


@pytest.mark.parametrize(
    ("unstated", "told"),
    [
        ({"crf": None}, "the source does not say whether a CRF was applied"),
        ({"split": ""}, "test split val instead of one that is not stated"),
        ({"backbone": ""}, "backbone dino_vits8 instead of one that is not stated"),
        ({"protocol": ""}, "protocol stego320@2 instead of one that is not stated"),
        ({"protocol": "iic200"}, "protocol stego320@2 instead of iic200"),
    ],
)
def test_what_a_source_leaves_open_is_no_license_to_call_it_reproduced(unstated, told):
    assert claim_differences(replace(CLAIM, **unstated), CELL) == [told]


def test_a_method_that_sets_alpha_itself_is_compared_by_the_alpha_it_ran_with():
    eagle = replace(CLAIM, protocol="stego320@2[alpha=4.0]")
    assert claim_differences(eagle, on("stego320@2", alpha=4.0)) == []
    assert claim_differences(eagle, on("stego320@2[alpha=4.0]", alpha=4.0)) == []
    assert claim_differences(eagle, CELL) == ["alpha 2.0 instead of 4.0"]


def test_without_a_crf_the_parameters_of_the_crf_do_not_count():
    raw = replace(CLAIM, crf=False)
    assert claim_differences(raw, on("stego320@2", alpha=4.0)) == []


def test_other_weights_under_a_cards_name_are_told_where_the_digest_is_published():
    claim = replace(CLAIM, backbone="dinov2_vitb14")
    cell = replace(CELL, backbone=BackboneId(name="dinov2_vitb14", sha256="0" * 64, feature_dtype="float16"))
    assert claim_differences(claim, cell) == [
        "other weights (000000000000) than those published as dinov2_vitb14"
    ]
    published = "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    assert claim_differences(claim, replace(cell, backbone=replace(cell.backbone, sha256=published))) == []


# --- Settings against the ledger -----------------------------------------------------------------


def row(miou: float, clusters: int) -> ScoreRow:
    return ScoreRow(
        accuracy=82.8,
        miou=miou,
        iou=[miou, None],
        precision=[miou, None],
        recall=[miou, None],
        class_of_cluster=[0, 1][:clusters],
        clusters_used=clusters,
        pixels=9,
    )


def a_setting(
    folder: Path, mious: list[float], *, cell: Cell = CELL, counts: np.ndarray | None = None
) -> Configuration:
    """A setting with a seed for each value; raw is 1 point below, the label-selected 2 points above."""
    counts = np.ones((3, 1, 2), dtype=np.int64) if counts is None else counts
    clusters = counts.shape[1]
    entries = []
    for seed, miou in enumerate(mious):
        seeded = replace(cell, seed=seed)
        record = RunRecord(
            schema=SCHEMA,
            id=seeded.id,
            status="done",
            cell=seeded,
            protocol=get_protocol("stego320@2"),
            classes=[ClassRow(name=name, color=(1, 2, 3)) for name in ("road", "sky")],
            clusters=clusters,
            last=CheckpointResult(step=None, raw=row(miou - 1, clusters), crf=row(miou, clusters)),
            selected=CheckpointResult(step=400, raw=row(miou + 1, clusters), crf=row(miou + 2, clusters)),
        )
        keys = [(checkpoint, kind) for checkpoint in ("last", "selected") for kind in ("raw", "crf")]
        arrays = Arrays([str(i) for i in range(len(counts))], dict.fromkeys(keys, counts), [], {})
        path, _ = write_record(folder, record, arrays, None)
        entries.append(Entry(path, read_record(path)))
    (setting,) = gather(entries)
    return setting


def test_a_setting_is_compared_refined_or_raw_last_or_selected_as_the_claim_is(tmp_path):
    setting = a_setting(tmp_path, [18.0, 18.1, 18.2])
    for crf, checkpoint, measured in (
        (True, "last", 18.1),
        (False, "last", 17.1),
        (True, "selected", 20.1),
        (False, "selected", 19.1),
        (True, "unstated", 18.1),
    ):
        claim = replace(CLAIM, crf=crf, checkpoint=checkpoint, miou=measured)
        accuracy, miou = check_claims([setting], [claim])
        assert (accuracy.metric, miou.metric) == ("accuracy", "miou")
        assert miou.configuration is setting
        assert miou.claim is claim
        assert miou.measured == pytest.approx(measured)
        assert len(miou.values) == 3
        assert (miou.refinement, miou.checkpoint) == (
            "crf" if crf else "raw",
            "selected" if checkpoint == "selected" else "last",
        )
        assert miou.status == "reproduced"


def test_claims_of_other_methods_and_datasets_repeats_and_settings_are_left_out(tmp_path):
    setting = a_setting(tmp_path, [18.0, 18.1])
    others = [
        replace(CLAIM, method="stego"),
        replace(CLAIM, dataset="potsdam3"),
        replace(CLAIM, paper="ds2dl", table="Table 1", source="cited"),
        replace(CLAIM, accuracy=None, miou=None, params={"b1": 0.5}),
    ]
    checks = check_claims([setting], [*others[:2], CLAIM, *others[2:]])
    assert [(check.claim.paper, check.metric) for check in checks] == [
        ("smooseg", "accuracy"),
        ("smooseg", "miou"),
    ]


def test_an_ablation_is_compared_only_with_settings_that_have_its_parameters(tmp_path):
    ablation = replace(CLAIM, variant="no b", miou=10.0, params={"steps": 3000, "b_inter": 0.0})
    plain = a_setting(tmp_path / "plain", [18.0, 18.1])
    cell = replace(CELL, method=replace(METHOD, params={**METHOD.params, "b_inter": 0.0}))
    ablated = a_setting(tmp_path / "ablated", [10.0, 10.1], cell=cell)
    assert {check.claim.variant for check in check_claims([plain], [CLAIM, ablation])} == {""}
    first, *_ = (check for check in check_claims([ablated], [CLAIM, ablation]) if check.metric == "miou")
    assert (first.claim.variant, first.status) == ("no b", "reproduced")


def test_the_most_comparable_claims_come_first(tmp_path):
    setting = a_setting(tmp_path, [18.0, 18.1])
    far = replace(CLAIM, backbone="dino_vitb8", split="test", miou=1.0)
    near = replace(CLAIM, backbone="dino_vitb8", miou=2.0)
    checks = [check for check in check_claims([setting], [far, near, CLAIM]) if check.metric == "miou"]
    assert [check.claim for check in checks] == [CLAIM, near, far]


@pytest.mark.parametrize("backbone", ["vit_small_patch14_dinov2", "dinov2s14-mine"])
def test_a_claim_on_a_like_network_comes_before_one_that_states_less(tmp_path, backbone):
    """A ResNet's claim without parameters differs in fewer words, and is the farther experiment."""
    cell = replace(CELL, backbone=replace(CELL.backbone, name=backbone))
    other = {"steps": 9, "b_inter": 0.9, "tau": 9}
    small = replace(CLAIM, label="small", params=other, source="cited")
    raw = replace(small, label="small, raw", crf=False)
    base = replace(small, label="base", backbone="dino_vitb8", source="own")
    resnet = replace(CLAIM, label="resnet", backbone="resnet50_mocov2", params={})
    unstated = replace(CLAIM, label="unstated", backbone="", params={})
    checks = check_claims(
        [a_setting(tmp_path, [18.0, 18.1], cell=cell)], [unstated, resnet, base, raw, small]
    )
    found = [check.claim.label for check in checks if check.metric == "miou"]
    assert found[:2] == ["small", "small, raw"]
    assert found[-1] == "unstated"


def test_a_single_seed_is_compared_by_resampling_its_images(tmp_path):
    counts = np.zeros((400, 2, 2), dtype=np.int64)
    counts[:, 0, 0], counts[::2, 1, 1], counts[1::2, 0, 1] = 8, 2, 2  # mIoU (80/90 + 1/2) / 2 = 69.4 %
    setting = a_setting(tmp_path, [69.4], counts=counts)
    inside, outside = replace(CLAIM, miou=69.0), replace(CLAIM, miou=80.0)
    statuses = {
        check.claim.miou: check
        for check in check_claims([setting], [inside, outside])
        if check.metric == "miou"
    }
    assert statuses[69.0].status == "reproduced"
    assert statuses[80.0].status == "lower"
    assert "one seed" in statuses[69.0].reason
    differing = replace(inside, backbone="dino_vitb8")
    assert check_claims([setting], [differing])[1].status == "protocol differs"


def test_the_ledger_that_comes_with_the_package_is_the_default(tmp_path):
    params = {"clusters": 27, "dim": 64, "steps": 3000, "batch_size": 32, "b_intra": -0.02, "b_inter": 0.5}
    params |= {
        "tau": 0.1,
        "momentum": 0.998,
        "lr_projector": 1e-4,
        "lr_prototypes": 5e-4,
        "standardize": False,
    }
    setting = a_setting(
        tmp_path, [16.3, 16.4, 16.5], cell=replace(CELL, method=replace(METHOD, params=params))
    )
    refined, raw = (check for check in check_claims([setting]) if check.metric == "miou")
    assert (refined.claim.printed("miou"), refined.status) == ("18.4", "reproduced")  # selected: 18.3 to 18.5
    assert (raw.claim.printed("miou"), raw.status) == ("18.0", "lower")  # selected, raw: 17.3 to 17.5
