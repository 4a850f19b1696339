"""The ladder of datasets: generated and file-based ones climb it, and every rung can fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from uss_bench.kit import check_dataset
from uss_bench.kit.dataset_rungs import DATASET_RUNGS
from uss_bench.kit.ladder import Finding, climb
from uss_bench.kit.reach import reachable, tells
from uss_bench.kit.scaffold import write_plugin
from uss_bench.kit.survey import Survey
from uss_bench.registry import Registry


class Fault(NamedTuple):
    """A change of the adapter that breaks it, and what the ladder should say."""

    rung: str
    old: str
    new: str
    text: str
    file: str = "subject.py"


IMAGES = "return FileImages(self._files(split))"
TABLE = "self._table.read(files[name], hint)"


def with_images(body: str, argument: str = "") -> str:
    """Return code that makes images of a class of its own, with `body` in it."""
    made = f"type('Images', (FileImages,), dict({body}))(self._files(split))"
    return f"found = {made}; {argument}; return found" if argument else f"return {made}"


CACHED = "image=lambda self, index, kept={}: kept.setdefault(index, FileImages.image(self, index))"
FAULTS = [
    Fault("spec", '"patchstats"', '"patchstat"', "default_backbone = 'patchstat'", "spec.toml"),
    Fault("import", "root: str | Path = SAMPLE", "root=SAMPLE", "'root' takes a value of any type"),
    Fault("import", "import Path\n", "import Path\nimport nowhere\n", "nowhere"),
    Fault("open", "= spec.train_split, spec.test_split", "= 'train', 'holdout'", "'holdout' is not among"),
    Fault("open", "[86, 180, 233]", "[230, 159, 0]", "same colour", "spec.toml"),
    Fault("open", '"images" / known', '"labels" / "none" / known', "cannot be read"),
    Fault("ids", IMAGES, with_images("", "found.ids = ['x'] * len(found)"), "not one per image"),
    Fault(
        "ids",
        "for path in list_images(folder)",
        "for path in sorted(list_images(folder), key=lambda path: __import__('os').urandom(8))",
        "another order",
    ),
    Fault("images", IMAGES, with_images("image=lambda *a: FileImages.image(*a) / 255"), "is float64"),
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
    Fault("verify", "return read_everything(self)", "return None", "verify() returned None"),
]


@pytest.fixture
def subject(tmp_path) -> Path:
    """A dataset as ``uss-bench new`` writes it, to be broken."""
    return write_plugin("dataset", "subject", tmp_path, Registry())[0]


def look(folder: Path, fault: Fault) -> Finding:
    """Put a fault in, and return what the rung that is about it says."""
    path = folder / fault.file
    text = path.read_text()
    assert fault.old in text
    path.write_text(text.replace(fault.old, fault.new, 1))
    survey = Survey("subject", Registry([folder]), {})
    (found,) = climb(survey, [one for one in DATASET_RUNGS if one.name == fault.rung])
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rung}: {fault.text}")
def test_a_broken_dataset_fails_the_rung_that_is_about_it_and_is_told_what_to_do(subject, fault):
    found = look(subject, fault)
    assert (found.status, found.rung) == ("failed", fault.rung), found
    assert fault.text in found.text
    assert found.todo


def test_every_rung_can_fail():
    assert {rung.name for rung in DATASET_RUNGS} == {fault.rung for fault in FAULTS}


@pytest.mark.parametrize("dataset", ["toy3", "toy27"])
def test_generated_datasets_climb_the_whole_ladder(dataset, monkeypatch):
    # Fewer scenes are drawn; what fingerprints cover is tested with the generators.
    monkeypatch.setattr("uss_bench.kit.survey.SAMPLED", 4)
    monkeypatch.setattr("uss_bench.generated._FINGERPRINTED", 1)
    findings = check_dataset(dataset, Registry())
    assert [one.rung for one in findings] == [rung.name for rung in DATASET_RUNGS]
    assert {one.status for one in findings} <= {"ok", "note"}


def test_a_folder_of_photographs_without_labels_climbs_it_too(subject):
    findings = {
        one.rung: one
        for one in check_dataset("folder", Registry(), {"root": str(subject / "sample" / "images" / "train")})
    }
    assert not [one for one in findings.values() if one.status == "failed"]
    assert findings["labels"].status == "skipped"
    assert findings["splits"].status == "note"
    assert findings["changes"].status == "ok"


def test_the_command_exits_by_whether_a_rung_failed(subject, command, tmp_path):
    assert command("check", "dataset", "subject", "--plugin", subject).code == 0
    subject = Path(
        shutil.copytree(subject, tmp_path / "broken")
    )  # elsewhere, or Python would not read it again
    path = subject / "subject.py"
    path.write_text(path.read_text().replace("return read_everything(self)", "return ''"))
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
