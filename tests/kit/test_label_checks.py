"""The checks that no label reaches what is learned find planted cheaters, and blame nobody else."""

from __future__ import annotations

import pytest
from plugin_faults import Fault, examine, subject_with

from uss_bench.kit import LabelAudit, MethodReport
from uss_bench.plugins.registry import Registry

LOSS = "(contrast + distance).backward()"
STEP = "for step in ctx.steps("
CLASSIFY = "    def classify"

FILES = """
def read_labels(data):
    from pathlib import Path
    from PIL import Image
    inner = data
    while not hasattr(inner, "_paths"):
        inner = inner._images
    files = [Path(str(path).replace("/images/", "/labels/")) for path in inner._paths]
    return [np.asarray(Image.open(path)).astype(int) % 255 for path in files]
"""
COLLECTED = """
def read_labels(data):
    import gc
    found = [one for one in gc.get_objects() if type(one).__name__ == "Folder"]
    labels = [one.labels("train") for one in found]
    return [labels[0].label(index).clip(0) for index in range(len(data))]
"""
DRAWN = """
def read_labels(data):
    from uss_bench.kit.scenes import scene
    sizes = [data.image(index).shape[:2] for index in range(len(data))]
    return [scene(int(name[-3:]), *size)[1].clip(0) for name, size in zip(data.ids, sizes)]
"""
DERIVED = """
def draw(features):
    from uss_bench.kit.scenes import scene
    return {"labels": np.stack([scene(number, 70, 101)[1].clip(0) for number in range(len(features))])}

def read_labels(data):
    return CONTEXT.derived("labels", draw)["labels"]
"""
ABSENT = """
def read_labels(data):
    inner = data
    while not hasattr(inner, "_paths"):
        inner = inner._images
    return [np.full((1, 1), (inner._paths[0].parents[2] / "labels").exists(), int)] * len(data)
"""

# What a cheater does with labels.
PARTITION = "net.prototypes.data.add_(sum((one[:, 1:] == one[:, :-1]).mean() for one in labels))"
FREQUENCY = "net.prototypes.data.add_(sum(np.bincount(one.ravel(), minlength=3)[0] for one in labels) / 1e4)"
ONE_VALUE = "net.prototypes.data.add_(sum(int(one.sum()) for one in labels) / 1e6)"
HEAD_LOSS = f"""probe = torch.randn(3, self.dim, generator=ctx.generator("probe"))
            found = torch.einsum("bdhw,kd->bkhw", code, probe)
            cut = [torch.as_tensor(labels[int(i)][::12, ::17][:4, :4].copy()) for i in items]
            target = torch.stack(cut).long().clamp(0, 2)
            {LOSS.replace("distance", "distance + F.cross_entropy(found[:, :, :4, :4], target)")}"""
READS = Fault("", STEP, f"global CONTEXT; CONTEXT = ctx; labels = read_labels(data)\n        {STEP}", "")


def cheater(reads: str, uses: str) -> list[Fault]:
    changed = [READS, Fault("", "\ndef neighbor_contrast", f"{reads}\n\ndef neighbor_contrast", "")]
    changed += [Fault("", "import torch\n", "import numpy as np\nimport torch\n", "")]
    if uses is HEAD_LOSS:
        batch = Fault(
            "",
            "code = self.embed(features.batch(next(batches)))",
            "items = next(batches); code = self.embed(features.batch(items))",
            "",
        )
        return [*changed, batch, Fault("", LOSS, uses, "")]
    return [*changed, Fault("", LOSS, f"{LOSS}; {uses}", "")]


CHEATERS = {
    "sibling files, as a partition": (cheater(FILES, PARTITION), LabelAudit(False, False, False)),
    "sibling files, as frequencies": (cheater(FILES, FREQUENCY), LabelAudit(False, False, False)),
    "sibling files, unused": (cheater(FILES, "None"), LabelAudit(False, True, True)),
    "gc": (cheater(COLLECTED, PARTITION), LabelAudit(False, False, False)),
    "the generator": (cheater(DRAWN, ONE_VALUE), LabelAudit(True, False, False)),
    "the generator, in a derived array": (cheater(DERIVED, ONE_VALUE), LabelAudit(True, False, False)),
    "whether there are labels": (cheater(ABSENT, ONE_VALUE), LabelAudit(False, True, True)),
    "a label loss on the head": (cheater(FILES, HEAD_LOSS), LabelAudit(False, False, False)),
    "the generator, for a label loss on the head": (
        cheater(DRAWN, HEAD_LOSS),
        LabelAudit(True, False, False),
    ),
}


def checked(folder):
    findings = examine(folder, "same seed", "no labels", "permuted labels", "label gradient")
    plugin = Registry([folder]).find("methods", "subject")
    return findings, MethodReport.of(plugin, list(findings.values())).label_audit


@pytest.mark.parametrize(("faults", "expected"), CHEATERS.values(), ids=CHEATERS)
def test_a_cheater_is_found(tmp_path, faults, expected):
    findings, audit = checked(subject_with(tmp_path, "method", *faults))
    assert findings["same seed"].status == "ok", findings["same seed"]
    assert audit == expected, findings


def test_the_file_is_named_and_so_is_the_parameter(tmp_path):
    findings, _ = checked(subject_with(tmp_path, "method", *CHEATERS["a label loss on the head"][0]))
    assert "labels/train/scene-000.png" in findings["no labels"].text
    assert "projection.weight" in findings["permuted labels"].text
    assert (
        "the gradient of projection.weight differs from batch 1 of 'training'"
        in findings["label gradient"].text
    )


COPIED = "return {name: value.clone() for name, value in self.net.state_dict().items()}"
PROBE = """    def label_loss(self, batch, labels):
        probe = torch.randn(3, self.dim, generator=torch.Generator().manual_seed(0))
        logits = torch.einsum("bdhw,kd->bkhw", self.embed(batch)DETACHED, probe)
        target = F.interpolate(labels[:, None].float(), logits.shape[2:]).long()[:, 0]
        return F.cross_entropy(logits, target)

    def classify"""


@pytest.mark.parametrize("detached", [True, False])
def test_a_supervised_probe_must_not_move_what_is_evaluated(tmp_path, detached):
    """The third phase of CAUSE's released code: its probe's loss reaches the head that is evaluated."""
    probe = PROBE.replace("DETACHED", ".detach().requires_grad_()" if detached else "")
    findings, audit = checked(subject_with(tmp_path, "method", Fault("", CLASSIFY, probe, "")))
    assert audit == LabelAudit(True, True, detached)
    assert findings["label gradient"].status == ("ok" if detached else "failed")
    assert detached or "gradient of projection.weight" in findings["label gradient"].text


@pytest.mark.parametrize(
    "fault",
    [
        Fault("", "super().__init__()", "super().__init__(); torch.seed()", ""),
        Fault("", "features = ctx", "torch.manual_seed(time.time_ns() % 2**31)\n        features = ctx", ""),
        Fault("", STEP, f"net.prototypes.data.mul_(np.random.default_rng().random())\n        {STEP}", ""),
    ],
    ids=["torch.seed", "the clock", "NumPy"],
)
def test_a_mistake_with_random_numbers_is_not_called_a_leak(tmp_path, fault):
    imports = Fault("", "import torch\n", "import time\n\nimport numpy as np\nimport torch\n", "")
    findings, audit = checked(subject_with(tmp_path, "method", imports, fault))
    assert findings["same seed"].status == "failed"
    assert audit == LabelAudit()


def test_all_gradients_count_where_the_state_is_a_copy_of_what_is_trained(tmp_path):
    copied = Fault("", "return dict(self.net.state_dict())", COPIED, "")
    faults = [*CHEATERS["the generator, for a label loss on the head"][0], copied]
    findings, audit = checked(subject_with(tmp_path, "method", *faults))
    assert audit == LabelAudit(True, False, False)
    assert "the gradient of a parameter differs" in findings["label gradient"].text
