"""Spoilt TOML and JSON: specs, studies, plans, claims, classes files, values on the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import FUZZ, RGB, ROOT, encoded, ignore_warnings, reading, spoilt, survives
from hypothesis import given
from hypothesis import strategies as st

from uss_bench.claims import load_claims
from uss_bench.errors import DataError
from uss_bench.experiment.studies import read_study
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import decode_toml, read_spec
from uss_bench.regression.golden import PLAN, read_plan

pytestmark = ignore_warnings


CLASSES = b'name = "mine"\nignore_values = [255]\n' + b"".join(
    b'[[classes]]\nname = "%d"\ncolor = [0, 0, %d]\n' % (index, index) for index in range(3)
)
TOML: dict[str, tuple[Callable[[Path], object], list[bytes]]] = {
    "spec.toml": (read_spec, [path.read_bytes() for path in sorted(ROOT.glob("*/*/spec.toml"))[:8]]),
    "study.toml": (read_study, [path.read_bytes() for path in sorted(ROOT.glob("methods/*/studies/*.toml"))]),
    PLAN: (lambda path: read_plan(path.parent), [(ROOT / "leaderboards/golden" / PLAN).read_bytes()]),
}


@pytest.mark.parametrize("name", TOML)
@FUZZ
@given(st.data())
def test_specs_studies_and_plans(name: str, data: st.DataObject) -> None:
    read, wholes = TOML[name]
    survives(read, data.draw(spoilt(wholes)), name)


@FUZZ
@given(st.data())
def test_claims(data: st.DataObject) -> None:
    sources = ROOT / "leaderboards" / "claims"
    which = data.draw(st.sampled_from(["conditions.toml", "stego.toml"]))
    other = {"conditions.toml": "stego.toml", "stego.toml": "conditions.toml"}[which]
    content = data.draw(spoilt([(sources / which).read_bytes()]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / other).write_bytes((sources / other).read_bytes())
        (Path(folder) / which).write_bytes(content)
        with reading():
            load_claims(Path(folder))


@FUZZ
@given(spoilt([CLASSES]))
def test_classes_files_of_a_folder(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, array in (("images", RGB), ("labels", RGB[..., 0] % 3)):
            (root / kind).mkdir()
            (root / kind / "a.png").write_bytes(encoded("PNG", array))
        (root / "classes.toml").write_bytes(content)
        spec, plugin = Registry().dataset("folder")
        with reading():
            plugin.load()(spec, root=str(root), classes=str(root / "classes.toml")).verify()


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "x = " + "9" * 5_000, 'x = "\\uD800"', "\0"])
def test_toml_that_is_deep_or_long_is_an_error_that_names_the_file(tmp_path, text) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DataError, match=r"a\.toml"):
        decode_toml(tmp_path / "a.toml", dict[str, int])


@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 100_000, "NaN", "-Infinity", '"\\ud800"'])
def test_a_value_on_the_command_line_that_is_no_json_is_a_string(command, value) -> None:
    said = command("verify", "--dataset", "folder", "--root", "nowhere", "--data", f"partial={value}")
    assert said.code in (1, 2)
    assert "did not foresee" not in said.err
