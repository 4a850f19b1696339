"""The checks of backbones: they hold for those that need no download, and each finds what it is about."""

from __future__ import annotations

import pytest
from plugin_faults import Fault, subject_with

from uss_bench.kit import check_backbone
from uss_bench.kit.backbone_checks import BACKBONE_CHECKS
from uss_bench.kit.backbone_trial import BackboneTrial
from uss_bench.kit.checks import run_checks
from uss_bench.plugins.registry import Registry

FROZEN = "requires_grad_(False).eval()"
DIGEST = "digest_with(digest_state(self._net.state_dict()), **own)"
CALL = "self._net((images - self._mean) / self._std)"
GRID = "        patch_grid(images, PATCH, self.name)\n"
ENTRY = 'entry = "subject:Subject"'
COPY = "return WholeNetwork(self._net, self._mean, self._std, lambda net, images: net(images))"
NO_COPY = "part.network = self._net.requires_grad_()"
GRAD = "torch.set_grad_enabled(grad)"
LEARNS = "self._std.requires_grad_()"
ROLLED = f"{CALL}.flatten(2).roll(4, 2).unflatten(2, (images.shape[2] // 8, -1))"

FAULTS = [
    Fault("spec", ENTRY, 'adapter = "nowhere"', "no backbone with an entry", "spec.toml"),
    Fault("import", "name: str | None", "name: object", "'name' takes a value of any type"),
    Fault("loads", "patch = 8 ", "patch = 16 ", "patch = 16; the network has 8", "spec.toml"),
    Fault("loads", "checked_name(name or spec.name)", "'My Backbone'", "its name is 'My Backbone'"),
    Fault("loads", "    patch = PATCH\n", "    patch = 8.0\n", "its patch is 8.0"),
    Fault("digest", DIGEST, "'none'", "sha256 is 'none', not 64 hex digits"),
    Fault("digest", DIGEST, f"{DIGEST}.upper()", "not 64 hex digits"),
    Fault("digest", DIGEST, "__import__('secrets').token_hex(32)", "loaded again it has another"),
    Fault("digest", DIGEST, "64 * 'a'", "with other weights it gives other features under the same"),
    Fault("digest", DIGEST, DIGEST.replace("**own", ""), "with another mean and std it gives other features"),
    Fault("shapes", CALL, f"{CALL}[..., ::2, ::2]", "for 6×6 patches of 8 pixels 'tokens' is"),
    Fault("shapes", CALL, f"{CALL}.transpose(2, 3)", "for 4×7 patches of 8 pixels 'tokens' is"),
    Fault("shapes", CALL, f"{CALL}.double()", "float64"),
    Fault("shapes", CALL, f"{CALL}.log()", "NaN or infinity"),
    Fault("shapes", CALL, f"{CALL}[:, 1:]", "spec.toml state {64}"),
    Fault("shapes", GRID, "", "accepts a side that is no multiple"),
    Fault("frozen", FROZEN, "requires_grad_(False)", "in train mode: BatchNorm2d, Conv2d, Net"),
    Fault("frozen", FROZEN, "eval()", "parameters require gradients"),
    Fault("frozen", f"{GRAD}:", f"torch.enable_grad():\n            {LEARNS}", "carry a graph"),
    Fault("repeatable", CALL, f"nn.functional.dropout({CALL})", "random numbers are drawn"),
    Fault(
        "repeatable", CALL, CALL.replace("images -", "images.sub_(0.5) -"), "changes the images that it gets"
    ),
    Fault("single images", CALL, CALL.replace("_net", "_net.train()"), "a batch norm uses the statistics"),
    Fault("single images", CALL, f"{CALL} - {CALL}.mean(dim=0)", "alone gets other features"),
    Fault("places", CALL, f"{CALL}.flip(3)", "changes at ((0, 0), (1, 5)"),
    Fault("places", CALL, ROLLED, "changes at ((0, 0), (1, 5)"),
    Fault("trainable", COPY, f"{COPY}.requires_grad_(False)", "has no parameter with a gradient"),
    Fault(
        "trainable", COPY, COPY.replace("net(images)", "net(images) + 1"), "does not begin with the frozen"
    ),
    Fault("trainable", COPY, f"part = {COPY[7:]}; {NO_COPY}; return part", "changes the frozen backbone"),
    Fault("gradient", GRAD, "torch.no_grad()", "carry no graph"),
    Fault("gradient", CALL, CALL.replace("images -", "images.round(decimals=2) -"), "zero or not finite"),
]

VIT = """
from uss_bench.backbones.tinyvit.tinyvit import tinyvit


class Subject:
    def __init__(self, spec, *, positions: str = "dino", weights: str | None = None):
        self._inner = tinyvit(spec, positions=positions)
        self.name, self.patch, self.sha256 = spec.name, 8, self._inner.sha256
        self.info = self._inner.info

    def to(self, device):
        self._inner.to(device)
        return self

    def __call__(self, images, facets, *, grad=False):
        def ask(kind, block=""):
            name = f"{kind}@{block}" if block else kind
            return self._inner(images, [name], grad=grad)[name]

        return {name: lie(ask, len(facets), *name.split("@")) for name in facets}

    def trainable(self, last_blocks=1):
        return self._inner.trainable(last_blocks)


def lie(ask, count, kind, block=""):
    return LIE
"""
HONEST = "ask(kind, block)"
LIES = [
    (HONEST, ""),
    ("ask(kind, block) if block else ask('tokens')", "accepts 'token'"),
    ("ask(kind, str(int(float(block)) % 4 + 1) if block else '')", "accepts 'keys@0'"),
    ("ask(kind, block.replace('-5', '-1'))", "accepts 'keys@-5'"),
    ("ask({'keys': 'queries'}.get(kind, kind), block)", "'queries@1' and 'keys@1' are the same"),
    ("(ask(kind, block), ask(kind, '4' if block else ''))[1]", "'tokens@1' and 'tokens@2' are the same"),
    (
        "ask({'keys': 'queries', 'queries': 'keys'}.get(kind, kind), block)",
        "keys, and keys queries",
    ),
    (f"{HONEST}.log() if kind == 'attention' else {HONEST}", "rows of attention do not sum to 1"),
    (f"{HONEST} * 2 if kind == 'attention_logits' else {HONEST}", "attention is not what follows"),
    (
        f"ask('attention', block)[:, 0] if kind == 'attention_mean' else {HONEST}",
        "attention_mean is not what follows",
    ),
    (f"{HONEST}.roll(1, 3) if kind == 'cls_attention' else {HONEST}", "cls_attention is not what follows"),
    (f"{HONEST} * count if kind == 'keys' else {HONEST}", "'keys@1' alone is not 'keys@1' among all"),
    (f"{HONEST} * 2 if '-' in block else {HONEST}", "'tokens@-4' alone is not 'tokens@1' among all"),
    (f"{HONEST}.mean(1) if kind == 'attention' else {HONEST}", "'attention@1' is 2×29×29"),
    (f"{HONEST} / 0 if kind == 'values' else {HONEST}", "holds NaN or infinity"),
]


def look(folder, name):
    registry = Registry([folder])
    with BackboneTrial(registry.find("backbones", "subject"), registry, None) as trial:
        (found,) = run_checks(trial, [one for one in BACKBONE_CHECKS if one.name == name])
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_broken_backbone_fails_the_check_that_is_about_it_and_is_told_what_to_do(tmp_path, fault):
    found = look(subject_with(tmp_path, "backbone", fault), fault.check)
    assert found.status == "failed", found
    assert fault.text in found.text
    assert found.todo


@pytest.mark.parametrize(("lie", "text"), LIES, ids=lambda one: one)
def test_a_facet_that_lies_is_found(tmp_path, lie, text):
    folder = subject_with(tmp_path, "backbone", Fault("", "dim = 64 ", "dim = 128 ", "", "spec.toml"))
    (folder / "subject.py").write_text(VIT.replace("LIE", lie))
    found = look(folder, "facets")
    assert found.status == ("failed" if text else "ok"), found
    assert text in found.text


def test_every_check_but_that_of_the_gpu_can_fail():
    assert {one.name for one in BACKBONE_CHECKS} - {"GPU"} == {fault.check for fault in FAULTS} | {"facets"}


@pytest.mark.parametrize("name", ["tinyvit", "patchstats", "random_cnn", "dense_sift"])
def test_built_in_backbones_pass_every_check(name):
    findings = check_backbone(name, Registry())
    assert [one.check for one in findings] == [one.name for one in BACKBONE_CHECKS]
    assert not [one for one in findings if one.status == "failed"]


def test_a_vision_transformer_of_timm_passes_with_weights_from_a_file(random_vit, tmp_path):
    card = Fault(
        "",
        'entry = "subject:Subject"',
        f'adapter = "timm"\nparams = {{ model = "{random_vit["backbone"]}" }}',
        "",
        "spec.toml",
    )
    sizes = [
        Fault("", "patch = 8 ", "patch = 16 ", "", "spec.toml"),
        Fault("", "dim = 64 ", "dim = 192 ", "", "spec.toml"),
    ]
    folder = subject_with(tmp_path, "backbone", card, *sizes)
    findings = {
        one.check: one for one in check_backbone("subject", Registry([folder]), random_vit["weights"])
    }
    assert {one.status for name, one in findings.items() if name != "GPU"} == {"ok"}, findings
    assert "12 blocks" in findings["facets"].text


def test_the_command_exits_by_whether_a_check_failed(command, tmp_path):
    printed = command("check", "backbone", "tinyvit")
    assert printed.code == 0, printed.err
    assert printed.out.count("ok  ") == len(BACKBONE_CHECKS) - printed.out.count("skipped  GPU")
    subject = subject_with(tmp_path, "backbone", Fault("", DIGEST, "'none'", ""))
    printed = command("check", "backbone", "subject", "--plugin", subject)
    assert printed.code == 1
    assert "failed   digest" in printed.out
    assert command("check", "backbone", "subjekt", "--plugin", subject).code == 2
