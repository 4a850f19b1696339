"""Absurd sizes, seeds, keys and shapes: refused at once, and by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from uss_bench.errors import DataError
from uss_bench.plugins.specs import DatasetSpec, decode_toml
from uss_bench.runtime.limits import DEEPEST_KEY

N = 50_000
DEEP = {
    "dotted": ".".join(["a"] * N) + " = 1",
    "dotted and quoted": ".".join(['"a"'] * N) + " = 1",
    "dotted with other quotes": ".".join(["'a.b'"] * N) + " = 1",
    "dotted with spaces": " . ".join(["a"] * N) + " = 1",
    "of a table": "[" + ".".join(["a"] * N) + "]",
    "of an array of tables": "[[" + ".".join(["a"] * N) + "]]",
    "within braces": "x = {" + ".".join(["a"] * N) + " = 1}",
    "of one step beyond": ".".join(["a"] * (DEEPEST_KEY + 1)) + " = 1",
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_key_of_thousands_of_parts_is_refused_before_it_is_parsed(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tomllib.loads", lambda text: pytest.fail("parsing takes minutes"))
    (tmp_path / "x.toml").write_text(f'name = "x"\n{DEEP[kind]}\n')
    with pytest.raises(DataError, match=r"x\.toml is not valid: a key has more than 64 parts"):
        decode_toml(tmp_path / "x.toml", DatasetSpec)


NESTED = {
    "braces": "x = " + "{a=" * N + "1" + "}" * N,
    "brackets": "x = " + "[" * N + "]" * N,
    "digits": "x = " + "9" * N,
}


@pytest.mark.parametrize("kind", NESTED)
def test_values_that_are_nested_or_long_by_the_thousand_are_no_toml(tmp_path, kind):
    (tmp_path / "x.toml").write_text(NESTED[kind])
    with pytest.raises(DataError, match=r"x\.toml is not TOML"):
        decode_toml(tmp_path / "x.toml", DatasetSpec)


def test_long_texts_with_dots_are_no_keys(tmp_path):
    text = "\n".join(
        [
            'kind = "dataset"\nname = "x"\ntitle = "x"\nentry = "x:X"',
            f'summary = "{"." * 1000} = {"word " * 5000}. {"e.g. " * 20}"',
            f'notes = ["{"a" * 100_000}", "{"A sentence of words. " * 500}", "1.5, {"2.5, " * 500}"]',
            f"# {'=' * 200} {'.' * 500}",
        ]
    )
    (tmp_path / "x.toml").write_text(text)
    assert decode_toml(tmp_path / "x.toml", DatasetSpec).name == "x"


RUN = ("run", "--method", "dino", "--dataset", "toy3", "--backbone", "patchstats", "--quiet")
ABSURD = [
    (["--seed", 2**70], "is too large"),
    ([f"--seed={2**70}"], "is too large"),
    (["--seed", 2**63], "is too large"),
    (["--seeds", 10**14], "not in the range"),
    (["--limit", 10**22], "is too large"),
    (["--limit", 2**31], "not in the range"),
    (["--workers", 10**11], "not in the range"),
    (["--jobs", 10**11], "not in the range"),
    (["--data", f"seed={2**70}"], "The seed of toy3 is an integer from 0 to"),
    (["--set", "clusters=1e12"], "clusters=1000000000000.0 is not valid"),
    (["--set", f"clusters={10**12}"], "clusters must be at most 65,536, not 1,000,000,000,000"),
    (["--set", "clusters=65537"], "clusters must be at most 65,536"),
    (["--set", f"batch_size={2**31}"], "batch_size must be at most 2,147,483,647"),
    (["--set", f"steps={10**18}"], "steps must be at most 2,147,483,647"),
    (["--set", f"clusters={'[' * N + ']' * N}"], "more characters) is not valid"),
    (["--set", f"{'a' * N}=1"], "more characters)' (--set …)"),
    (["--protocol", f"stego320@2[eval_side={10**11}]"], "Expected `int` <= 8192"),
    (["--training", f"side={10**11}"], "Expected `int` <= 8192"),
]


@pytest.mark.parametrize(("words", "expected"), ABSURD, ids=lambda value: str(value)[:40])
def test_an_absurd_size_is_a_usage_error_at_once(command, tmp_path, words, expected):
    said = command(*RUN, *words, "--out", tmp_path / "out")
    assert said.code == 2
    assert expected in said.err
    assert len(said.err) < 2000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(16, 4000), (4000, 16), (8, 10_000), (33 * 9, 9)])
@pytest.mark.parametrize("protocol", ["full@2", "stego320@2"])
def test_a_strip_is_refused_by_every_command_that_reads_it(command, tmp_path, size, protocol):
    (tmp_path / "photos").mkdir()
    for name, shape in (("sound", (40, 40 * 32)), ("strip", size)):
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    data = ("--dataset", "folder", "--root", tmp_path / "photos")
    for words in (("verify", *data), (*RUN[:3], *data, *RUN[5:], "--protocol", protocol, "--workers", 1)):
        out = () if words[0] == "verify" else ("--set", "clusters=2", "--out", tmp_path / "out")
        said = command(*words, *out)
        assert said.code == 1
        assert f"'strip' is {size[1]}×{size[0]} pixels" in said.err
        assert "one side is more than 32 times the other" in said.err


@pytest.mark.parametrize("method", ["smooseg", "stego", "ds2dl", "equss", "reib"])
def test_a_method_that_pairs_images_says_that_one_is_not_enough(command, tmp_path, method):
    (tmp_path / "photos").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photos" / "a.png")
    data = (
        "--dataset",
        "folder",
        "--root",
        tmp_path / "photos",
        "--set",
        "clusters=2",
        "--out",
        tmp_path / "o",
    )
    words = ("run", "--method", method, *data, "--backbone", "patchstats", "--set", "batch_size=2", "--quiet")
    said = command(*words)
    assert said.code == 2
    assert f"'{method}' trains on batches of at least 2 images, and split 'all' of 'photos' has 1" in said.err
    said = command(*words, "--set", "batch_size=1")
    assert "batch_size must be at least 2, not 1" in said.err
    assert command(*words, "--training", "crops=five", "--dry-run").code == 0
