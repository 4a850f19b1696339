"""Methods in a process of their own: the same results, and nothing of the labels to be had."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import torch
from running import PLUGINS, python

from uss_bench.data.split_check import check_split
from uss_bench.errors import ContractError, RunError, UsageError
from uss_bench.experiment import isolated_places, method_process
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.isolation import IsolatedMethod, IsolatingRegistry
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.features.store import FeatureStore
from uss_bench.kit.scenes import CLASSES_FILE, write_scenes
from uss_bench.plugins.in_place import method_plugin
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry
from uss_bench.results.files import new_rerun_token, read_arrays
from uss_bench.runtime import landlock
from uss_bench.runtime.opened_files import harness_reads, opened_files

SMALL = {"protocol": "stego320@2[eval_side=96]", "training": {"side": 96}}
enforced = pytest.mark.skipif(not landlock.version(), reason="this system has no Landlock")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scenes(tmp_path) -> dict[str, Any]:
    """A data set of files: a folder of images and labels."""
    root = tmp_path / "data" / "scenes"
    write_scenes(root, {"train": range(4), "val": range(4, 6)})
    (root / "classes.toml").write_text(CLASSES_FILE)
    return {"dataset": "folder", "data": {"root": str(root), "classes": str(root / "classes.toml")}}


def run(
    registry: Registry,
    folder: Path,
    method: str,
    *,
    isolate: bool,
    seed: int = 0,
    budget: int = 10**9,
    **asked,
) -> Entry:
    """Run a cell here, or isolated."""
    chosen = IsolatingRegistry(registry) if isolate else registry
    setup = resolve(CellSpec(method=method, **{"backbone": "patchstats", **SMALL, **asked}), chosen)
    store = FeatureStore(folder / "features", setup.backbone, device=CPU, budget=budget)
    with setup.open_crf(workers=1) as pool:
        return run_cell(
            setup,
            0,
            store=store,
            pool=pool,
            out=folder / f"results-{isolate}",
            crf_engine="lattice",
            snapshot_seconds=0,
            force=new_rerun_token(),
        )


CPU = torch.device("cpu")


# --- The same results -----------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "smooseg": {"params": {"steps": 6, "batch_size": 2, "checkpoint_every": 3, "standardize": True}},
    "stego": {"params": {"steps": 4, "batch_size": 2, "checkpoint_every": 2}},
    "constant": {},
    "picie-like": {"params": {"epochs": 1}},
}
VIT: dict[str, dict[str, Any]] = {
    "ppap-like": {"params": {"steps": 3}},
    "attention-gradient": {"params": {"steps": 5}},
}


def assert_same(one: Entry, other: Entry) -> None:
    first, second = (read_arrays(entry.path, entry.record) for entry in (one, other))
    assert one.record.id == other.record.id
    for key, counts in first.counts.items():
        np.testing.assert_array_equal(counts, second.counts[key])
    for key, maps in first.maps.items():
        np.testing.assert_array_equal(maps, second.maps[key])
    states = [entry.path.with_suffix(".safetensors").read_bytes() for entry in (one, other)]
    assert states[0] == states[1]
    for name in ("curves", "candidates", "monitor", "last", "selected", "notes"):
        assert getattr(one.record, name) == getattr(other.record, name), name


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_predicts_the_same_isolated(method, scenes, tmp_path):
    registry = Registry([PLUGINS])
    runs = [
        run(registry, tmp_path, method, isolate=isolate, **scenes, **METHODS[method])
        for isolate in (True, False)
    ]
    assert_same(*runs)
    apart, here = (one.record.isolation for one in runs)
    assert (apart.process, here.process) == (True, False)
    assert bool(apart.enforced) == bool(landlock.version())
    assert (apart.opened_files, here.opened_files) == (0, 0)
    assert {"extract", "train"} <= runs[0].record.phases.keys()


def test_notes_of_an_editable_install_are_code_and_the_files_beside_them_are_not(monkeypatch, tmp_path):
    for name in ("source/own.egg-info/entry_points.txt", "source/labels/own.egg-info/a.png", "source/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(tmp_path / "source")
    known = isolated_places.code_folders()
    assert isolated_places.count_outside([str(tmp_path / "source/own.egg-info/entry_points.txt")], known) == 0
    others = ["source/labels/own.egg-info/a.png", "source/a.png"]
    assert isolated_places.count_outside([str(tmp_path / name) for name in others], known) == 2


@pytest.mark.parametrize("method", VIT)
def test_so_does_one_that_runs_or_trains_the_backbone(method, scenes, tmp_path, random_vit):
    registry = Registry([PLUGINS])
    given = {**scenes, **VIT[method], **{key: str(value) for key, value in random_vit.items()}}
    given["params"] = {"clusters": 3, **given["params"]}
    assert_same(*(run(registry, tmp_path, method, isolate=isolate, **given) for isolate in (True, False)))


def test_features_that_are_streamed_are_the_same(scenes, tmp_path):
    registry = Registry()
    given = {**scenes, **METHODS["smooseg"]}
    assert_same(
        run(registry, tmp_path, "smooseg", isolate=True, budget=0, **given),
        run(registry, tmp_path, "smooseg", isolate=False, **given),
    )


def test_the_harness_never_imports_an_isolated_method(scenes, tmp_path):
    code = """
    import sys
    sys.argv = ["uss-bench", *sys.argv[1:]]
    from uss_bench.cli import main
    try:
        main()
    finally:
        print([name for name in sys.modules if name.startswith("uss_bench_plugins_methods")])
    """
    data = scenes["data"]
    words = [
        *("run", "--method", "dino", "--dataset", "folder", "--root", data["root"]),
        *("--classes", data["classes"], "--backbone", "patchstats", "--set", "steps=2", "--workers", 1),
        *("--protocol", SMALL["protocol"], "--training", "side=96", "--out", tmp_path / "out"),
    ]
    ended = python(textwrap.dedent(code), *words, "--isolate", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    (path,) = (tmp_path / "out").glob("*/*.json")
    record = json.loads(path.read_text())
    assert record["isolation"]["process"] is True
    assert "--isolate" in record["command"]
    again = python(textwrap.dedent(code), *words, cwd=tmp_path)
    assert "done before" in again.stderr, "it is the same cell"


# --- Cheaters -------------------------------------------------------------------------------------

HEAD = """
import gc, glob, os, sys
from pathlib import Path
import numpy as np
import torch

class Cheat:
    def __init__(self, *, clusters: int = 3, note: str = ""):
        self.clusters, self.note = clusters, note

    def train(self, data, ctx):
        self.state = torch.zeros(self.clusters)
        for name in [name for name in dir(self) if name.startswith("cheat")]:
            try:
                found = bool(getattr(self, name)(data, ctx))
            except Exception as error:
                found = False
            ctx.report(1, **{name: float(found)})

    def embed(self, batch):
        return batch["tokens"]

    def classify(self, code):
        return code[:, :1].repeat(1, self.clusters, 1, 1) + torch.arange(self.clusters)[None, :, None, None]

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]
"""
CHEATS = """
    def cheat_open(self, data, ctx):
        return Path(self.note).read_bytes()

    def cheat_siblings(self, data, ctx):
        for thing in gc.get_objects():
            for name in ("path", "paths", "root", "_paths", "_files", "folder"):
                value = getattr(thing, name, None) if type(thing).__module__.startswith("uss_bench") else None
                if isinstance(value, (str, Path)) and "scenes" in str(value):
                    return True
        above = Path(self.note).parents[2]
        return [path.read_bytes() for path in above.rglob("labels/*/*.png")] or list(above.iterdir())

    def cheat_gc(self, data, ctx):
        return [
            thing for thing in gc.get_objects()
            if type(thing).__name__ in ("ValidatedLabels", "FileLabels", "Setup", "Evaluator")
            or (type(thing).__name__ != "type" and callable(getattr(type(thing), "label", None)))
        ]

    def cheat_frames(self, data, ctx):
        frame = sys._getframe()
        while frame is not None:
            for value in frame.f_locals.values():
                if hasattr(value, "test_labels") or hasattr(type(value), "label") or hasattr(value, "asked"):
                    return True
            frame = frame.f_back

    def cheat_memory(self, data, ctx):
        with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
            return memory

    def cheat_link(self, data, ctx):
        link = ctx.scratch / "checkpoint-00000001.safetensors"
        os.symlink(self.note, link)
        return link.read_bytes()

    def cheat_hard_link(self, data, ctx):
        os.link(self.note, ctx.scratch / "link")
        return (ctx.scratch / "link").read_bytes()

    def cheat_program(self, data, ctx):
        import subprocess
        return subprocess.run(["cat", self.note], capture_output=True, check=True).stdout

    def cheat_thread(self, data, ctx):
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(Path(self.note).read_bytes).result()

    def cheat_records(self, data, ctx):
        out = ctx.scratch.parents[1]
        return [path.read_bytes() for path in out.glob("*.json")] or list(out.iterdir())

    def cheat_checks(self, data, ctx):
        return [path.read_bytes() for path in Path(self.note).parents[4].glob("cache/checks/*")]

    def cheat_labels(self, data, ctx):
        return data._data.ask({"ask": "label", "index": 0})

    def cheat_image(self, data, ctx):
        return data._data.ask({"ask": "image", "index": len(data)})

"""


WITHOUT_ISOLATION = {"open", "siblings", "gc", "frames", "link", "hard_link", "program", "thread"}
WITHOUT_ISOLATION |= {"records", "checks"}
"""Which of them find what they look for in the process of the harness, and so test something."""


@pytest.fixture
def cheat(tmp_path):
    """Writes a method that reports 1 where it found what it looked for; returns its registry."""

    def write(body: str, name: str = "cheat") -> Registry:
        folder = tmp_path / "plugin" / name
        folder.mkdir(parents=True)
        (folder / "spec.toml").write_text(
            f'kind = "method"\nname = "{name}"\ntitle = "Cheat"\nsummary = "looks for labels"\n'
            'entry = "cheat:Cheat"\ninputs = ["tokens"]\n'
        )
        (folder / "cheat.py").write_text(HEAD + body)
        return Registry([folder])

    return write


@enforced
@pytest.mark.parametrize("isolate", [False, True])
def test_an_isolated_cheater_gets_nothing(isolate, cheat, scenes, tmp_path):
    registry = cheat(CHEATS)
    label = next(Path(scenes["data"]["root"]).glob("labels/val/*.png"))
    # A record and a report of the labels, to look for.
    run(registry, tmp_path, "constant", isolate=isolate, **scenes)
    dataset, _ = load_dataset(registry, "folder", scenes["data"])
    check_split(dataset, "val")
    entry = run(registry, tmp_path, "cheat", isolate=isolate, **scenes, params={"note": str(label)})
    found = {name.removeprefix("cheat_") for name, curve in entry.record.curves.items() if curve[0][1]}
    assert len(entry.record.curves) == CHEATS.count("def cheat_") == 13
    # What the collector lists and whose memory may be read differs between runs, without isolation.
    wrong = found if isolate else WITHOUT_ISOLATION - found
    assert len(wrong) <= (0 if isolate else 2), wrong


@enforced
@pytest.mark.parametrize("isolate", [False, True])
def test_a_generator_of_scenes_cannot_be_imported(isolate, cheat, tmp_path):
    body = """
    def cheat(self, data, ctx):
        from uss_bench.plugins.registry import Registry
        import uss_bench
        plugin = Registry().find("datasets", "toy3") if "toy3" in Registry().names("datasets") else None
        if plugin is None:
            for source in Path(uss_bench.__file__).parents[1].glob("**/toy3/*.py"):
                return source.read_text()
            return Path(self.note).read_text()
        return plugin.load()(plugin.spec).labels(plugin.spec.test_split).label(0).any()
"""
    folder = Registry().find("datasets", "toy3").folder
    given = {"dataset": "toy3", "limit": 2, "params": {"note": str(folder / "spec.toml")}}
    entry = run(cheat(body), tmp_path, "cheat", isolate=isolate, **given)
    assert entry.record.curves["cheat"] == [(1, float(not isolate))]


def test_replacing_the_scorer_changes_no_score(cheat, scenes, tmp_path):
    body = """
    def cheat(self, data, ctx):
        import uss_bench.evaluation.scoring as scoring
        import uss_bench.evaluation.evaluator as evaluator
        import uss_bench.experiment.runner as runner
        count = scoring.count
        def perfect(prediction, label, clusters, classes):
            return count(np.where(label < 0, 0, label), label, clusters, classes)
        scoring.count = evaluator.count = perfect
        return True
"""
    registry = cheat(body)
    scores = {}
    for isolate in (True, False):
        code = "import sys; from test_isolation import *; cheating_run(*sys.argv[1:])"
        ended = python(
            code,
            *(registry.extra[0], tmp_path / str(isolate), json.dumps(scenes), int(isolate)),
            cwd=tmp_path,
            path=[Path(__file__).parent, Path(running.__file__).parent],
        )
        assert ended.returncode == 0, ended.stderr
        scores[isolate] = float(ended.stdout.splitlines()[-1])
    assert scores[False] == pytest.approx(100)
    assert scores[True] < 60


def cheating_run(plugin: str, folder: str, scenes: str, isolate: str) -> None:
    """Print the score of a cheater, in a process that it may spoil."""
    entry = run(Registry([Path(plugin)]), Path(folder), "cheat", isolate=isolate == "1", **json.loads(scenes))
    print(entry.record.last.raw.miou)


@pytest.mark.parametrize("isolate", [False, True])
def test_files_that_a_method_opens_are_counted(isolate, cheat, scenes, tmp_path):
    body = """
    def cheat(self, data, ctx):
        for number in range(3):
            try:
                Path(f"{self.note}-{number}").read_text()
            except OSError:
                pass
        Path(__file__).read_text()
        (ctx.scratch / "own").write_text("mine")
        data.image(0)
"""
    for number in range(3):
        (tmp_path / f"other-{number}").write_text("something")
    given = {**scenes, "params": {"note": str(tmp_path / "other")}}
    entry = run(cheat(body), tmp_path, "cheat", isolate=isolate, **given)
    assert entry.record.isolation.opened_files == 3
    assert entry.record.isolation.process is isolate


# --- What may go wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("raise ValueError('no')", ContractError, "failed in training: ValueError: no"),
        ("os._exit(7)", RunError, "ended .exit code 7"),
    ],
)
def test_what_ends_a_method_is_said(body, error, text, cheat, scenes, tmp_path):
    registry = cheat(f"    def train(self, data, ctx):\n        {body}\n")
    with pytest.raises(error, match=text):
        run(registry, tmp_path, "cheat", isolate=True, **scenes)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("def embed(self, batch):\n        return [1]", "embedded 2 images as a list"),
        ("def classify(self, code):\n        return code[:1, :, :1]", "classified a code of"),
        ("def embed(self, batch):\n        1 / 0", "failed in embed: ZeroDivisionError"),
    ],
)
def test_what_it_predicts_is_checked_as_ever(body, text, cheat, scenes, tmp_path):
    registry = cheat(f"    def cheat(self, data, ctx):\n        return False\n\n    {body}\n")
    with pytest.raises(ContractError, match=text):
        run(registry, tmp_path, "cheat", isolate=True, **scenes)


def test_wrong_parameters_are_refused_as_ever(scenes):
    for params in ({"tau": "x"}, {"no_such": 1}, {"steps": 0}):
        found = []
        for registry in (Registry(), IsolatingRegistry(Registry())):
            with pytest.raises(UsageError) as raised:
                resolve(
                    CellSpec(method="smooseg", backbone="patchstats", params=params, **scenes, **SMALL),
                    registry,
                )
            found.append(str(raised.value))
        assert found[0] == found[1]


def test_code_among_the_data_is_refused(cheat, scenes, tmp_path):
    registry = cheat("")
    scenes["data"]["root"] = str(tmp_path)  # which holds the plugin
    (tmp_path / "images").symlink_to(tmp_path / "data" / "scenes" / "images")
    (tmp_path / "labels").symlink_to(tmp_path / "data" / "scenes" / "labels")
    with pytest.raises(UsageError, match=r"--isolate: .* lies in .*, which is kept from the method"):
        run(registry, tmp_path, "cheat", isolate=True, **scenes)


def test_where_the_system_enforces_nothing_the_record_says_so(cheat, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(method_process, "version", lambda: 0)
    label = next(Path(scenes["data"]["root"]).glob("labels/val/*.png"))
    given = {**scenes, "params": {"note": str(label)}}
    entry = run(
        cheat("    def cheat(self, data, ctx):\n        return Path(self.note).read_bytes()\n"),
        tmp_path,
        "cheat",
        isolate=True,
        **given,
    )
    found = entry.record.isolation
    assert (found.process, found.enforced, found.opened_files) == (True, "", 1)
    assert found.reason
    assert entry.record.curves["cheat"] == [(1, 1.0)]


def test_an_isolated_training_goes_on_where_it_was_killed(scenes, tmp_path, cheat):
    body = """
    def train(self, data, ctx):
        self.state = torch.zeros(3)
        for step in ctx.steps(4, state=self.state):
            self.state += step
            mark = ctx.scratch / "died"
            if step == 3 and not mark.exists():
                mark.write_text("")
                os._exit(9)
            ctx.report(step, value=float(self.state[0]))
"""
    registry = cheat(body)
    token = new_rerun_token()

    def once() -> Entry:
        setup = resolve(
            CellSpec(method="cheat", backbone="patchstats", **SMALL, **scenes), IsolatingRegistry(registry)
        )
        store = setup.open_store(CPU, root=tmp_path / "features")
        with setup.open_crf(workers=1) as pool:
            return run_cell(
                setup, 0, store=store, pool=pool, out=tmp_path / "out", crf_engine="lattice",
                snapshot_seconds=0, force=token,
            )  # fmt: skip

    with pytest.raises(RunError, match="exit code 9"):
        once()
    record = once().record
    assert record.curves["value"] == [(1, 1.0), (2, 3.0), (3, 6.0), (4, 10.0)]
    assert any("resumed after step 2" in note for note in record.notes)


# --- Parts ----------------------------------------------------------------------------------------


def test_what_is_hidden_is_taken_out_of_what_may_be_read(tmp_path):
    for name in ("code/a", "code/data/labels", "code/b/deep", "other"):
        (tmp_path / name).mkdir(parents=True)
    read, listed = isolated_places.without(
        [tmp_path / "code", tmp_path / "other"], [tmp_path / "code" / "data"]
    )
    assert sorted(path.relative_to(tmp_path).as_posix() for path in read) == ["code/a", "code/b", "other"]
    assert listed == [tmp_path / "code"]


def test_opened_files_are_those_of_the_caller_and_not_of_the_harness(tmp_path):
    for name in ("mine", "harness"):
        (tmp_path / name).write_text("x")
    with opened_files(tmp_path, by_harness=False) as some, opened_files(tmp_path) as all_of_them:
        (tmp_path / "mine").read_text()
        with harness_reads():
            (tmp_path / "harness").read_text()
    names = [[Path(path).name for path in found] for found in (some, all_of_them)]
    assert names == [["mine"], ["mine", "harness"]]


def test_the_environment_names_no_path_of_the_data(monkeypatch):
    monkeypatch.setenv("USS_BENCH_PLUGINS", "/secret")
    monkeypatch.setenv("MY_DATA", "/secret/data")
    found = method_process._environment("/tmp/own")
    assert "/secret" not in " ".join(f"{key}={value}" for key, value in found.items())
    assert found["TMPDIR"] == "/tmp/own"


def test_an_isolated_method_is_trained_by_the_harness_alone():
    method = IsolatedMethod(clusters=3)
    with pytest.raises(NotImplementedError):
        method.train(None, None)


class InPlace:
    """A method of this module, as of a notebook."""

    def __init__(self, *, clusters: int = 3) -> None:
        self.clusters = clusters

    def train(self, data, ctx) -> None:
        self.state = torch.arange(3.0)

    def embed(self, batch):
        return batch["tokens"]

    def classify(self, code):
        return code[:, : self.clusters]

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state) -> None:
        self.state = state["state"]


@pytest.mark.parametrize("isolate", [False, True])
def test_a_class_that_was_defined_here_runs_here_and_is_marked(isolate, scenes, tmp_path):
    registry = Registry()
    registry.add(method_plugin(InPlace, "in-place"))
    found = run(registry, tmp_path, "in-place", isolate=isolate, **scenes).record.isolation
    assert (found.process, found.enforced) == (False, "")
    assert bool(found.reason) is isolate
