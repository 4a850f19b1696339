"""Names that would lead out of a folder, from commands, records and datasets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from board_records import write_runs
from fuzzing import IMAGES

from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_record

ESCAPES = ["../out", "/tmp/out", "a/b", "..", ".", "", "a\\b", "a\n", "a\0b", "~", "Ä", "-x", "x" * 65]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_on_the_command_line_never_becomes_a_path(command, tmp_path, name) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    photo.write_bytes(IMAGES[0])
    before = sorted(tmp_path.rglob("*"))
    data = ["--dataset", "folder", "--root", photo.parent]
    dino = ["run", "--method", "dino", *data, "--set", "clusters=2"]
    for arguments in (
        ("new", "method", name, "--out", folder),
        ("new", "dataset", name, "--out", folder),
        ("eval", photo.parent, *data, "--name", name, "--out", folder),
        ("run", "--method", name, *data, "--out", folder),
        ("run", "--method", "dino", "--dataset", name, "--out", folder),
        (*dino, "--data", f"name={name}", "--out", folder),
        (*dino, "--backbone", name, "--out", folder),
        (*dino, "--backbone", "patchstats", "--backbone-name", name, "--out", folder),
        ("study", name, "--out", folder),
    ):
        said = command(*arguments)
        assert said.code in (1, 2), (arguments, said)
        assert "did not foresee" not in said.err, arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_runs(tmp_path_factory.mktemp("records"), "alpha", seeds=(0,))
    return path


@pytest.mark.parametrize("field", ["method", "dataset"])
@pytest.mark.parametrize("name", [name for name in ESCAPES if name])
def test_a_record_that_would_lie_elsewhere_is_refused(tmp_path, record, field, name) -> None:
    content = msgspec.json.decode(record.read_bytes())
    content["cell"][field]["name"] = name
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(DataError, match=rf"\$\.cell\.{field}\.name"):
        read_record(tmp_path / "record.json")


def test_a_dataset_that_calls_itself_a_path_is_refused(tmp_path) -> None:
    (tmp_path / "spec.toml").write_text(
        'kind = "dataset"\nname = "odd"\ntitle = "t"\nsummary = "s"\nentry = "odd:Odd"\n'
    )
    (tmp_path / "odd.py").write_text("class Odd:\n    def __init__(self, spec): self.name = '../odd'\n")
    with pytest.raises(UsageError, match=r"Dataset 'odd' calls itself '\.\./odd'"):
        load_dataset(Registry([tmp_path]), "odd", {})
