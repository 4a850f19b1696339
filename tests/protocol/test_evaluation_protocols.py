"""Protocols: their names, their identity, and the constants of the reference lineage."""

from __future__ import annotations

import msgspec
import pytest

from uss_bench.errors import UsageError
from uss_bench.protocol import SUMMARIES, CrfParams, Protocol, default_protocol, get_protocol, protocol_names

OTHER_VALUES = {
    "extent": "whole",
    "eval_side": 448,
    "eval_width": 640,
    "score_side": 100,
    "resize": "bilinear",
    "flip": False,
    "upsample": "logits",
    "alpha": 4.0,
    "extra_clusters": "merge",
    "matching": "many-to-one",
    "match_on": "train",
    "absent_classes": "zero",
    "label_resize": "floor",
}
NEEDED = dict.fromkeys(("eval_width", "label_resize"), "extent=squash,")
"""What a change asks for beside it."""


def as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def test_stego320_is_the_protocol_of_the_reference_lineage():
    lineage = Protocol(
        name="stego320",
        version=2,
        extent="square",
        eval_side=320,
        resize="nearest",
        flip=True,
        upsample="code",
        alpha=2.0,
        crf=CrfParams(
            iterations=10,
            gaussian_sxy=1.0,
            gaussian_compat=3.0,
            bilateral_sxy=67.0,
            bilateral_srgb=3.0,
            bilateral_compat=4.0,
            min_probability=1e-5,
            channels="rgb",
            truncate=False,
        ),
        extra_clusters="strict",
        matching="hungarian",
        match_on="test",
        absent_classes="skip-empty-union",
    )
    assert get_protocol("stego320@2") == lineage


def test_stego322_differs_by_its_side_only():
    fields = {"name": "stego322", "eval_side": 322}
    assert get_protocol("stego322@2") == msgspec.structs.replace(get_protocol("stego320@2"), **fields)


def test_iic_scores_whole_patches_without_flips_or_a_crf():
    fields = {"eval_side": 200, "resize": "bilinear", "flip": False, "crf": None}
    changes = {"name": "iic", "version": 1, **fields}
    assert get_protocol("iic@1") == msgspec.structs.replace(get_protocol("stego320@2"), **changes)


def test_every_protocol_has_a_summary_and_answers_to_its_id():
    names = ["full@2", "hummingbird504@1", "hummingbird@1", "iic@1", "neco@1", "picie@1"]
    names += ["stego320@2", "stego322@2", "transfgu@1"]
    assert protocol_names() == sorted(SUMMARIES) == names
    for name in protocol_names():
        assert get_protocol(name).id == name


# The hash is part of every record and of every board: it must not move between releases.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("stego320@2", "59e1f5debbdea56d"),
        ("stego322@2", "da5c5a634ce293cd"),
        ("stego320@2[flip=false]", "205ae5bffadabf62"),
        ("stego320@2[eval_side=96]", "6ea5d70bac9580e8"),
        ("stego320@2[crf.channels=bgr,crf.truncate=true]", "4c916068a9a3be6d"),
        ("stego320@2[extent=squash,score_side=100,absent_classes=zero,crf=none]", "1036e41f4f4e69a7"),
        ("full@2", "f22fae8128f7ce5f"),
        ("hummingbird@1", "3b199ee510bb03c3"),
        ("hummingbird504@1", "36b8fc2ba35bf990"),
        ("neco@1", "7dc57fa951370f52"),
        ("transfgu@1", "adfd030f5ea397d5"),
        ("picie@1", "4cad63a2828c476a"),
    ],
)
def test_the_hash_of_a_frozen_protocol_never_changes(name, digest):
    assert get_protocol(name).hash == digest


def test_full_scores_whole_images_at_native_resolution():
    lineage = get_protocol("stego320@2")
    changes = {"name": "full", "extent": "whole", "resize": "bicubic", "crf": CrfParams(reference_side=320)}
    assert get_protocol("full@2") == msgspec.structs.replace(lineage, **changes)


def test_picie_is_what_its_released_evaluation_does():
    """Crop of 320, bilinear images, enlarged logits, no mirror image, no CRF, matching on all pixels."""
    same = get_protocol("stego320@2[resize=bilinear,flip=false,upsample=logits,crf=none]")
    assert get_protocol("picie@1") == msgspec.structs.replace(same, name="picie", version=1)


def test_the_other_values_cover_every_field_that_can_be_changed():
    assert set(OTHER_VALUES) == set(Protocol.__struct_fields__) - {"name", "version", "crf"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_changed_field_makes_another_protocol_whose_id_names_it(field):
    base = get_protocol("stego320@2")
    text = f"stego320@2[{NEEDED.get(field, '')}{field}={as_text(OTHER_VALUES[field])}]"
    other = get_protocol(text)
    assert getattr(other, field) == OTHER_VALUES[field] != getattr(base, field)
    assert other.hash != base.hash
    assert get_protocol(other.id) == other
    assert field in other.id


@pytest.mark.parametrize("field", CrfParams.__struct_fields__)
def test_every_parameter_of_the_crf_can_be_changed_and_is_part_of_the_hash(field):
    base = get_protocol("stego320@2")
    value = getattr(base.crf, field)
    other = {"channels": "bgr", "truncate": True, "reference_side": 320}.get(field, value and 2 * value)
    changed = get_protocol(f"stego320@2[crf.{field}={as_text(other)}]")
    assert getattr(changed.crf, field) == other
    assert changed.hash != base.hash
    assert changed.id == f"stego320@2[crf.{field}={as_text(other)}]"
    assert get_protocol(changed.id) == changed


def test_a_protocol_can_leave_the_crf_out():
    without = get_protocol("stego320@2[crf=none]")
    assert without.crf is None
    assert without.hash != get_protocol("stego320@2").hash
    assert get_protocol(without.id) == without
    assert msgspec.json.decode(msgspec.json.encode(without), type=Protocol) == without


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("stego320@2[matching=precision]", "stego320@2[matching=many-to-one]"),
        ("stego320@2[extent=squash,eval_width=320]", "stego320@2[extent=squash]"),
    ],
)
def test_two_ways_to_ask_for_one_thing_make_one_protocol(text, canonical):
    protocol = get_protocol(text)
    assert (protocol, protocol.hash, protocol.id) == (
        get_protocol(canonical),
        get_protocol(canonical).hash,
        canonical,
    )


@pytest.mark.parametrize(
    ("text", "seen", "scored"),
    [
        ("stego320@2", (320, 320), (320, 320)),
        ("stego320@2[extent=squash,eval_width=640]", (320, 640), (320, 640)),
        ("stego320@2[extent=squash,eval_side=448,score_side=100]", (448, 448), (100, 100)),
        ("stego322@2[score_side=161]", (322, 322), (161, 161)),
    ],
)
def test_what_the_backbone_sees_and_what_is_scored_may_differ_in_size(text, seen, scored):
    protocol = get_protocol(text)
    assert (protocol.input_size, protocol.score_size) == (seen, scored)


@pytest.mark.parametrize(("height", "width"), [(640, 1000), (1000, 640), (80, 80), (320, 999)])
def test_with_a_reference_side_the_kernels_cover_the_same_part_of_every_image(height, width):
    params = CrfParams(reference_side=320)
    scaled = params.at_size(height, width)
    short = min(height, width)
    assert scaled.bilateral_sxy / short == pytest.approx(67 / 320)
    assert scaled.gaussian_sxy / short == pytest.approx(1 / 320)
    kept = {"gaussian_sxy": 1.0, "bilateral_sxy": 67.0}
    assert msgspec.structs.replace(scaled, **kept) == CrfParams(), "nothing else changes"
    assert CrfParams().at_size(height, width) == CrfParams(), "without one, pixels are pixels"


def test_several_changes_make_one_id_in_whatever_order_they_are_given():
    one = get_protocol("stego320@2[flip=false,alpha=3]")
    assert one.id == get_protocol("stego320@2[alpha=3.0,flip=false]").id == "stego320@2[flip=false,alpha=3.0]"
    assert get_protocol(one.id).hash == one.hash


def test_a_change_to_the_same_value_is_no_change():
    base = get_protocol("stego320@2")
    same = get_protocol("stego320@2[flip=true,eval_side=320,alpha=2]")
    assert (same, same.id, same.hash) == (base, base.id, base.hash)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stego32@2", "no protocol 'stego32@2'.*\n.*stego320@2"),
        ("stego320", "no protocol 'stego320'"),
        ("stego320@3[flip=false]", "no protocol 'stego320@3'"),
        ("stego320@2[flipp=false]", "no field 'flipp'.*\nDid you mean 'flip'"),
        ("stego320@2[name=mine]", "no field 'name'"),
        ("stego320@2[version=2]", "no field 'version'"),
        ("stego320@2[crf=1]", "crf is none, or its fields change"),
        ("stego320@2[crf.sxy=1]", "no field 'crf.sxy'"),
        ("stego320@2[crf=none,crf.channels=bgr]", "a CRF that it leaves out"),
        ("stego320@2[crf.channels=gbr]", r"gbr.* - at `\$\.crf\.channels`"),
        ("stego320@2[train_side=96]", "no field 'train_side'"),
        ("stego320@2[positions=timm]", "no field 'positions'"),
        ("stego320@2[eval_width=640]", "`eval_width` is for extent = squash"),
        ("stego320@2[label_resize=floor]", "`label_resize` is for extent = squash"),
        ("full@2[score_side=100]", "`score_side` is for extent = square or squash"),
        ("stego320@2[flip=maybe]", r"Expected `bool`, got `str` - at `\$\.flip`"),
        ("stego320@2[flip]", r"Expected `bool`, got `str` - at `\$\.flip`"),
        ("stego320@2[resize=lanczos]", r"lanczos.* - at `\$\.resize`"),
        ("stego320@2[eval_side=320.5]", r"Expected `int`, got `float` - at `\$\.eval_side`"),
        ("stego320@2[eval_side=0]", "eval_side"),
        ("stego320@2[score_side=-100]", "score_side"),
        ("stego320@2[flip=false", "flip=false"),
    ],
)
def test_what_is_no_protocol_is_refused_with_a_reason(text, message):
    with pytest.raises(UsageError, match=message):
        get_protocol(text)


@pytest.mark.parametrize(
    "field",
    [
        *("crf.iterations=-1", "crf.iterations=1000000000000", "crf.gaussian_sxy=0", "crf.bilateral_sxy=-67"),
        *("crf.bilateral_srgb=0", "crf.bilateral_compat=-4", "crf.gaussian_compat=1e300"),
        *("crf.min_probability=0", "crf.min_probability=1", "alpha=0", "alpha=-2", "alpha=1e308"),
    ],
)
def test_numbers_beyond_reason_are_refused_by_name(field):
    with pytest.raises(UsageError, match=rf"Expected .* - at `\$\.{field.partition('=')[0]}`"):
        get_protocol(f"stego320@2[{field}]")


@pytest.mark.parametrize(("patch", "name"), [(8, "stego320@2"), (16, "stego320@2"), (14, "stego322@2")])
def test_the_default_protocol_has_sides_that_the_patch_divides(patch, name):
    protocol = get_protocol(name)
    assert default_protocol(patch) == name
    assert protocol.eval_side % patch == 0


def test_a_patch_that_divides_no_protocol_is_refused():
    with pytest.raises(UsageError, match="patch of 13 pixels"):
        default_protocol(13)
