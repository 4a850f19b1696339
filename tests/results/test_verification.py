"""``uss-bench verify-record``: a state evaluated again, what is noted, and what the board makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import PLUGINS

import uss_bench
from uss_bench.board.compute import boards
from uss_bench.results.collection import gather, read_entries
from uss_bench.results.files import read_record
from uss_bench.results.verification import is_verified

QUICK = {"protocol": "stego320@2[eval_side=96]", "training": {"side": 96}, "plugins": [PLUGINS]}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (entry,) = uss_bench.run(
        "dino", "tiny", params={"steps": 5}, out=tmp_path / "results", device="cpu", workers=1, **QUICK
    )
    return entry.path


@pytest.fixture
def verify(command, record):
    def verify():
        return command(
            "verify-record", record, "--plugin", PLUGINS, "--workers", 1, "--device", "cpu", "--quiet"
        )

    return verify


def test_an_honest_record_is_verified_and_marked(verify, record):
    assert not is_verified(record)
    said = verify()
    assert said.code == 0, said.err
    assert "every count is equal" in said.out
    assert is_verified(record)
    entries, broken = read_entries([record.parents[1]])
    assert (len(entries), broken) == (1, [])  # what was noted is no record
    (board,) = boards(gather(entries))
    assert board.rows[0].verified


def test_other_counts_are_not_verified(verify, record, monkeypatch):
    from uss_bench.evaluation.evaluator import Evaluator

    evaluate = Evaluator.evaluate

    def worse(self, method):
        found = evaluate(self, method)
        found.raw[:] = np.roll(found.raw, 1, axis=2)
        return found

    monkeypatch.setattr(Evaluator, "evaluate", worse)
    said = verify()
    assert said.code == 3
    assert "is not verified" in said.err
    assert json.loads(record.with_suffix(".verified.json").read_text())["moved"] > 0.001
    assert not is_verified(record)


def test_a_record_that_was_changed_since_is_not_verified(verify, record):
    assert verify().code == 0
    record.write_text(record.read_text().replace('"notes": []', '"notes": ["better"]'))
    assert read_record(record).notes == ["better"]
    assert not is_verified(record)


def test_a_record_without_a_state_says_so(verify, record):
    record.with_suffix(".safetensors").unlink()
    said = verify()
    assert said.code == 1
    assert "safetensors" in said.err
    assert not record.with_suffix(".verified.json").exists()
