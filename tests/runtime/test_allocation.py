"""Freed memory stays in the process, and what is computed in it is the same."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import ctypes, resource, sys
    from uss_bench.runtime.malloc import disable_malloc_trim
    if sys.argv[1] == "keep":
        assert disable_malloc_trim()
    import numpy as np
    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(6):
        if step == 2:
            before = faults()
        np.full(10_000_000, 1.0)  # 80 MB, above what the C library ever keeps by itself
    print(faults() - before)
""")


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's, of Linux")
def test_a_block_that_was_freed_is_not_asked_of_the_system_again():
    assert page_faults("keep") < page_faults("as it is") / 5
