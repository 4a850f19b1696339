"""Protocols: their names, their identity, and the constants of the reference lineage."""

from __future__ import annotations

import msgspec
import pytest

from uss_bench.errors import UsageError
from uss_bench.protocol import SUMMARIES, CrfParams, Protocol, default_protocol, get_protocol, protocol_names

OTHER_VALUES = {
    "train_side": 112,
    "eval_side": 448,
    "extent": "whole",
    "resize": "bilinear",
    "five_crop": "off",
    "five_crop_jpeg": True,
    "positions": "timm",
    "flip": False,
    "upsample": "logits",
    "alpha": 4.0,
    "extra_clusters": "merge",
    "matching": "many-to-one",
    "absent_classes": "zero",
}


def as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def test_stego320_is_the_protocol_of_the_reference_lineage():
    lineage = Protocol(
        name="stego320",
        version=1,
        train_side=224,
        eval_side=320,
        resize="nearest",
        five_crop="dataset",
        five_crop_jpeg=False,
        positions="dino",
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
        ),
        extra_clusters="strict",
        matching="hungarian",
        absent_classes="skip-empty-union",
    )
    assert get_protocol("stego320@1") == lineage


def test_stego322_differs_by_its_side_only():
    fields = {"name": "stego322", "eval_side": 322}
    assert get_protocol("stego322@1") == msgspec.structs.replace(get_protocol("stego320@1"), **fields)


def test_every_protocol_has_a_summary_and_answers_to_its_id():
    assert protocol_names() == sorted(SUMMARIES) == ["full@1", "stego320@1", "stego322@1"]
    for name in protocol_names():
        assert get_protocol(name).id == name


# The hash is part of every record and of every board: it must not move between releases.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("stego320@1", "88e88b2b057c3887"),
        ("stego322@1", "af0fe551bf58621f"),
        ("stego320@1[flip=false]", "18f780c275397f9a"),
        ("stego320@1[train_side=96,eval_side=96]", "2ca0fedc3fa5c5e7"),
        ("stego322@1[eval_side=448]", "682b47951c5477cf"),
        ("full@1", "71b0a17936c1506c"),
    ],
)
def test_the_hash_of_a_frozen_protocol_never_changes(name, digest):
    assert get_protocol(name).hash == digest


def test_a_protocol_that_was_written_before_a_field_was_added_is_read_as_what_it_was():
    for name in ("stego320@1", "stego322@1"):
        fields = msgspec.to_builtins(get_protocol(name))
        del fields["extent"], fields["crf"]["reference_side"]
        read = msgspec.json.decode(msgspec.json.encode(fields), type=Protocol)
        assert (read, read.hash) == (get_protocol(name), get_protocol(name).hash)


def test_full_scores_whole_images_at_native_resolution_with_the_lineages_training_crop():
    lineage = get_protocol("stego320@1")
    changes = {"name": "full", "extent": "whole", "resize": "bicubic", "crf": CrfParams(reference_side=320)}
    assert get_protocol("full@1") == msgspec.structs.replace(lineage, **changes)


def test_the_other_values_cover_every_field_that_can_be_changed():
    assert set(OTHER_VALUES) == set(Protocol.__struct_fields__) - {"name", "version", "crf"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_changed_field_makes_another_protocol_whose_id_names_it(field):
    base = get_protocol("stego320@1")
    text = f"stego320@1[{field}={as_text(OTHER_VALUES[field])}]"
    other = get_protocol(text)
    assert other == msgspec.structs.replace(base, **{field: OTHER_VALUES[field]})
    assert other.hash != base.hash
    assert get_protocol(other.id) == other
    assert field in other.id


@pytest.mark.parametrize("field", CrfParams.__struct_fields__)
def test_every_parameter_of_the_crf_is_part_of_the_hash(field):
    base = get_protocol("stego320@1")
    value = getattr(base.crf, field)
    crf = msgspec.structs.replace(base.crf, **{field: 320 if value is None else 2 * value})
    assert msgspec.structs.replace(base, crf=crf).hash != base.hash


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
    one = get_protocol("stego320@1[flip=false,alpha=3]")
    assert one.id == get_protocol("stego320@1[alpha=3.0,flip=false]").id == "stego320@1[flip=false,alpha=3.0]"
    assert get_protocol(one.id).hash == one.hash


def test_a_change_to_the_same_value_is_no_change():
    base = get_protocol("stego320@1")
    same = get_protocol("stego320@1[flip=true,eval_side=320,alpha=2]")
    assert (same, same.id, same.hash) == (base, base.id, base.hash)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stego32@1", "no protocol 'stego32@1'.*\n.*stego320@1"),
        ("stego320", "no protocol 'stego320'"),
        ("stego320@2[flip=false]", "no protocol 'stego320@2'"),
        ("stego320@1[flipp=false]", "no field 'flipp'.*\nDid you mean 'flip'"),
        ("stego320@1[name=mine]", "no field 'name'"),
        ("stego320@1[version=2]", "no field 'version'"),
        ("stego320@1[crf=1]", "no field 'crf'"),
        ("stego320@1[flip=maybe]", r"Expected `bool`, got `str` - at `\$\.flip`"),
        ("stego320@1[flip]", r"Expected `bool`, got `str` - at `\$\.flip`"),
        ("stego320@1[resize=lanczos]", r"lanczos.* - at `\$\.resize`"),
        ("stego320@1[eval_side=320.5]", r"Expected `int`, got `float` - at `\$\.eval_side`"),
        ("stego320@1[eval_side=0]", "eval_side"),
        ("stego320@1[train_side=-224]", "train_side"),
        ("stego320@1[flip=false", "flip=false"),
    ],
)
def test_what_is_no_protocol_is_refused_with_a_reason(text, message):
    with pytest.raises(UsageError, match=message):
        get_protocol(text)


@pytest.mark.parametrize(("patch", "name"), [(8, "stego320@1"), (16, "stego320@1"), (14, "stego322@1")])
def test_the_default_protocol_has_sides_that_the_patch_divides(patch, name):
    protocol = get_protocol(name)
    assert default_protocol(patch) == name
    assert protocol.eval_side % patch == protocol.train_side % patch == 0


def test_a_patch_that_divides_no_protocol_is_refused():
    with pytest.raises(UsageError, match="patch of 13 pixels"):
        default_protocol(13)
