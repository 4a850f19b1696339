"""Listing and pairing files: none vanishes in silence, and names that look the same are the same."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from running import python

from uss_bench.data.listing import Names, by_stem, left_out, list_images
from uss_bench.errors import DataError

ROOT = Path(__file__).parents[2]


def test_listing_is_sorted_ignores_case_and_hidden_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "C.jpeg", "._a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["C.jpeg", "a.png", "b.JPG"]
    with pytest.raises(DataError, match="missing"):
        list_images(tmp_path / "missing")


@pytest.mark.parametrize("target", ["nowhere.png", "/nowhere/at/all.png", "loop.png"])
def test_an_image_that_is_a_link_to_nowhere_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "sound.png").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to(target)
    with pytest.raises(DataError, match=r"1 of 2 files in .* are links that lead nowhere; .*loop\.png"):
        list_images(tmp_path)


def test_links_that_lead_somewhere_are_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.dat").write_bytes(b"")
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere" / "a.dat")
    (tmp_path / "b.png").symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.heic", "c.HEIC", "d.jp2", "notes.txt", "README", ".hidden", "e.gif"):
        (tmp_path / name).write_bytes(b"")
    for name in ("more", "night.png"):
        (tmp_path / name).mkdir()
    assert left_out(tmp_path, list_images(tmp_path)) == (
        f"Not read in {tmp_path}: 1 .gif, 2 .heic, 1 .jp2, 1 .txt, 1 without a suffix, the folder 'more', "
        "the folder 'night.png'."
    )
    assert left_out(tmp_path / "more", []) == ""


FORMS = ["NFC", "NFD", "NFKD"]
NAMES = ["é", "Ångström", "ü_0", "한글", "plain"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", FORMS)
@pytest.mark.parametrize("asked", FORMS)
def test_names_that_look_the_same_are_found(tmp_path: Path, name: str, stored: str, asked: str) -> None:
    path = tmp_path / unicodedata.normalize(stored, f"{name}.PNG")
    path.write_bytes(b"")
    assert Names(tmp_path).find(unicodedata.normalize(asked, f"{name}.png")) == path
    assert by_stem(list_images(tmp_path)) == {unicodedata.normalize("NFC", name): path}


def test_two_names_that_look_the_same_are_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.png")).write_bytes(b"")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes the two names for one")
    with pytest.raises(DataError, match="have the same stem"):
        by_stem(list_images(tmp_path))


def test_a_name_is_found_exactly_before_it_is_found_in_another_case(tmp_path: Path) -> None:
    for name in ("a.png", "A.PNG"):
        (tmp_path / name).write_bytes(b"")
    names = Names(tmp_path)
    assert (names.find("a.png").name, names.find("A.PNG").name) == ("a.png", "A.PNG")
    assert names.find("b.png") == tmp_path / "b.png"
    assert Names(tmp_path / "gone").find("b.png") == tmp_path / "gone" / "b.png"
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="a link that leads nowhere"):
        Names(tmp_path).find("B.png")


def test_a_name_that_is_not_text_is_named(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match="whose name is not text") as caught:
        list_images(tmp_path)
    assert "not UTF-8: rename" in str(caught.value.hint)


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
@pytest.mark.parametrize("name", ["é.png", "\udcc3\udca9.png"])
def test_a_locale_without_utf_8_is_told_instead_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "plain.png").write_bytes(b"")
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    with pytest.raises(DataError, match="whose name is not text") as caught:
        list_images(tmp_path)
    assert f"locale's encoding is {encoding}, and names are UTF-8: set PYTHONUTF8=1" in str(caught.value.hint)


LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]


@pytest.mark.parametrize("locale", LOCALES)
def test_a_command_under_a_locale_without_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: dict[str, str]
) -> None:
    (tmp_path / "plain.png").write_bytes(b"")
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    code = "from uss_bench.cli import main; main()"
    verify = ("verify", "--dataset", "folder", "--root")
    said = python(code, *verify, tmp_path, cwd=tmp_path, path=[ROOT])
    assert "plain.png is empty" in said.stderr
    (tmp_path / "é.png").write_bytes(b"")
    said = python(code, *verify, tmp_path, cwd=tmp_path, path=[ROOT])
    assert said.returncode == 1
    assert ("is empty" if len(locale) == 1 else "set PYTHONUTF8=1") in said.stderr
