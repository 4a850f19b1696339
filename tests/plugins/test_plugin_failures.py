"""A method that breaks the contract is named, its reason is kept, and no result is left behind."""

from __future__ import annotations

import pytest
from running import PLUGINS, SMALL

from uss_bench.errors import ContractError, Diverged
from uss_bench.results.files import read_record

FAULTS = {
    "train raises": "failed in training: RuntimeError: the dog ate the gradients",
    "state is no tensor": "failed in training",
    "embed raises": "failed in embed: KeyError",
    "code is no tensor": "embedded 4 images as",
    "code has integers": "embedded 4 images as .* int64; a code is float",
    "code lacks images": r"embedded 4 images as 1×1×96×96",
    "code is flat": r"embedded 4 images as 4×9216",
    "classify raises": "failed in classify: IndexError: cluster 9",
    "logits are no tensor": "classif",
    "logits have integers": r"classified a .* int64",
    "logits are NaN": "logits that are NaN or infinite",
    "logits have another size": r"classified a code of .*×96×96 float32 as \d×2×96×95",
    "K changes with the image": "[12] clusters",
}


@pytest.mark.parametrize("offer", [False, True], ids=["last", "candidate"])
@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=FAULTS)
def test_a_breach_of_the_contract_ends_the_run_and_names_the_method(run, fault, message, offer):
    with pytest.raises(ContractError, match=f"(?s)Method 'broken'.*{message}") as caught:
        run("broken", params={"fault": fault, "offer": offer})
    [left] = [path for path in run.results.glob("*/*") if path.is_file()]
    assert left.name.endswith(".failed.json")
    record = read_record(left)
    assert (record.status, record.reason) == ("failed", str(caught.value))
    assert record.last is None


def test_a_loss_that_is_not_finite_ends_the_run_with_its_name_and_step(run):
    with pytest.raises(Diverged, match="'loss' is nan at step 1"):
        run("broken", params={"fault": "loss is NaN"})
    [left] = run.results.rglob("*.json")
    assert "'loss' is nan" in read_record(left).reason


def test_a_success_removes_the_record_of_an_earlier_failure(run, monkeypatch):
    broken = run.setup("broken", params={"fault": "none"}).plugin.load()
    monkeypatch.setattr(broken, "embed", None)
    with pytest.raises(ContractError):
        run("broken", params={"fault": "none"})
    monkeypatch.undo()
    assert len(list(run.results.rglob("*.failed.json"))) == 1
    outcome = run("broken", params={"fault": "none"})
    assert list(run.results.rglob("*.json")) == [outcome.path]


def test_the_command_tells_a_broken_method_from_a_wrong_command(command, tmp_path):
    arguments = ("run", "--method", "broken", "--dataset", "tiny", "--plugin", PLUGINS, "--out", tmp_path)
    wrong = command(*arguments, "--set", "flaw=x")
    assert wrong.code == 2
    assert "no option 'flaw'" in wrong.err
    failed = command(*arguments, "--set", "fault=train raises", "--protocol", SMALL, "--workers", 1)
    assert failed.code == 1
    assert "the dog ate the gradients" in failed.err
    assert "Traceback" not in failed.err
