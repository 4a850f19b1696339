"""Defaults that depend on the run: from the spec, above the signature's, below presets and --set."""

from __future__ import annotations

import msgspec
import pytest
from plugin_folders import SPEC, write_plugin

from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.params import choose_preset, method_params, spec_defaults
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import MethodSpec, read_spec

BODY = """
[[defaults]]
params = { width = 2, depth = 2 }
unless = { backbone = ["thin"], dataset = ["small"] }

[[defaults]]
params = { width = 3 }
unless = { backbone = ["thin", "narrow"] }

[[presets]]
name = "deep"
params = { depth = 9 }
"""
CODE = """
class New:
    def __init__(self, *, width: int = 1, depth: int = 1) -> None: ...
"""
TRAINED = ("smooseg", "ds2dl", "stego", "eagle", "depthg", "equss", "reib")


@pytest.mark.parametrize(
    ("backbone", "dataset", "expected"),
    [
        ("wide", "large", {"width": 3, "depth": 2}),
        ("narrow", "large", {"width": 2, "depth": 2}),
        ("thin", "large", {}),
        ("wide", "small", {"width": 3}),
        ("none", "large", {"width": 3, "depth": 2}),
    ],
)
def test_a_default_holds_unless_the_run_is_on_one_of_the_names(tmp_path, backbone, dataset, expected):
    spec, _ = Registry([write_plugin(tmp_path / "mine", more=BODY, code=CODE)]).method("new")
    assert spec_defaults(spec, dataset=dataset, backbone=backbone) == expected


def test_presets_and_the_users_choice_go_above_it(tmp_path):
    spec, plugin = Registry([write_plugin(tmp_path / "mine", more=BODY, code=CODE)]).method("new")
    where = {"dataset": "large", "backbone": "wide"}
    defaults = spec_defaults(spec, **where)

    def params(preset: str | None = None, **chosen: int) -> dict[str, int]:
        found = choose_preset(spec, preset, **where)
        return method_params(plugin, found, chosen, n_classes=0, defaults=defaults)

    assert params() == {"width": 3, "depth": 2}
    assert params("deep") == {"width": 3, "depth": 9}
    assert params("deep", depth=7, width=1) == {"width": 1, "depth": 7}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"widht": 1}, "spec.toml of method 'new' has no option 'widht'"),
        ({"width": "2"}, "width='2' is not valid"),
    ],
)
def test_what_the_signature_does_not_know_is_the_specs_fault(tmp_path, wrong, complaint):
    _, plugin = Registry([write_plugin(tmp_path / "mine", code=CODE)]).method("new")
    with pytest.raises(UsageError, match=complaint):
        method_params(plugin, None, {}, n_classes=0, defaults=wrong)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("params = { width = 2 }", r"missing required field `unless` - at `\$\.defaults\[0\]`"),
        ("params = { width = 2 }\nunless = {}", r"length >= 1 - at `\$\.defaults\[0\]\.unless`"),
        ("params = { width = 2 }\nunless = { seed = [] }", r"at `.*\$\.defaults\[0\]\.unless`"),
        ("params = { width = 2 }\nunless = { backbone = 'thin' }", r"Expected `array`, got `str`"),
        ("params = { width = 2 }\nwhen = { backbone = 'thin' }", r"unknown field `when`"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_key(tmp_path, text, complaint):
    path = tmp_path / "spec.toml"
    path.write_text(f"{SPEC}\n[[defaults]]\n{text}\n")
    with pytest.raises(DataError, match=complaint):
        read_spec(path)


# --- The built-in methods ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("backbone", Registry().names("backbones"))
def test_trained_methods_standardize_except_on_the_weights_they_were_tuned_on(name, backbone):
    spec, plugin = Registry().method(name)
    defaults = spec_defaults(spec, dataset="camvid", backbone=backbone)
    params = method_params(plugin, None, {}, n_classes=11, defaults=defaults)
    assert params["standardize"] is (backbone not in ("dino_vits8", "dino_vitb8"))


@pytest.mark.parametrize("plugin", Registry().all("methods"), ids=lambda plugin: plugin.name)
def test_every_name_in_a_default_is_one_of_a_plugin(plugin):
    assert isinstance(plugin.spec, MethodSpec)
    for defaults in plugin.spec.defaults:
        for kind, names in defaults.unless.items():
            assert set(names) <= set(Registry().names(f"{kind}s"))


@pytest.mark.parametrize("name", TRAINED)
def test_published_settings_take_features_as_they_were_published(name):
    spec, plugin = Registry().method(name)
    for preset in spec.presets:
        if {"dataset", "backbone"} <= preset.when.keys():
            defaults = spec_defaults(spec, **preset.when)
            params = method_params(plugin, preset, {}, n_classes=3, defaults=defaults)
            assert params["standardize"] is False, preset.name


def test_a_run_writes_the_default_that_it_took_into_its_record(run):
    small = {"steps": 2, "batch_size": 2, "dim": 4}
    assert run.setup("smooseg", params=small).cell(0).method.params["standardize"] is True
    chosen = run.setup("smooseg", params={**small, "standardize": False})
    assert chosen.cell(0).method.params["standardize"] is False
    record = run("smooseg", params=small).record
    assert record.cell.method.params["standardize"] is True
    assert msgspec.json.decode(msgspec.json.encode(record.cell))["method"]["params"]["standardize"] is True


def test_its_page_shows_it(command):
    page = command("info", "smooseg").out
    assert "standardize=true" in page
    assert "unless" in page
    assert "dino_vits8, dino_vitb8" in page
