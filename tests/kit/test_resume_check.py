"""The check 'resume': whatever a loop of training forgets shows when it is killed and resumed."""

from __future__ import annotations

import pytest
from plugin_faults import Fault, examine, subject_with

KEPT = "net=net, optimizer=optimizer, batches=batches):"
LOOP = f"        for step in ctx.steps(self.steps, {KEPT}\n"
STEP = "            optimizer.step()\n"
END = "                ctx.checkpoint(step)\n"
LOSS = "(contrast + distance).backward()"


def forgetting(what: str) -> Fault:
    return Fault("", KEPT, KEPT.replace(f"{what}={what}, ", "").replace(f", {what}={what}", ""), what)


def with_state(before: str, within: str, kept: str = "", *, text: str) -> list[Fault]:
    """Return a method with more state: made before the loop, changed in it, and kept by it or not."""
    loop = LOOP.replace("batches=batches", f"batches=batches{kept}")
    return [
        Fault("", LOOP, f"        {before}\n{loop}", text),
        Fault("", STEP, f"            {within}\n{STEP}", ""),
    ]


AVERAGE = "average = torch.zeros(self.dim)"
MOVES = "average.mul_(0.9).add_(code.detach().mean((0, 2, 3))); net.prototypes.data.sub_(0.1 * average)"
REBINDS = "average = 0.9 * average + code.detach().mean((0, 2, 3)); net.prototypes.data.sub_(0.1 * average)"
BANK = "bank.append(contrast.item()); net.prototypes.data.mul_(1 + sum(bank) / 1000)"
ATTRIBUTE = "self.seen += 1; net.prototypes.data.mul_(1 + self.seen / 1000)"
FILE = (
    "count = int(path.read_text()) + 1; path.write_text(str(count)); "
    "net.prototypes.data.mul_(1 + count / 1000)"
)
SECOND = """
        teacher = torch.zeros(self.dim)
        for step in ctx.steps(self.steps, label="second", net=net, optimizer=optimizer, batches=batches):
            teacher += 1
            net.prototypes.data.add_(teacher)
"""
FAULTS = {
    "the network": [forgetting("net")],
    "the optimizer": [forgetting("optimizer")],
    "the sampler": [forgetting("batches")],
    "a generator": with_state(
        "draws = ctx.generator('draws')",
        "net.prototypes.data.mul_(torch.rand(1, generator=draws))",
        text="draws",
    ),
    "a tensor that is forgotten": with_state(AVERAGE, MOVES, text="average"),
    "a tensor that is rebound": with_state(AVERAGE, REBINDS, ", mean=average", text="average"),
    "a list": with_state("bank = []", BANK, text="bank"),
    "an attribute": with_state("self.seen = 0", ATTRIBUTE, text="self.seen"),
    "a file that a step rewrites": with_state(
        "path = ctx.scratch / 'count'; path.exists() or path.write_text('0')",
        FILE,
        text="ends differently",
    ),
    "what only the loop makes": [
        Fault("", END, f"{END}        ctx.log(str(contrast.item()))\n", "UnboundLocalError")
    ],
    "a second loop": [Fault("", END, END + SECOND, "teacher in 'second'")],
}


def found_in(folder):
    findings = examine(folder, "same seed", "resume")
    assert findings["same seed"].status == "ok"
    return findings["resume"]


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_what_a_loop_forgets_is_found_and_named(tmp_path, faults):
    found = found_in(subject_with(tmp_path, "method", *faults))
    assert found.status == "failed"
    assert faults[0].text in found.text
    assert "keep" in found.todo or "loops that are shorter" in found.todo


def test_what_is_rebound_under_the_name_that_keeps_it_fails_at_once(tmp_path):
    faults = with_state(AVERAGE, REBINDS, ", average=average", text="")
    found = examine(subject_with(tmp_path, "method", *faults), "training")["training"]
    assert found.status == "failed"
    assert "'average' was bound to another object in step 1" in found.text


@pytest.mark.parametrize(
    "faults",
    [
        with_state(AVERAGE, MOVES, ", average=average", text=""),
        [Fault("", END, END + SECOND.replace("batches=batches", "batches=batches, teacher=teacher"), "")],
        [Fault("", "steps = 6", "steps = 21", "", "spec.toml")],
    ],
    ids=["a tensor", "a second loop", "more steps than are interrupted"],
)
def test_what_is_kept_ends_with_the_same_bytes(tmp_path, faults):
    found = found_in(subject_with(tmp_path, "method", *faults))
    assert found.status == "ok", found
