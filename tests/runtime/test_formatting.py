"""Numbers as people read them: tables of what each function writes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from uss_bench.experiment.command_line import parse_pairs
from uss_bench.runtime.formatting import byte_size, duration, mean_sd, number, plural, shortened, value_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "–"), (0, "0 s"), (0.24, "0.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (89, "89 s")),
        *((91, "1.5 min"), (25 * 60, "25 min"), (6000, "1.7 h"), (71 * 3600, "71 h"), (10**6, "12 days")),
        (10**9, "11,574 days"),
    ],
)
def test_times_have_two_digits_in_a_suitable_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2.5e9, "2.5 GB")),
        *((7e12, "7.0 TB"), (8e15, "8.0 PB"), (9e18, "9,000.0 PB")),
    ],
)
def test_sizes_are_decimal(count, text):
    assert byte_size(count) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "–"),
        ([15.64], "15.6"),
        ([1.0, 2.0, 4.0], "2.3 ± 1.5"),
        (np.array([3.0, 3.0]), "3.0 ± 0.0"),
        ([math.nan, 1.0], "– ± –"),
    ],
)
def test_means_stand_beside_the_sample_deviation(values, text):
    assert mean_sd(values) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 1, "–"), (math.nan, 1, "–"), (1.25, 2, "1.25"), (7, 0, "7"), (-0.5, 1, "-0.5")],
)
def test_numbers_and_their_absence(value, digits, text):
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("code", "code"),
        ("3", '"3"'),
        ("null", '"null"'),
        ('"', '"'),
        ("[1", "[1"),
        ("\t1", '"\\t1"'),
        ("[" * 100_000, "[" * 100_000),
        ("NaN", '"NaN"'),
        (True, "true"),
        (None, "null"),
        (2.0, "2.0"),
        ([1], "[1]"),
        ("ä", "ä"),
        ({"a": "1"}, '{"a": "1"}'),
    ],
)
def test_values_are_written_as_the_command_line_takes_them(value, text):
    assert value_text(value) == text
    assert parse_pairs((f"a={text}",), "--set") == {"a": value}


def test_counts_and_long_values():
    assert [plural(n, "record") for n in (0, 1, 1204)] == ["0 records", "1 record", "1,204 records"]
    assert shortened("a" * 40) == "a" * 12 + "…"
    assert [shortened(one) for one in (None, "", 3)] == ["unknown", "unknown", "3"]
