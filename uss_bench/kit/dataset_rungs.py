"""The rungs of a dataset: what `uss_bench.contracts.Dataset` promises, looked at one by one."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from uss_bench.contracts import IGNORE, Labels
from uss_bench.errors import DataError
from uss_bench.images import read_image, read_label
from uss_bench.kit.ladder import Rung, Verdict, failed, note, ok, skipped
from uss_bench.kit.reach import files_in, reachable, tells
from uss_bench.kit.signatures import check_signature
from uss_bench.kit.survey import Survey
from uss_bench.specs import is_name

_PROBED = 4
"""Sampled images of a split whose files are opened, to see whether they hold labels."""


def spec_valid(survey: Survey) -> Verdict:
    spec, _ = survey.registry.dataset(survey.name)
    backbone = spec.default_backbone
    if backbone and backbone not in survey.registry.names("backbones"):
        return failed(f"default_backbone = '{backbone}' is none", "uss-bench ls backbones lists them.")
    return ok("spec.toml is valid" + (f"; runs read features of {backbone}" if backbone else ""))


def imports(survey: Survey) -> Verdict:
    spec, _ = survey.registry.dataset(survey.name)
    verdict = check_signature(survey.entry, skip=1)
    options = list(inspect.signature(survey.entry).parameters)[1:]
    said = f"{spec.entry} takes {', '.join(options) or 'no options'}"
    return ok(said) if verdict.status == "ok" else verdict


def opens(survey: Survey) -> Verdict:
    dataset = survey.first
    if not is_name(dataset.name):
        return failed(f"its name is '{dataset.name}'", "Lower-case letters, digits, '-', '_' and '.'.")
    missing = [split for split in survey.splits if split not in dataset.splits]
    if missing:
        return failed(f"split '{missing[0]}' is not among {list(dataset.splits)}", "Correct `splits`.")
    for what in ("name", "colour"):
        values = [getattr(row, what) for row in dataset.classes]
        if len(set(values)) < len(values):
            return failed(
                f"two classes have the same {what}", "Give each class its own: they are told apart by it."
            )
    sizes = ", ".join(f"{split} {len(survey.images[split]):,}" for split in survey.splits)
    if not all(len(images) for images in survey.images.values()):
        return failed(f"a split is empty: {sizes}", "Say in `images` what is missing, as a DataError.")
    return ok(f"'{dataset.name}' with {len(dataset.classes)} classes; images: {sizes}")


def ids(survey: Survey) -> Verdict:
    unsorted = False
    for split in survey.splits:
        first, second = list(survey.images[split].ids), list(survey.second.images(split).ids)
        if len(set(first)) < len(first) or len(first) != len(survey.images[split]):
            return failed(
                f"ids of split '{split}' are not one per image", "An image's id is its name: make it unique."
            )
        if first != second:
            return failed(
                f"split '{split}' has another order when opened again", "Sort the files: sorted(…)."
            )
        unsorted = unsorted or first != sorted(first)
    if unsorted:
        return note("unique, and in the same order each time, though not sorted")
    return ok("unique, sorted, and in the same order each time")


def images(survey: Survey) -> Verdict:
    read = 0
    for split in survey.splits:
        for index in survey.sampled(split):
            image, where = survey.image(split, index), f"image '{survey.images[split].ids[index]}'"
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                text = f"{where} of '{split}' is {image.dtype} {image.shape}"
                return failed(text, "Images are uint8 (H, W, 3), RGB, at their native size.")
            for channel, plane in survey.images[split].aux(index).items():
                if plane.shape[:2] != image.shape[:2]:
                    text = f"channel '{channel}' of {where} is {plane.shape}, and the image {image.shape}"
                    return failed(text, "A further channel has the size of its image.")
            read += 1
    return ok(f"{read} read: uint8 RGB")


def repeatable(survey: Survey) -> Verdict:
    for split in survey.splits:
        index = survey.sampled(split)[-1]
        before = survey.images[split].image(index).copy()
        mine = survey.images[split].image(index)
        if mine.flags.writeable:
            mine[:] = 255 - mine
        if not np.array_equal(survey.images[split].image(index), before):
            text = f"image {index} of '{split}' is another one when it is read again"
            return failed(text, "Return a fresh array: a reader may write into what it gets.")
    return ok("read again, an image is the same, whatever a reader did to its copy")


def labels(survey: Survey) -> Verdict:
    if not survey.labels:
        return (
            skipped("the splits in use have no labels")
            if not survey.first.classes
            else failed("there are classes and no labels", "Without labels `classes` is empty.")
        )
    classes, seen, read = len(survey.first.classes), set[int](), 0
    for split, found in survey.labels.items():
        if list(found.ids) != list(survey.images[split].ids):
            return failed(f"labels of '{split}' have other ids than its images", "Same ids, same order.")
        for index in survey.sampled(split):
            label, where = survey.label(split, index), f"label '{found.ids[index]}' of '{split}'"
            size = survey.image(split, index).shape[:2]
            if label.dtype != np.int16 or label.shape != size:
                text = f"{where} is {label.dtype} {label.shape}, and its image {size}"
                return failed(
                    text, "Labels are int16 (H, W), of the size of their image; nothing is resized."
                )
            if label.min() < IGNORE or label.max() >= classes:
                text = f"{where} holds {label.min()} to {label.max()}, and there are {classes} classes"
                return failed(text, f"Labels are 0 to {classes - 1}, and {IGNORE} for what is ignored.")
            seen.update(np.unique(label).tolist())
            read += 1
    unseen = [row.name for number, row in enumerate(survey.first.classes) if number not in seen]
    if len(unseen) == classes:
        return failed(f"{read} labels hold nothing but ignored pixels", "Look at how values become classes.")
    if unseen:
        return note(f"{read} read, in range; no pixel of {', '.join(unseen[:4])} among them")
    return ok(f"{read} read: int16, in range, of the size of their images; every class occurs")


def splits(survey: Survey) -> Verdict:
    if len(survey.splits) == 1:
        return note(f"'{survey.splits[0]}' is used for training and for testing")
    train, test = survey.splits
    digests = {
        split: {
            hashlib.sha256(survey.image(split, index).tobytes()).digest() for index in survey.sampled(split)
        }
        for split in survey.splits
    }
    common = set(survey.images[train].ids) & set(survey.images[test].ids)
    for name in sorted(common)[: len(digests[train])]:
        first, second = (found.image(list(found.ids).index(name)) for found in survey.images.values())
        if np.array_equal(first, second):
            return failed(f"image '{name}' is in '{train}' and in '{test}'", "Take it out of one of them.")
    if digests[train] & digests[test]:
        return failed(f"'{train}' and '{test}' share images under other ids", "Take them out of one split.")
    return ok(f"'{train}' and '{test}' share no image among those read, and no id with the same image")


def fingerprints(survey: Survey) -> Verdict:
    found: dict[str, str] = {}
    for split in survey.splits:
        sides = {"images": survey.images[split], "labels": survey.labels.get(split)}
        again = {"images": survey.second.images(split), "labels": survey.second.labels(split)}
        for what, side in sides.items():
            other = again[what]
            if side is None or other is None:
                continue
            place, value = f"{what} of '{split}'", side.fingerprint()
            if value != other.fingerprint():
                text = f"{place} have another fingerprint when opened again"
                return failed(text, "Make it of contents and names: no times, no paths, no order of a set.")
            if value in found:
                text = f"{place} and {found[value]} have the same fingerprint"
                return failed(text, "Whatever differs must differ in its fingerprint: records go by it.")
            found[value] = place
    return ok(f"the same when opened again, and another for each of {len(found)} sides and splits")


def notices_changes(survey: Survey) -> Verdict:
    """Another seed, or one changed pixel in a copy of the folder, must give another fingerprint."""
    split = survey.splits[-1]
    before = survey.images[split].fingerprint()
    if "seed" in inspect.signature(survey.entry).parameters:
        seed = int(survey.options.get("seed", 0)) + 1
        if survey.open(seed=seed).images(split).fingerprint() == before:
            return failed(
                f"seed={seed} has the same fingerprint", "Every option that changes images enters it."
            )
        return ok("another seed is another fingerprint")
    with tempfile.TemporaryDirectory(prefix="uss-bench-check-") as folder:
        copied = survey.copy(Path(folder))
        if copied is None:
            return skipped("there is no folder (or it is large) to change a pixel in a copy of it")
        if survey.open(root=str(copied)).images(split).fingerprint() != before:
            return failed("a copy elsewhere has another fingerprint", "Leave paths and times out of it.")
        changed = _change_a_pixel(copied, survey.image(split, 0))
        if changed is None:
            return skipped("no file of it is the image as it is read")
        if survey.open(root=str(copied)).images(split).fingerprint() == before:
            text = f"a changed pixel in {changed.name} leaves the fingerprint as it was"
            return failed(text, "Make it of the files' contents: uss_bench.images.fingerprint(paths).")
    return ok("a copy has the same one, and one changed pixel another")


def _change_a_pixel(root: Path, image: np.ndarray) -> Path | None:
    """Change one pixel of the file that holds `image`, and return it."""
    for path in sorted(root.rglob("*.png")):
        try:
            if np.array_equal(read_image(path), image):
                Image.fromarray(
                    np.where(np.arange(image.size).reshape(image.shape) == 0, ~image, image)
                ).save(path)
                return path
        except DataError:
            continue
    return None


def no_labels(survey: Survey) -> Verdict:
    """Nothing that the images lead to is a label map, gives one, or is a file that holds one."""
    todo = "The object that images() returns is handed to methods: it must know images only."
    for split, found in survey.images.items():
        things = list(reachable(found))
        known = survey.labels.get(split)
        for thing in things:
            if thing is survey.first or hasattr(thing, "label") or hasattr(thing, "labels"):
                return failed(f"images of '{split}' lead to {type(thing).__name__}, which gives labels", todo)
        if known is None:
            continue
        for index in survey.sampled(split)[:_PROBED]:
            told = _telling(things, known, index, survey.label(split, index))
            if told:
                return failed(f"images of '{split}' lead to {told}, which holds labels", todo)
    return ok("nothing that images lead to is a label map, gives one, or is a file that holds one")


def _telling(things: list[object], known: Labels, index: int, label: np.ndarray) -> str:
    """Return what among `things` holds the label of image `index`, or ''."""
    for thing in things:
        if isinstance(thing, np.ndarray) and thing.ndim in (2, 3) and tells(thing, label):
            return f"an array {thing.shape}"
    for path in files_in(iter(things)):
        if known.ids[index] in path.name:
            try:
                if tells(read_label(path), label):
                    return path.name
            except DataError:
                continue
    return ""


def verify(survey: Survey) -> Verdict:
    said = survey.first.verify()
    if not isinstance(said, str) or not said:
        return failed(f"verify() returned {said!r}", "It says in a sentence what it read.")
    return ok(said)


DATASET_RUNGS: tuple[Rung[Survey], ...] = (
    Rung("spec", spec_valid),
    Rung(
        "import", imports, todo="Correct the entry of spec.toml, or what the file does when it is imported."
    ),
    Rung("open", opens, needs="import", todo="Take the spec first, and the options as keywords."),
    Rung("ids", ids, needs="open", todo="ids is a sequence of strings, one per image."),
    Rung("images", images, needs="open", todo="See uss_bench.contracts.Images."),
    Rung("repeatable", repeatable, needs="images"),
    Rung("labels", labels, needs="images", todo="See uss_bench.contracts.Labels."),
    Rung("splits", splits, needs="images"),
    Rung("fingerprint", fingerprints, needs="open", todo="A fingerprint is a hex digest of the contents."),
    Rung("changes", notices_changes, needs="fingerprint"),
    Rung("no labels", no_labels, needs="open"),
    Rung(
        "verify", verify, needs="open", todo="verify() raises DataError for a wrong file, and nothing else."
    ),
)
