"""The ladder of methods: all built-in methods climb it, and every rung can fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from uss_bench.kit import check_method
from uss_bench.kit.ladder import Finding, Rung, climb, failed, note, ok, skipped
from uss_bench.kit.method_rungs import METHOD_RUNGS
from uss_bench.kit.scaffold import write_plugin
from uss_bench.kit.trial import Trial
from uss_bench.registry import Registry

CPU = torch.device("cpu")


class Fault(NamedTuple):
    """A change of the method's code that breaks it, and what the ladder should say."""

    rung: str
    old: str
    new: str
    text: str
    file: str = "subject.py"


TRAIN = 'features = ctx.features(["tokens"])'
EMBED = "return code\n\n    def classify"
CLASSIFY = "return cosine_logits(code, self.net.prototypes)"
LOAD = "self.net.load_state_dict(dict(state))"
NET = "super().__init__()"

READS_LABELS = f"""{TRAIN}
        import gc
        for thing in gc.get_objects():
            if type(thing).__name__ == "SceneLabels":
                thing.label(0)
"""
DEPENDS_ON_LABELS = f"""{TRAIN}
        import sys
        frame = sys._getframe()
        while "setup" not in frame.f_locals:
            frame = frame.f_back
        torch.rand(1 if frame.f_locals["setup"].test_labels is None else 2)
"""
DRAWS_NOTHING = "torch.manual_seed(0); ctx.generator = lambda purpose: torch.Generator()"
NEEDS_TWO = "len(data) > 1 or exec('raise ValueError(\"two, please\")')"

FAULTS = [
    Fault("spec", '["tokens"]', '["token"]', "'token' is no input", "spec.toml"),
    Fault("import", "def classify", "def classes", "has no classify"),
    Fault("import", "import torch\n", "import torch\nimport nowhere\n", "nowhere"),
    Fault("parameters", "tau: float", "tau: object", "'tau' takes a value of any type"),
    Fault("parameters", "steps: int = 400", "steps: int = None", "the default of 'steps'"),
    Fault("parameters", "steps = 400", "stops = 400", "no option 'stops'", "spec.toml"),
    Fault("training", TRAIN, "raise KeyError('tokens')", "failed in training"),
    Fault("no labels", TRAIN, READS_LABELS, "labels were read"),
    Fault("no labels", TRAIN, DEPENDS_ON_LABELS, "learns something else"),
    Fault(
        "shapes",
        EMBED,
        EMBED.replace("code", "code if torch.is_grad_enabled() else code[0]", 1),
        "embed gave",
    ),
    Fault("shapes", CLASSIFY, f"{CLASSIFY}[..., 1:]", "classify gave"),
    Fault("finite", CLASSIFY, f"{CLASSIFY}.log()", "NaN or infinite"),
    Fault("clusters", '["tokens"]), self.dim, self.clusters', '["tokens"]), self.dim, 3', "of 3 clusters"),
    Fault("pointwise", CLASSIFY, CLASSIFY.replace("code", "code - code.mean((2, 3), True)"), "a tile"),
    Fault("repeatable", CLASSIFY, CLASSIFY.replace("code", "F.dropout(code)"), "the same batch twice"),
    Fault("single images", EMBED, EMBED.replace("code", "code - code.mean(dim=0)", 1), "alone"),
    Fault("saved state", LOAD, "pass", "predicts something else"),
    Fault("saved state", LOAD, "state['lost']", "failed in loading its state"),
    Fault("same seed", NET, f"{NET}; torch.seed()", "learns two things"),
    Fault("K = 1", CLASSIFY, f"assert self.clusters > 1; {CLASSIFY}", "AssertionError"),
    Fault("one image", TRAIN, f"{TRAIN}; data.ids[1]", "IndexError"),
    Fault("odd sizes", CLASSIFY, f"assert code.shape[2] == code.shape[3]; {CLASSIFY}", "AssertionError"),
    Fault("GPU", LOAD, "pass", "the same cluster for only"),
    Fault("whole run", CLASSIFY, f"assert code.shape[2] < 50; {CLASSIFY}", "failed in classify"),
]
NOTES = [
    Fault("curves", "if step == 1 or step % 50 == 0", "if False", "reports no curve"),
    Fault("checkpoints", "if step % self.checkpoint_every == 0", "if False", "offers no checkpoint"),
    Fault("other seed", TRAIN, f"{TRAIN}; {DRAWS_NOTHING}", "the same as seed 0"),
    Fault("one image", TRAIN, f"{TRAIN}; {NEEDS_TWO}", "two, please"),
]


@pytest.fixture
def subject(tmp_path) -> Path:
    """A method as ``uss-bench new`` writes it, to be broken."""
    return write_plugin("method", "subject", tmp_path, Registry())[0]


def look(folder: Path, rung: str, fault: Fault | None = None) -> Finding:
    """Return what one rung says of a method after a fault was put in; the CPU stands in for a GPU."""
    if fault is not None:
        path = folder / fault.file
        text = path.read_text()
        assert fault.old in text
        path.write_text(text.replace(fault.old, fault.new, 1))
    registry = Registry([folder])
    plugin = registry.find("methods", "subject")
    with Trial(plugin, registry, backbone="patchstats", accelerator=CPU) as trial:
        (found,) = climb(trial, [one for one in METHOD_RUNGS if one.name == rung])
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rung}: {fault.text}")
def test_a_broken_method_fails_the_rung_that_is_about_it_and_is_told_what_to_do(subject, fault):
    found = look(subject, fault.rung, fault)
    assert (found.status, found.rung) == ("failed", fault.rung)
    assert fault.text in found.text
    assert found.todo


@pytest.mark.parametrize("fault", NOTES, ids=lambda fault: f"{fault.rung}: {fault.text}")
def test_what_is_allowed_and_worth_knowing_is_a_note(subject, fault):
    found = look(subject, fault.rung, fault)
    assert found.status == "note", found
    assert fault.text in found.text


def test_every_rung_holds_for_the_method_that_was_not_broken_and_can_fail_or_note():
    assert {rung.name for rung in METHOD_RUNGS} == {fault.rung for fault in FAULTS + NOTES}


def test_a_spec_that_cannot_be_read_is_a_failed_rung_and_not_an_error(subject):
    (subject / "spec.toml").write_text('kind = "method"\nnames = "subject"\n')
    (found,) = check_method("subject", Registry([subject]))
    assert (found.rung, found.status) == ("spec", "failed")
    assert "spec.toml" in found.text


@pytest.mark.parametrize("method", ["constant", "random", "dino", "smooseg", "ds2dl", "stego"])
def test_the_built_in_methods_climb_the_whole_ladder(method):
    findings = check_method(method, Registry(), backbone="patchstats")
    assert [one.rung for one in findings] == [rung.name for rung in METHOD_RUNGS]
    assert not [one for one in findings if one.status == "failed"]
    assert [one.rung for one in findings if one.status == "skipped"] in ([], ["GPU"])


def test_a_rung_is_skipped_when_what_it_stands_on_does_not_hold():
    rungs = [
        Rung("first", lambda _: failed("no", "mend it")),
        Rung("second", lambda _: ok("never looked at"), needs="first"),
        Rung("third", lambda _: ok("never looked at"), needs="second"),
        Rung("fourth", lambda _: note("by the way")),
        Rung("fifth", lambda _: 1 / 0, needs="fourth", todo="count again"),
        Rung("sixth", lambda _: skipped("not here"), needs="fourth"),
    ]
    found = list(climb(None, rungs))
    assert [one.status for one in found] == ["failed", "skipped", "skipped", "note", "failed", "skipped"]
    assert (found[4].text, found[4].todo) == ("ZeroDivisionError: division by zero", "count again")


def test_the_command_says_each_rung_and_exits_by_whether_one_failed(subject, command, tmp_path):
    arguments = ("check", "method", "subject", "--plugin", subject, "--backbone", "patchstats")
    said = command(*arguments)
    assert said.code == 0, said.err
    assert said.out.count("\nok ") + 1 == len(METHOD_RUNGS) - said.out.count("skipped  GPU")
    broken = Path(
        shutil.copytree(subject, tmp_path / "broken")
    )  # elsewhere, or Python would not read it again
    (broken / "subject.py").write_text(
        (subject / "subject.py").read_text().replace(CLASSIFY, f"{CLASSIFY}.log()")
    )
    said = command(*[broken if one is subject else one for one in arguments])
    assert said.code == 1
    assert "failed   finite" in said.out
    assert "→ Look for logarithms" in said.out
    assert "finite" in said.err
    assert command("check", "method", "subjekt", "--plugin", subject).code == 2
    assert command(*arguments, "--set", "stepps=3").code == 2
