"""Plugins that go wrong: the user is told which one, and once mended they give what they would have."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness import HERE, PLUGINS, Bench, Ended, Place, check_sound, without_time
from tally import FULL, Tally, full_only, generator

from uss_bench.results.files import read_record, record_files
from uss_bench.results.record import RunRecord

SHARED = ("--workers", "1", "--protocol", "stego320@2[eval_side=64]", "--training", "side=64")
METHOD = ("--method", "faulty-method", "--dataset", "tiny")
DATASET = ("--method", "dino", "--dataset", "faulty-dataset", "--set", "steps=4")
BACKBONE = ("--method", "dino", "--dataset", "tiny", "--backbone", "faulty-backbone", "--set", "steps=4")

RAISING = (
    "raises",
    "raises by the megabyte",
    "recurses",
    "runs out of memory",
    "exits",
    "exits with a message",
)
WRONG = ("is NaN", "is infinite", "lacks a dimension", "is of integers", "is empty")
WRONG_TYPE = ("is nothing", "is NumPy's")
OF_METHODS = [
    *(f"{place}:{kind}" for place in ("constructor", "train", "embed", "classify") for kind in RAISING),
    *(f"{place}:{kind}" for place in ("state_dict", "load_state_dict") for kind in ("raises", "exits")),
    *(f"{place}:{kind}" for place in ("embed", "classify") for kind in (*WRONG, *WRONG_TYPE)),
    "classify:is of another shape",  # a code may have any height and width
    "loss:is NaN",
    "loss:is infinite",
    "state_dict:is nothing",
    "state_dict:is NumPy's",
]
OF_DATASETS = [
    *(
        f"{place}:{kind}"
        for place in ("constructor", "ids", "fingerprint", "image", "label")
        for kind in ("raises", "exits")
    ),
    *(f"image:{kind}" for kind in ("is of floats", "is gray", "has four channels", "is empty", "is nothing")),
    *(
        f"label:{kind}"
        for kind in ("has a class beyond K", "has a class below -1", "is of floats", "is of another size")
    ),
    *(f"label:{kind}" for kind in ("has three dimensions", "is empty", "is nothing")),
    *(f"ids:{kind}" for kind in ("has fewer", "has one twice", "leads out of the folder")),
]
OF_BACKBONES = [
    f"backbone:{kind}"
    for kind in (
        *("raises", "exits", "runs out of memory", "is NaN", "has other channels", "has another grid"),
        *("lacks an image", "is of integers", "is NumPy's", "lacks the facet", "is nothing"),
    )
]


FAULTY = ("--plugin", HERE / "plugins", "--plugin", PLUGINS)


def run(bench: Bench, place: Place, names: tuple[str, ...], fault: str) -> Ended:
    return bench.run(
        ["run", *names, *SHARED, *FAULTY, "--out", place.out],
        place,
        FAULT=fault,
    )


def only_record(place: Place) -> RunRecord:
    (path,) = record_files(place.out)
    return without_time(read_record(path))


@pytest.mark.parametrize(
    ("what", "names", "faults"),
    [
        ("method", METHOD, OF_METHODS),
        ("dataset", DATASET, OF_DATASETS),
        ("backbone", BACKBONE, OF_BACKBONES),
    ],
    ids=["method", "dataset", "backbone"],
)
def test_a_plugin_that_goes_wrong(
    bench: Bench, tally: Tally, tmp_path: Path, what: str, names: tuple[str, ...], faults: list[str]
) -> None:
    kind = f"a {what} that raises, exits, or returns what it must not"
    sound = Place(tmp_path / "sound")
    run(bench, sound, names, "").check_done()
    expected = only_record(sound)
    for fault in faults if FULL else generator(what).sample(faults, 1):
        place = Place(tmp_path / fault.replace(" ", "-").replace(":", "-"))
        with tally.fault(kind, fault):
            ended = run(bench, place, names, fault)
            ended.check_error(f"faulty-{what}")
            assert len(ended.said) < 20_000, f"{len(ended.said):,} characters are said"
            assert all(read_record(one).status == "failed" for one in record_files(place.out))
            run(bench, place, names, "").check_done()
            assert only_record(place) == expected
            check_sound(place)
    tally.check(kind)


@full_only
def test_a_plugin_that_ends_the_process(bench: Bench, tally: Tally, tmp_path: Path) -> None:
    """Nobody is left to say so; the exit code is the plugin's, there is no record, and nothing is lost."""
    kind = "a method that ends the process"
    for place_of_fault in ("constructor", "train", "embed", "classify", "state_dict"):
        place = Place(tmp_path / place_of_fault)
        with tally.fault(kind, place_of_fault):
            assert run(bench, place, METHOD, f"{place_of_fault}:ends the process").code == 7
            assert not record_files(place.out)
            run(bench, place, METHOD, "").check_done()
            check_sound(place)
    tally.check(kind)


@full_only
def test_a_plugin_that_prints_megabytes(bench: Bench, tally: Tally, tmp_path: Path) -> None:
    kind = "a method that prints 40 MB"
    for place_of_fault in ("train", "embed"):
        place = Place(tmp_path / place_of_fault)
        with tally.fault(kind, place_of_fault):
            run(bench, place, METHOD, f"{place_of_fault}:prints megabytes").check_done()
            check_sound(place)
    tally.check(kind)


@full_only
def test_a_plugin_that_hangs(bench: Bench, tally: Tally, tmp_path: Path) -> None:
    """It is ended by the user with Ctrl-C; the cell can then be run."""
    kind = "a method that hangs, ended by Ctrl-C"
    for place_of_fault in ("train", "embed", "classify"):
        place = Place(tmp_path / place_of_fault)
        command = ["run", *METHOD, *SHARED, *FAULTY]
        with tally.fault(kind, place_of_fault):
            child = bench.start(
                [*command, "--out", place.out],
                place,
                ("interrupt_normally", {}),
                FAULT=f"{place_of_fault}:hangs",
            )
            assert child.wait(5) is None
            child.signal(signal.SIGINT)
            child.finish().check_error("Interrupted.", code=130)
            run(bench, place, METHOD, "").check_done()
            check_sound(place)
    tally.check(kind)


@full_only
def test_a_plugin_that_ends_a_job(bench: Bench, tally: Tally, tmp_path: Path) -> None:
    """With --jobs somebody is left to say so."""
    kind = "a method that ends the process of a job of --jobs 2"
    place = Place(tmp_path)
    command = ["run", *METHOD, *SHARED, *FAULTY]
    command += ["--jobs", 2, "--seeds", 2, "--out", place.out]
    with tally.fault(kind, "train"):
        ended = bench.run(command, place, FAULT="train:ends the process")
        ended.check_error("exited with code 7 and said nothing")
        assert not record_files(place.out)
        bench.run(command, place).check_done()
        assert len(record_files(place.out)) == 2
        check_sound(place)
    tally.check(kind)
