"""No command replaces or deletes a file that it did not write: all commands, each of their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import PLUGINS, SMALL

from uss_bench.files.owned import LIST
from uss_bench.results.files import record_files

FOREIGN = b"somebody else's"
TINY = ["--dataset", "tiny", "--plugin", PLUGINS, "--quiet"]
RUN = ["run", *TINY, "--protocol", SMALL, "--limit", 3, "--workers", 1, "--method"]
STUDY = """
name = "mine"
title = "Steps"
method = "dino"
params = { batch_size = 2, init_patches = 64 }
[axis]
parameter = "steps"
values = [2, 3]
"""
GOLDEN = f"""
threads = 1
[tolerance]
pixels = 0.02
points = 1.0
[defaults]
dataset = "tiny"
protocol = "{SMALL}"
limit = 3
[[runs]]
method = "constant"
"""


@dataclass(frozen=True)
class Source:
    """What the commands read: records, photos and label maps."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    def record(self, method: str) -> Path:
        (path,) = (one for one in record_files(self.results) if one.name.startswith(method))
        return path


@pytest.fixture(scope="module")
def source(tmp_path_factory, isolated) -> Source:
    root = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        for words in (["dino", "--set", "steps=2"], ["dino", "--set", "steps=3"], ["constant"]):
            patch.setattr("sys.argv", ["uss-bench", *map(str, [*RUN, *words, "--out", root / "results"])])
            from uss_bench.cli import main

            with pytest.raises(SystemExit) as exit:
                main()
            assert exit.value.code == 0
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    (root / "maps").mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(
            root / "photos" / f"{number}.png"
        )
    for number in range(100, 104):
        Image.fromarray(rng.integers(0, 2, (48, 60), dtype=np.uint8)).save(
            root / "maps" / f"scene-{number}.png"
        )
    (root / "mine.toml").write_text(STUDY)
    return Source(root)


def prepare_golden(source: Source, out: Path) -> None:
    out.mkdir(exist_ok=True)
    (out / "plan.toml").write_text(GOLDEN)


def prepare_probe(source: Source, out: Path) -> None:
    path = source.record("constant")
    for one in path.parent.glob(f"{path.stem}.*"):
        if not (out / one.name).exists() and ".probe" not in one.name:
            out.mkdir(exist_ok=True)
            shutil.copy(one, out / one.name)


def figure(*words: object) -> Callable[[Source, Path], Sequence[object]]:
    return lambda source, out: ["plot", *words, "--records", source.results, "--out", out / "figure.svg"]


@dataclass(frozen=True)
class Writer:
    """A command that writes below a folder.

    Args:
        prepare: puts in place what the command finds beside what it writes.
        again: what is added when it is given again; None where it is refused then.
        tried: the end of the names of the files that are tried; the others are those of another command.
    """

    words: Callable[[Source, Path], Sequence[object]]
    prepare: Callable[[Source, Path], None] = lambda source, out: None
    again: Sequence[object] | None = ()
    tried: str = ""


WRITERS = {
    "run": Writer(lambda source, out: [*RUN, "constant", "--out", out], again=["--force"]),
    "run --jobs": Writer(
        lambda source, out: [*RUN, "constant", "--launcher", "local", "--jobs", 1, "--out", out],
        tried=".npz",
    ),
    "study": Writer(
        lambda source, out: [
            *("study", source.root / "mine.toml", *TINY, "--protocol", SMALL, "--limit", 3),
            *("--workers", 1, "--seeds", 1, "--out", out),
        ],
        again=["--force"],
        tried="mine-patchstats.png",
    ),
    "eval": Writer(
        lambda source, out: [
            *("eval", source.root / "maps", *TINY, "--clusters", 2, "--protocol", SMALL, "--out", out)
        ]
    ),
    "predict": Writer(
        lambda source, out: [
            *("predict", "--record", source.record("constant"), "--images", source.root / "photos"),
            *("--out", out, "--workers", 1, "--plugin", PLUGINS, "--quiet"),
        ]
    ),
    "probe": Writer(
        lambda source, out: [
            *("probe", out / source.record("constant").name, "--steps", 2, "--workers", 1),
            *("--plugin", PLUGINS, "--quiet"),
        ],
        prepare_probe,
    ),
    "features": Writer(
        lambda source, out: [
            *("features", "patchstats", *TINY, "--protocol", SMALL, "--training", "side=96", "--limit", 3),
            *("--measure", "kmeans", "--kmeans-steps", 1, "--out", out),
        ]
    ),
    "board build": Writer(lambda source, out: ["board", "build", "--records", source.results, "--out", out]),
    "report html": Writer(
        lambda source, out: ["report", source.record("constant"), "--out", out / "page.html"]
    ),
    "report md": Writer(lambda source, out: ["report", source.record("constant"), "--out", out / "page.md"]),
    "plot classes": Writer(figure("classes")),
    "plot confusion": Writer(figure("confusion", "--method", "constant")),
    "plot overview": Writer(figure("overview")),
    "plot cost": Writer(figure("cost")),
    "plot curves": Writer(figure("curves", "--method", "dino (steps=2)")),
    "plot sensitivity": Writer(figure("sensitivity", "--method", "dino", "--param", "steps")),
    "plot panels": Writer(figure("panels", *TINY)),
    "compare": Writer(
        lambda source, out: [
            *("compare", "dino (steps=2)", "constant", "--records", source.results),
            *("--plot", out / "difference.png"),
        ]
    ),
    "regress golden": Writer(
        lambda source, out: ["regress", "golden", "--golden", out, "--update", "--plugin", PLUGINS],
        prepare_golden,
    ),
    "merge": Writer(lambda source, out: ["merge", source.results, "--out", out]),
    "new method": Writer(lambda source, out: ["new", "method", "something", "--out", out], again=None),
    "new dataset": Writer(lambda source, out: ["new", "dataset", "something", "--out", out], again=None),
    "rerun": Writer(
        lambda source, out: [
            *("rerun", source.record("constant"), "--plugin", PLUGINS, "--workers", 1, "--out", out)
        ],
        again=None,
    ),
}


def written(out: Path, before: Sequence[Path]) -> list[Path]:
    """Return the files that a command wrote, relative to its folder; not what it keeps for itself."""
    return sorted(
        path.relative_to(out)
        for path in out.rglob("*")
        if path.is_file() and path not in before and path.name != LIST and ".plans" not in path.parts
    )


@pytest.mark.parametrize("name", WRITERS)
def test_own_files_are_replaced_and_others_stay(name, source, command, tmp_path):
    writer = WRITERS[name]
    out = tmp_path / "out"
    writer.prepare(source, out)
    before = list(out.rglob("*"))
    said = command(*writer.words(source, out))
    assert said.code == 0, said.err
    files = written(out, before)
    assert files
    said = command(*writer.words(source, out), *(writer.again or ()))
    assert said.code == (0 if writer.again is not None else 2), said.err

    tried = [file for file in files if file.name.endswith(writer.tried)]
    assert tried
    for index, file in enumerate(tried):
        other = tmp_path / f"other-{index}"
        writer.prepare(source, other)
        planted = other / file
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_bytes(FOREIGN)
        for more in ((), writer.again or ()):
            said = command(*writer.words(source, other), *more)
            assert planted.read_bytes() == FOREIGN, (name, file)
            assert said.code in (1, 2), (name, file, said.out)
            assert any(part in said.err for part in file.parts), (file, said.err)
            assert "did not foresee" not in said.err


def test_label_maps_do_not_go_where_the_photos_are(source, command, tmp_path):
    photos = shutil.copytree(source.root / "photos", tmp_path / "photos")
    (tmp_path / "link").symlink_to(photos)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    for out in (photos, tmp_path / "link", photos / ".." / "photos"):
        said = command(
            *("predict", "--record", source.record("constant"), "--images", photos, "--out", out),
            *("--plugin", PLUGINS, "--quiet"),
        )
        assert said.code == 2
        assert "the folder of the images" in said.err
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_a_board_deletes_no_table_of_others(source, command, tmp_path):
    out = tmp_path / "boards"
    (out / "latex").mkdir(parents=True)
    mine = [out / "latex" / "paper.tex", out / "notes.md"]
    for path in mine:
        path.write_bytes(FOREIGN)
    build = ["board", "build", "--records", source.results, "--out", out]
    for _ in range(2):
        assert command(*build).code == 0
    assert command(*build, "--check").code == 0
    assert all(path.read_bytes() == FOREIGN for path in mine)
    stale = next(path for path in (out / "latex").glob("*.tex") if path not in mine)
    gone = stale.with_name("town-vit-000000.tex")
    listed = (out / LIST).read_text()
    (out / LIST).write_text(listed + listed.replace(stale.name, gone.name))
    gone.write_bytes(stale.read_bytes())  # as of a board that is no more
    assert command(*build, "--check").code == 3
    assert command(*build).code == 0
    assert not gone.exists()
    assert all(path.read_bytes() == FOREIGN for path in mine)


def test_an_archive_replaces_no_file(tmp_path):
    import zipfile

    from uss_bench.errors import DataError
    from uss_bench.files.archives import unpack

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x.txt", "theirs")
    (tmp_path / "x.txt").write_bytes(FOREIGN)
    with pytest.raises(DataError, match=r"x\.txt exists"):
        unpack(tmp_path / "a.zip", tmp_path, lambda name: name)
    assert (tmp_path / "x.txt").read_bytes() == FOREIGN
