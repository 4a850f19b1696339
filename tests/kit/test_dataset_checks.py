"""The checks of datasets: they hold for generated and file-based ones, and each finds what it is about."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from plugin_faults import Fault, subject_with

from uss_bench.kit import check_dataset
from uss_bench.kit.checks import run_checks
from uss_bench.kit.dataset_checks import DATASET_CHECKS
from uss_bench.kit.reach import reachable, tells
from uss_bench.kit.survey import Survey
from uss_bench.plugins.registry import Registry

IMAGES = "return FileImages(self._files(split))"
TABLE = "self._table.read(path, hint, content)"


def with_images(body: str, argument: str = "") -> str:
    """Return code that makes images of a class of its own, with `body` in it."""
    made = f"type('Images', (FileImages,), dict({body}))(self._files(split))"
    return f"found = {made}; {argument}; return found" if argument else f"return {made}"


def with_aux(plane: str, name: str = "'depth'") -> str:
    """Return code whose images have a further channel: `plane` of the image and its label file."""
    label = "np.asarray(__import__('PIL.Image').Image.open(str(path).replace('/images/', '/labels/')))"
    read = f"(lambda np, index, image, path: {{{name}: {plane}}})".replace("LABEL", label)
    given = "__import__('numpy'), index, FileImages.image(self, index), self._paths[index]"
    return with_images(f"aux=lambda self, index: {read}({given})")


READS_A_LABEL = (
    "image=lambda self, index: (open(str(self._paths[index]).replace('/images/', '/labels/'), 'rb').close(), "
    "FileImages.image(self, index))[1]"
)
CACHED = "image=lambda self, index, kept={}: kept.setdefault(index, FileImages.image(self, index))"
FAULTS = [
    Fault("spec", '"patchstats"', '"patchstat"', "default_backbone = 'patchstat'", "spec.toml"),
    Fault("import", "root: str | Path = SAMPLE", "root=SAMPLE", "'root' takes a value of any type"),
    Fault("import", "import Path\n", "import Path\nimport nowhere\n", "nowhere"),
    Fault("open", "= spec.train_split, spec.test_split", "= 'train', 'holdout'", "'holdout' is not among"),
    Fault("open", '"striped"', '"plain"', "same name", "spec.toml"),
    Fault("open", '"images" / known', '"labels" / "none" / known', "cannot be read"),
    Fault("ids", IMAGES, with_images("", "found.ids = ['x'] * len(found)"), "not one per image"),
    Fault(
        "ids",
        "for path in list_images(folder)",
        "for path in sorted(list_images(folder), key=lambda path: __import__('os').urandom(8))",
        "another order",
    ),
    Fault("images", IMAGES, with_images("image=lambda *a: FileImages.image(*a) / 255"), "is float64"),
    Fault("images", IMAGES, with_aux("image[:-1, :, 0]"), "the channel 'depth' as uint8"),
    Fault("images", IMAGES, with_aux("image.astype(str)"), "the channel 'depth' as <U"),
    Fault("images", IMAGES, with_aux("image[None]"), "the channel 'depth' as uint8"),
    Fault("images", IMAGES, with_aux("np.where(image[..., 0] > 99, np.nan, 1.0)"), "NaN or infinity"),
    Fault("images", IMAGES, with_aux("image[..., : 1 + index % 2]"), "and the first image"),
    Fault("images", IMAGES, with_aux("image[..., 0]", "'depth' + str(index)"), "and the first image"),
    Fault("no labels", IMAGES, with_aux("LABEL"), "read depth, which holds the label"),
    Fault("no labels", IMAGES, with_images(READS_A_LABEL), "which holds the label"),
    Fault("repeatable", IMAGES, with_images(CACHED), "another one when it is read again"),
    Fault("labels", TABLE, f"{TABLE}.astype('int64')", "is int64"),
    Fault("labels", TABLE, f"{TABLE} + 1", "and there are 3 classes"),
    Fault("labels", TABLE, f"{TABLE} * 0 - 1", "nothing but ignored"),
    Fault(
        "splits",
        '"images" / known_split(self.name, split, self.splits)',
        '"images" / "train"',
        "is in 'train'",
    ),
    Fault("fingerprint", IMAGES, with_images("fingerprint=lambda self: str(id(self))"), "opened again"),
    Fault("fingerprint", IMAGES, with_images("fingerprint=lambda self: 'constant'"), "same fingerprint"),
    Fault("changes", IMAGES, with_images("fingerprint=lambda self: ' '.join(self.ids)"), "changed pixel"),
    Fault("changes", IMAGES, with_images("fingerprint=lambda self: str(self._files)"), "a copy elsewhere"),
    Fault("no labels", IMAGES, with_images("", "found.truth = self"), "which gives labels"),
    Fault("no labels", IMAGES, with_images("", "found.truth = [self.labels(split).label(0)]"), "an array"),
    Fault(
        "no labels",
        IMAGES,
        with_images("", "found.truth = list((self.root / 'labels' / split).glob('*.png'))"),
        "scene-",
    ),
    Fault("verify", "return verify_splits(self)", "return None", "verify() returned None"),
]


@pytest.fixture
def subject(tmp_path) -> Path:
    """A dataset as ``uss-bench new`` writes it."""
    return subject_with(tmp_path, "dataset")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_broken_dataset_fails_the_check_that_is_about_it_and_is_told_what_to_do(tmp_path, fault):
    registry = Registry([subject_with(tmp_path, "dataset", fault)])
    survey = Survey(registry.find("datasets", "subject"), registry, {})
    (found,) = run_checks(survey, [one for one in DATASET_CHECKS if one.name == fault.check])
    assert (found.status, found.check) == ("failed", fault.check), found
    assert fault.text in found.text
    assert found.todo


def test_every_check_can_fail():
    assert {one.name for one in DATASET_CHECKS} == {fault.check for fault in FAULTS}


@pytest.mark.parametrize("dataset", ["toy3", "toy27"])
def test_generated_datasets_pass_every_check(dataset, monkeypatch):
    # Fewer scenes are drawn; what fingerprints cover is tested with the generators.
    monkeypatch.setattr("uss_bench.kit.survey.SAMPLED", 4)
    monkeypatch.setattr("uss_bench.data.generated._FINGERPRINTED", 1)
    findings = check_dataset(dataset, Registry())
    assert [one.check for one in findings] == [one.name for one in DATASET_CHECKS]
    assert {one.status for one in findings} <= {"ok", "note"}


def test_a_folder_of_photographs_without_labels_passes_too(subject):
    findings = {
        one.check: one
        for one in check_dataset("folder", Registry(), {"root": str(subject / "sample" / "images" / "train")})
    }
    assert not [one for one in findings.values() if one.status == "failed"]
    assert findings["labels"].status == "skipped"
    assert findings["splits"].status == "note"
    assert findings["changes"].status == "ok"


def test_the_command_exits_by_whether_a_check_failed(subject, command, tmp_path):
    assert command("check", "dataset", "subject", "--plugin", subject).code == 0
    subject = Path(
        shutil.copytree(subject, tmp_path / "broken")
    )  # elsewhere, or Python would not read it again
    path = subject / "subject.py"
    path.write_text(path.read_text().replace("return verify_splits(self)", "return ''"))
    said = command("check", "dataset", "subject", "--plugin", subject)
    assert said.code == 1
    assert "failed   verify" in said.out
    assert command("check", "dataset", "subject", "--plugin", subject, "--data", "rot=1").code == 2


def test_an_array_tells_a_label_when_each_of_its_values_stands_for_one_class():
    label = np.random.default_rng(0).integers(-1, 3, (12, 15)).astype(np.int16)
    codes = np.array([40, 7, 7, 9])[label]  # two values for one class would tell it; one for two does not
    assert tells(label.astype(np.uint8), label)
    assert not tells(codes, label)
    assert tells(np.stack([label * 60 % 256] * 3, axis=2).astype(np.uint8), label)
    assert not tells(np.random.default_rng(1).integers(0, 256, (12, 15)), label)
    assert not tells(label[:, :-1], label)


def test_what_closures_caches_and_containers_hold_is_reached():
    import functools

    secret = object()
    cached = functools.lru_cache(lambda: secret)
    hidden = [{"a": functools.partial(lambda given: (given, cached), 3)}]
    assert any(thing is secret for thing in reachable(hidden))


def test_a_color_that_two_classes_share_is_noted_as_published_palettes_have_such(tmp_path):
    shared = Fault("open", "[86, 180, 233]", "[230, 159, 0]", "", "spec.toml")
    registry = Registry([subject_with(tmp_path, "dataset", shared)])
    survey = Survey(registry.find("datasets", "subject"), registry, {})
    (found,) = run_checks(survey, [one for one in DATASET_CHECKS if one.name == "open"])
    assert (found.status, "same color" in found.text) == ("note", True)
