"""The checks of a dataset: what `uss_bench.contracts.Dataset` promises, one by one."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from uss_bench.contracts import IGNORE
from uss_bench.data.images import read_image, read_label
from uss_bench.errors import DataError
from uss_bench.kit.checks import Check, Finding, check, failed, note, ok, skipped
from uss_bench.kit.options import check_signature
from uss_bench.kit.reach import reachable, tells
from uss_bench.kit.survey import Survey
from uss_bench.plugins.specs import DatasetSpec, is_name
from uss_bench.runtime.opened_files import opened_files

_PROBED = 4
"""Sampled images of a split that are held against their labels, to see whether they lead there."""
_COPIED = 64 * 2**20
"""Bytes up to which a dataset's folder is copied, to see whether a change is noticed."""


@check()
def spec(survey: Survey) -> Finding:
    assert isinstance(survey.plugin.spec, DatasetSpec)
    backbone = survey.plugin.spec.default_backbone
    if backbone and backbone not in survey.registry.names("backbones"):
        return failed(f"default_backbone = '{backbone}' does not exist", "uss-bench ls backbones lists them.")
    return ok("spec.toml is valid" + f"; runs read features of {backbone}" * bool(backbone))


@check(name="import", todo="Correct the entry of spec.toml, or what the file does when it is imported.")
def imports(survey: Survey) -> Finding:
    return check_signature(survey.plugin.load(), skip=1)


@check(name="open", needs="import", todo="Take the spec first, and the options as keywords.")
def opens(survey: Survey) -> Finding:
    dataset = survey.first
    if not is_name(dataset.name):
        return failed(f"its name is '{dataset.name}'", "Lower-case letters, digits, '-', '_' and '.'.")
    if missing := {dataset.train_split, dataset.test_split} - set(dataset.splits):
        return failed(f"split '{missing.pop()}' is not among {list(dataset.splits)}", "Correct `splits`.")
    if len({row.name for row in dataset.classes}) < len(dataset.classes):
        return failed("two classes have the same name", "Give each class its own.")
    sizes = ", ".join(f"{split} {len(images):,}" for split, images in survey.images.items())
    if not all(map(len, survey.images.values())):
        return failed(f"a split is empty: {sizes}", "State in `images` what is missing, as a DataError.")
    stated = f"'{dataset.name}' with {len(dataset.classes)} classes; images: {sizes}"
    if len({row.color for row in dataset.classes}) < len(dataset.classes):
        return note(f"{stated}; two classes have the same color")  # as published palettes have it
    return ok(stated)


@check(needs="open", todo="ids is a sequence of strings, one per image.")
def ids(survey: Survey) -> Finding:
    unsorted = False
    for split, images in survey.images.items():
        first, second = list(images.ids), list(survey.second.images(split).ids)
        if len(set(first)) < len(first) or len(first) != len(images):
            return failed(
                f"ids of '{split}' are not one per image", "An image's id is its name: make it unique."
            )
        if first != second:
            return failed(
                f"split '{split}' has another order when opened again", "Sort the files: sorted(…)."
            )
        unsorted = unsorted or first != sorted(first)
    if unsorted:
        return note("unique, and in the same order each time, though not sorted")
    return ok("unique, sorted, and in the same order each time")


@check(name="images", needs="open", todo="See uss_bench.contracts.Images.")
def pixels(survey: Survey) -> Finding:
    channels: dict[str, tuple[int, ...]] | None = None
    for split, index in survey.samples():
        image, where = survey.image(split, index), f"image '{survey.images[split].ids[index]}' of '{split}'"
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            text = f"{where} is {image.dtype} {image.shape}"
            return failed(text, "Images are uint8 (H, W, 3), RGB, at their native size.")
        aux = survey.images[split].aux(index)
        if fault := _aux_fault(aux, image):
            return failed(f"{where} has {fault}", "A further channel is finite numbers (H, W) or (H, W, n).")
        found = {name: plane.shape[2:] for name, plane in aux.items()}
        if found != (channels := found if channels is None else channels):
            text = f"{where} has the channels {found}, and the first image {channels}"
            return failed(text, "Further channels are the same for all images.")
    return ok("uint8 RGB" + f", with {', '.join(channels or ())}" * bool(channels))


def _aux_fault(aux: Mapping[str, np.ndarray], image: np.ndarray) -> str:
    for name, plane in aux.items():
        sized = plane.ndim in (2, 3) and plane.shape[:2] == image.shape[:2]
        if not sized or plane.dtype.kind not in "biuf":
            return f"the channel '{name}' as {plane.dtype} {plane.shape}, and is {image.shape[:2]}"
        if not np.isfinite(plane).all():
            return f"NaN or infinity in the channel '{name}'"
    return ""


@check(needs="images")
def repeatable(survey: Survey) -> Finding:
    for split, images in survey.images.items():
        index = survey.sampled(split)[-1]
        before = images.image(index).copy()
        mine = images.image(index)
        if mine.flags.writeable:
            mine[:] = 255 - mine
        if not np.array_equal(images.image(index), before):
            text = f"image {index} of '{split}' is another one when it is read again"
            return failed(text, "Return a fresh array: a reader may write into what it gets.")
    return ok("read again, an image is the same, whatever a reader did to its copy")


@check(needs="images", todo="See uss_bench.contracts.Labels.")
def labels(survey: Survey) -> Finding:
    names = [row.name for row in survey.first.classes]
    if not survey.labels:
        todo = "Without labels `classes` is empty."
        return failed("there are classes and no labels", todo) if names else skipped("there are no labels")
    seen = set[int]()
    for split, index in survey.samples():
        found = survey.labels.get(split)
        if found is None:
            continue
        if list(found.ids) != list(survey.images[split].ids):
            return failed(f"labels of '{split}' have other ids than its images", "Same ids, same order.")
        label, where = survey.label(split, index), f"label '{found.ids[index]}' of '{split}'"
        size = survey.image(split, index).shape[:2]
        if label.dtype != np.int16 or label.shape != size:
            text = f"{where} is {label.dtype} {label.shape}, and its image {size}"
            return failed(text, "Labels are int16 (H, W), of the size of their image; nothing is resized.")
        if label.min() < IGNORE or label.max() >= len(names):
            text = f"{where} holds {label.min()} to {label.max()}, and there are {len(names)} classes"
            return failed(text, f"Labels are 0 to {len(names) - 1}, and {IGNORE} for what is ignored.")
        seen.update(np.unique(label).tolist())
    unseen = [name for number, name in enumerate(names) if number not in seen]
    if len(unseen) == len(names):
        return failed("labels hold nothing but ignored pixels", "Look at how values become classes.")
    if unseen:
        return note(f"in range; no pixel of {', '.join(unseen[:4])} among those read")
    return ok("int16, in range, of the size of their images; every class occurs")


@check(needs="images")
def splits(survey: Survey) -> Finding:
    if len(survey.images) == 1:
        return note("one split is used for training and for testing")
    (train, first), (test, second) = survey.images.items()
    for name in sorted(set(first.ids) & set(second.ids))[: len(survey.sampled(train))]:
        pair = [images.image(list(images.ids).index(name)) for images in (first, second)]
        if np.array_equal(pair[0], pair[1]):
            return failed(f"image '{name}' is in '{train}' and in '{test}'", "Take it out of one of them.")
    digests = [
        {hashlib.sha256(survey.image(split, index).tobytes()).digest() for index in survey.sampled(split)}
        for split in (train, test)
    ]
    if digests[0] & digests[1]:
        return failed(f"'{train}' and '{test}' share images under other ids", "Take them out of one split.")
    return ok(f"'{train}' and '{test}' share no image among those read, and no id with the same image")


@check(needs="open", todo="A fingerprint is a hex digest of the contents.")
def fingerprint(survey: Survey) -> Finding:
    places: dict[str, str] = {}
    for kind in ("images", "labels"):
        for split in survey.images:
            one, again = (getattr(dataset, kind)(split) for dataset in (survey.first, survey.second))
            if one is None or again is None:
                continue
            place, value = f"{kind} of '{split}'", one.fingerprint()
            if value != again.fingerprint():
                todo = "Make it of contents and names: no times, no paths, no order of a set."
                return failed(f"{place} have another fingerprint when opened again", todo)
            if value in places:
                todo = "Whatever differs must differ in its fingerprint: records go by it."
                return failed(f"{place} and {places[value]} have the same fingerprint", todo)
            places[value] = place
    return ok(f"the same when opened again, and another for each of {', '.join(places.values())}")


@check(needs="fingerprint")
def changes(survey: Survey) -> Finding:
    """Another seed, or one changed pixel in a copy of the folder, must give another fingerprint."""
    split = list(survey.images)[-1]
    before = survey.images[split].fingerprint()
    known = inspect.signature(survey.plugin.load()).parameters
    if "seed" in known:
        seed = int(survey.options.get("seed", 0)) + 1
        if survey.open(seed=seed).images(split).fingerprint() == before:
            return failed(
                f"seed={seed} has the same fingerprint", "Every option that changes images enters it."
            )
        return ok("another seed is another fingerprint")
    given = survey.options.get("root", known["root"].default if "root" in known else None)
    root = Path(given).expanduser() if isinstance(given, str | Path) else Path()
    files = list(root.rglob("*")) if root.name else []
    if not files or sum(path.stat().st_size for path in files) > _COPIED:
        return skipped("there is no folder, or it is too large, to change a pixel in a copy of it")
    with tempfile.TemporaryDirectory(prefix="uss-bench-check-") as folder:
        copied = Path(shutil.copytree(root, Path(folder).resolve() / "copy"))
        if survey.open(root=str(copied)).images(split).fingerprint() != before:
            return failed("a copy elsewhere has another fingerprint", "Leave paths and times out of it.")
        with opened_files(copied) as opened:
            image = survey.open(root=str(copied)).images(split).image(0).copy()
        changed = next((path for path in map(Path, opened) if _content(path).shape == image.shape), None)
        if changed is None:
            return skipped("no file of it is the image as it is read")
        image[0, 0] = ~image[0, 0]
        Image.fromarray(image).save(changed)
        if survey.open(root=str(copied)).images(split).fingerprint() == before:
            text = f"a changed pixel in {changed.name} leaves the fingerprint as it was"
            return failed(text, "Make it of the files' contents: uss_bench.data.fingerprint(paths).")
    return ok("a copy has the same one, and one changed pixel another")


def _content(path: Path) -> np.ndarray:
    """Return the pixels of a file, exactly as stored; nothing of what is no such file."""
    for read in (read_label, read_image):
        try:
            return read(path)
        except DataError:
            continue
    return np.empty(0, np.uint8)


@check(needs="open")
def no_labels(survey: Survey) -> Finding:
    for split in survey.images:
        if leading := _leads_to_labels(survey, split):
            todo = "What images() returns is handed to methods: it must know images only."
            return failed(f"images of '{split}' {leading}", todo)
    return ok("nothing that images read or lead to is a label map, gives one, or is a file that holds one")


def _leads_to_labels(survey: Survey, split: str) -> str:
    """Describe how the images of a split lead to labels; '' when they do not, as far as was seen."""
    found, known = survey.images[split], survey.labels.get(split)
    things = list(reachable(found))
    for thing in things:
        if thing is survey.first or hasattr(thing, "label") or hasattr(thing, "labels"):
            return f"lead to {type(thing).__name__}, which gives labels"
    if known is None:
        return ""
    paths = {os.path.realpath(thing) for thing in things if isinstance(thing, str | Path)}
    held = [(f"an array {thing.shape}", thing) for thing in things if isinstance(thing, np.ndarray)]
    for index in survey.sampled(split)[:_PROBED]:
        with opened_files() as for_image:
            arrays = {"an image": found.image(index), **found.aux(index)}
        with opened_files() as for_label:
            label = known.label(index)
        if leading := paths.intersection(for_label).difference(for_image):
            return f"lead to the label file {leading.pop()}"
        read = [*arrays.items(), *((f"the file {path}", _content(Path(path))) for path in for_image)]
        for verb, candidates in (("read", read), ("lead to", held)):
            for name, array in candidates:
                if array.ndim in (2, 3) and tells(array, label):
                    return f"{verb} {name}, which holds the label"
    return ""


@check(needs="open", todo="verify() raises DataError for a wrong file, and nothing else.")
def verify(survey: Survey) -> Finding:
    stated = survey.first.verify()
    if not isinstance(stated, str) or not stated:
        return failed(f"verify() returned {stated!r}", "It states in a sentence what it read.")
    return ok(stated)


DATASET_CHECKS: tuple[Check[Survey], ...] = (
    spec,
    imports,
    opens,
    ids,
    pixels,
    repeatable,
    labels,
    splits,
    fingerprint,
    changes,
    no_labels,
    verify,
)
