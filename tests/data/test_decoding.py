"""Reading ahead: in order, no further than asked, and stopped by whoever stops listening."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fakes import ArrayImages

from uss_bench.data.prefetch import HeldImages, read_ahead


def test_results_come_in_order_from_other_threads():
    threads = set()

    def read(index: int) -> int:
        threads.add(threading.get_ident())
        return index**2

    assert list(read_ahead(read, range(20), depth=3)) == [index**2 for index in range(20)]
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_no_more_is_read_than_the_depth_beyond_what_was_taken(depth):
    read: list[int] = []
    results = read_ahead(read.append, range(50), depth=depth)
    assert read == []
    for taken in range(1, 51):
        next(results)
        assert taken <= len(read) <= taken + depth
    assert sorted(read) == list(range(50))


def test_the_next_is_being_read_while_one_is_used():
    begun = threading.Event()

    def read(index: int) -> int:
        if index == 1:
            begun.set()
        return index

    results = read_ahead(read, range(3), depth=1)
    assert next(results) == 0
    assert begun.wait(30)
    assert list(results) == [1, 2]


def test_an_error_comes_in_its_turn_and_ends_the_reading():
    read = []

    def read_or_fail(index: int) -> int:
        read.append(index)
        if index == 2:
            raise ValueError("image 2 is broken")
        return index

    results = read_ahead(read_or_fail, range(50), depth=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="image 2 is broken"):
        next(results)
    assert len(read) <= 7


def test_closing_ends_the_threads():
    results = read_ahead(lambda index: index, range(50), depth=4)
    next(results)
    assert any(one.name.startswith("decode") for one in threading.enumerate())
    results.close()
    assert not any(one.name.startswith("decode") for one in threading.enumerate())


def test_held_images_are_not_read_again():
    images = ArrayImages.random(3, 4, 5)
    images.extra = [{"depth": np.full((4, 5), index)} for index in range(3)]
    other = np.zeros((2, 2, 3), np.uint8)
    held = HeldImages(images, {1: other})
    assert held.image(1) is other
    assert held.image(2) is images.arrays[2]
    assert (len(held), held.ids, held.fingerprint()) == (3, images.ids, images.fingerprint())
    assert held.aux(2) is images.extra[2]
