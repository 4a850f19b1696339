"""Text that people see: what would steer a terminal is written out, and no cell of a CSV is a formula."""

from __future__ import annotations

import csv
import io
import sys

import click
import pytest

from uss_bench.runtime import progress
from uss_bench.runtime.text import csv_text, in_markdown, printable, printing_safely

STEERS = ["\x1b[2J", "\x1b[8m", "\x9b2J", "\x07", "\r", "\x7f", "\u202e", "\u2066", "\x00"]
KEEPS = ["a\nb\tc", "C:\\results\\u001b", "é ± 道路", "“\u2011”", "x\x1b[1m\x1b[31mred\x1b[0m"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch) -> Terminal:
    """Put a terminal in the place of standard output and standard error."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(progress, "_quiet", False)
    return shown


@pytest.mark.parametrize("text", STEERS)
@pytest.mark.parametrize("say", [click.echo, print, lambda text: click.echo(text, err=True), progress.log])
def test_whatever_prints_it_it_does_not_steer(monkeypatch, text, say):
    shown = terminal(monkeypatch)
    with printing_safely():
        say(f"a{text}b")
    assert text not in shown.getvalue()
    assert printable(text) in shown.getvalue()


@pytest.mark.parametrize("text", KEEPS)
def test_other_text_and_our_own_colors_pass(monkeypatch, text):
    shown = terminal(monkeypatch)
    with printing_safely():
        click.echo(text)
    assert shown.getvalue() == f"{text}\n"


def test_bars_are_drawn_over_each_other(monkeypatch):
    shown = terminal(monkeypatch)
    with printing_safely(), progress.bar(total=3, label="work") as bar:
        for _ in range(3):
            bar.update()
            bar.refresh()
    assert "\r" in shown.getvalue()
    assert "\\u000d" not in shown.getvalue()


def test_characters_that_a_locale_lacks_do_not_end_a_command(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with printing_safely():
        click.echo("mean ± deviation")
    sys.stdout.flush()
    assert raw.getvalue() == b"mean ? deviation\n"


FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "=cmd|' /C calc'!A0",
    "-",
    "＝1",
    "-inf",
    "-1_0",
]
PLAIN = ["1+1", "a=1", "-0.5", "+1e-3", "-.5", "3", "", "−2", "smooseg (tau=-0.1)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula(text):
    (row,) = csv.reader(io.StringIO(csv_text([["a", text]]), newline=""))
    assert row == ["a", f"'{printable(text)}"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a;=1+1", "a;'=1+1"),
        ("a; @SUM(A1)", "a; '@SUM(A1)"),
        ("a\t-1+1", "a\t'-1+1"),
        (" =1", " '=1"),
        ("\ufeff=1", "\ufeff'=1"),
        ("=1;=2", "'=1;'=2"),
        ("a;b", "a;b"),
        ("a - b", "a - b"),
    ],
)
def test_nor_is_what_stands_behind_a_separator_of_other_countries_or_a_space(text, safe):
    (row,) = csv.reader(io.StringIO(csv_text([["a", text]]), newline=""))
    assert row == ["a", safe]


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_plain_text_stay(text):
    (row,) = csv.reader(io.StringIO(csv_text([["a", text]]), newline=""))
    assert row == ["a", text]


def test_numbers_stay_numbers():
    assert csv_text([["a", -1.5, -3, None, True]]) == "a,-1.5,-3,,True\n"


def test_markdown_shows_words_on_one_line():
    assert in_markdown("a|b\n<c> \x1b") == "a\\|b &lt;c&gt; \\\\u001b"
