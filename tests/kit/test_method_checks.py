"""The checks of methods: they hold for all built-in methods, and each finds what it is about."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from plugin_faults import Fault, examine, subject_with
from running import PLUGINS

from uss_bench.kit import MethodReport, check_method
from uss_bench.kit.checks import Check, failed, note, ok, run_checks, skipped
from uss_bench.kit.method_checks import METHOD_CHECKS
from uss_bench.kit.scaffold import write_plugin
from uss_bench.plugins.registry import Registry

TRAIN = 'features = ctx.features(["tokens"])'
EMBED = "return code\n\n    def classify"
CLASSIFY = "return cosine_logits(code, self.net.prototypes)"
LOAD = "self.net.load_state_dict(dict(state))"
NET = "super().__init__()"
LOOP = "for step in ctx.steps(self.steps, net=net, optimizer=optimizer, batches=batches):"
STEP = "optimizer.step()\n"
END = "                ctx.checkpoint(step)\n"
LIMITS = "steps = 6, batch_size = 4, checkpoint_every = 3"

DRAWS_NOTHING = "torch.manual_seed(0); ctx.generator = lambda purpose: torch.Generator()"
NEEDS_TWO = "len(data) > 1 or exec('raise ValueError(\"two, please\")')"
IN_HALF = "cosine_logits(code.to(torch.bfloat16), self.net.prototypes.to(torch.bfloat16)).float()"
NORMALIZES = "return F.batch_norm(code, None, None, training=True)\n\n    def classify"
COUNTS_CALLS = "self.__class__.calls = getattr(self.__class__, 'calls', 0) + 1; torch.rand(self.calls)"

FAULTS = [
    Fault("inputs", '["tokens"]', '["token"]', "no facet 'token'", "spec.toml"),
    Fault("spec", '["tokens"]', "[]", "inputs = []", "spec.toml"),
    Fault("import", "def classify", "def classes", "has no classify"),
    Fault("import", "import torch\n", "import torch\nimport nowhere\n", "nowhere"),
    Fault("parameters", "tau: float", "tau: object", "'tau' takes a value of any type"),
    Fault("parameters", "steps: int = 400", "steps: int = None", "the default of 'steps'"),
    Fault("parameters", "steps = 400", "stops = 400", "no option 'stops'", "spec.toml"),
    Fault("parameters", LIMITS, "stops = 6", "[check] has no option 'stops'", "spec.toml"),
    Fault("training", TRAIN, "raise KeyError('tokens')", "failed in training"),
    Fault("loops", LOOP, LOOP.replace("self.steps,", "self.steps - 6,"), "'training' runs no step"),
    Fault(
        "loops", 'batches = "steps"', 'batches = "3 * steps"', "6 batches, and spec.toml states", "spec.toml"
    ),
    Fault("loops", "next(batches))", "next(batches) * 2)", "48 images, and spec.toml states"),
    Fault("loops", '= "steps"', '= "stops"', "'stops' is not a whole number", "spec.toml"),
    Fault("same seed", NET, f"{NET}; torch.seed()", "two runs with seed 0 differ"),
    Fault("same seed", TRAIN, f"{TRAIN}; {COUNTS_CALLS}", "imported again they do not"),
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
    Fault("repeatable", CLASSIFY, CLASSIFY.replace("code", "F.dropout(code)"), "random numbers are drawn"),
    Fault(
        "single images", EMBED, EMBED.replace("code", "code - code.mean(dim=0)", 1), "alone and in a batch"
    ),
    Fault("single images", EMBED, NORMALIZES, "a batch norm uses the statistics of its batch"),
    Fault("saved state", LOAD, "pass", "the loaded one get other logits"),
    Fault("saved state", LOAD, "state['lost']", "failed in loading its state"),
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
    Fault(
        "single images", CLASSIFY, f"code = code * (1 + len(code) / 1000); return {IN_HALF}", "in bfloat16"
    ),
    Fault("loops", 'images = "steps * batch_size"', "", "6 steps, 24 images, 6 optimizer steps", "spec.toml"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_broken_method_fails_the_check_that_is_about_it_and_is_told_what_to_do(tmp_path, fault):
    found = examine(subject_with(tmp_path, "method", fault), fault.check)[fault.check]
    assert (found.status, found.check) == ("failed", fault.check), found
    assert fault.text in found.text
    assert found.todo


@pytest.mark.parametrize("fault", NOTES, ids=str)
def test_what_is_allowed_and_worth_knowing_is_a_note(tmp_path, fault):
    found = examine(subject_with(tmp_path, "method", fault), fault.check)[fault.check]
    assert found.status == "note", found
    assert fault.text in found.text


def test_every_check_can_fail_or_note():
    elsewhere = {"resume", "no labels", "permuted labels", "label gradient"}  # files of their own
    assert {one.name for one in METHOD_CHECKS} == {fault.check for fault in FAULTS + NOTES} | elsewhere


def test_a_spec_that_cannot_be_read_is_a_failed_check_and_not_an_error(tmp_path):
    subject = subject_with(tmp_path, "method")
    (subject / "spec.toml").write_text('kind = "method"\nnames = "subject"\n')
    (found,) = check_method("subject", Registry([subject]))
    assert (found.check, found.status) == ("spec", "failed")
    assert "spec.toml" in found.text


def test_a_block_that_the_backbone_does_not_have_is_refused_by_name(tmp_path):
    subject = subject_with(tmp_path, "method", Fault("", '["tokens"]', '["keys@12"]', "", "spec.toml"))
    found = examine(subject, "inputs", backbone="tinyvit")["inputs"]
    assert found.status == "failed"
    assert "'tinyvit' has 4 blocks" in found.text


LATE = f"""{STEP}            if step > 20:
                net.prototypes.data.zero_()
                net.prototypes.data.log_()
"""


def test_a_phase_that_never_runs_is_named_by_its_lines_until_parameters_let_it_run(tmp_path):
    late, unstated = Fault("", STEP, LATE, ""), Fault("", f"params = {{ {LIMITS} }}", "", "", "spec.toml")
    subject = subject_with(tmp_path / "one", "method", late, unstated)
    found = examine(subject, "loops")["loops"]
    line = (
        (subject / "subject.py").read_text().splitlines().index("                net.prototypes.data.zero_()")
    )
    assert found.status == "note"
    assert f"passed over: subject.py:{line + 1}, subject.py:{line + 2}" in found.text
    assert "[check] params" in found.todo
    longer = Fault("", "steps = 6", "steps = 22", "", "spec.toml")
    found = examine(subject_with(tmp_path / "two", "method", late, longer), "finite")["finite"]
    assert found.status == "failed"


def test_epochs_are_few_unless_the_spec_says_otherwise(tmp_path):
    epochs = [
        Fault("", "steps: int = 400", "epochs: int = 400", ""),
        Fault("", "self.steps,", "self.epochs * len(data) // self.batch_size,", ""),
        Fault("", LIMITS, "checkpoint_every = 3", "", "spec.toml"),
        Fault("", "steps = 1, ", "", "", "spec.toml"),
        Fault("", "params = { steps = 400 }", "params = {}", "", "spec.toml"),
        Fault("", '"steps"', '"epochs * items // batch_size"', "", "spec.toml"),
        Fault("", '"steps *', '"epochs * items // batch_size *', "", "spec.toml"),
    ]
    found = examine(subject_with(tmp_path, "method", *epochs), "loops")["loops"]
    assert (found.status, found.text.split(",")[0]) == ("ok", "'training' 3 steps")


IN_BLOCKS = ("eagle", "hp", "ppap", "transfgu")
"""Methods that read blocks or attention of a network, which patchstats does not have."""


OWN_NETWORK = ("mdc", "picie", "picie_h")
"""Methods that train a network of their own."""


@pytest.mark.parametrize("method", sorted({*Registry().names("methods")} - {"depthg"}))
def test_all_checks_hold_for_the_built_in_methods(method):
    backbone = None if method in IN_BLOCKS else "none" if method in OWN_NETWORK else "patchstats"
    findings = check_method(method, Registry(), backbone=backbone)
    assert [one.check for one in findings] == [one.name for one in METHOD_CHECKS]
    assert not [one for one in findings if one.status == "failed"]
    skipped = {"GPU"} if method not in ("constant", "random") else {"GPU", "resume"}
    assert {one.check for one in findings if one.status == "skipped"} <= skipped
    audit = MethodReport.of(Registry().find("methods", method), findings).label_audit
    assert audit.label_free
    assert audit.permuted_labels_equal
    assert audit.no_label_gradient


@pytest.mark.parametrize("method", ["booster-like", "depthg", "depthg-like", "picie-like"])
def test_all_checks_hold_for_a_method_upon_another_one_with_depth_and_with_loops_in_loops(method):
    findings = check_method(method, Registry([PLUGINS]))
    assert not [one for one in findings if one.status == "failed"]
    assert {one.check for one in findings if one.status == "skipped"} <= {"GPU"}


def test_a_check_is_skipped_when_its_prerequisite_does_not_hold():
    checks = [
        Check("first", lambda _: failed("no", "mend it"), "", "", ""),
        Check("second", lambda _: ok("never examined"), "first", "", ""),
        Check("third", lambda _: ok("never examined"), "second", "", ""),
        Check("fourth", lambda _: note("by the way"), "", "", ""),
        Check("fifth", lambda _: 1 / 0, "fourth", "count again", ""),
        Check("sixth", lambda _: skipped("not here"), "fourth", "", ""),
    ]
    found = list(run_checks(None, checks))
    assert [one.status for one in found] == ["failed", "skipped", "skipped", "note", "failed", "skipped"]
    assert (found[4].text, found[4].todo) == ("ZeroDivisionError: division by zero", "count again")


def test_the_command_prints_each_check_and_exits_by_whether_one_failed(command, tmp_path):
    subject = write_plugin("method", "subject", tmp_path, Registry())[0]
    arguments = ("check", "method", "subject", "--plugin", subject, "--backbone", "patchstats")
    printed = command(*arguments)
    assert printed.code == 0, printed.err
    assert printed.out.count("\nok ") + 1 == len(METHOD_CHECKS) - printed.out.count("skipped  GPU")
    # Elsewhere, or Python would not read it again.
    broken = Path(shutil.copytree(subject, tmp_path / "broken"))
    (broken / "subject.py").write_text(
        (subject / "subject.py").read_text().replace(CLASSIFY, f"{CLASSIFY}.log()")
    )
    arguments = tuple(broken if one is subject else one for one in arguments)
    printed = command(*arguments)
    assert printed.code == 1
    assert "failed   finite" in printed.out
    assert "→ Look for logarithms" in printed.out
    assert "finite" in printed.err
    report = msgspec.json.decode(command(*arguments, "--json").out, type=MethodReport)
    assert (report.method, report.label_audit.label_free) == ("subject", True)
    assert [one.check for one in report.findings if one.status == "failed"] == ["finite"]
    assert command("check", "method", "subjekt", "--plugin", subject).code == 2
    assert command(*arguments, "--set", "stepps=3").code == 2
