"""Pages that one would keep: complete, and in agreement with the code that they describe."""

from __future__ import annotations

import inspect
import sys

import pytest

from uss_bench.cli.output.parameter_docs import parameter_docs
from uss_bench.errors import DataError
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import read_spec
from uss_bench.protocol import CrfParams, Protocol, get_protocol, protocol_names

DATASETS = Registry().names("datasets")
BACKBONES = Registry().names("backbones")
METHODS = [
    *("hp", "eagle", "depthg", "ppap", "primaps", "cause", "equss", "reib"),
    *("pca", "randproj", "debias", "ncut"),
]


def published(name: str) -> dict[str, int]:
    """Return the number of images of every split, as the adapter itself has it."""
    entry = Registry().find("datasets", name).load()
    module = sys.modules[entry.__module__]
    if name.startswith("cocostuff"):
        curated = sys.modules[Registry().find("datasets", "cocostuff27").load().__module__].CURATED
        return {split: row.published for split, row in curated.items()}
    if name == "potsdam3":
        tiles = {split: tiles * module.ACROSS**2 for split, tiles in module.TILE_SPLITS.items()}
        return {split: images for split, (_, images) in module.LISTS.items()} | tiles
    return {split: images for split, (_, images) in module.SPLITS.items()}


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
def test_a_page_states_the_splits_that_the_adapter_has(command, name):
    spec, _ = Registry().dataset(name)
    assert {one.name: one.images for one in spec.splits} == published(name)
    said = command("info", name)
    assert said.code == 0
    for one in spec.splits:
        assert f"{one.name} " in said.out
        assert f"{one.images:,}" in said.out


def test_parameters_that_a_class_inherits_are_documented_as_its_own_are():
    entry = Registry().find("methods", "pca").load()
    docs = parameter_docs(entry)
    assert {"clusters", "steps", "init_patches", "dim", "whiten"} <= docs.keys()
    assert docs["steps"] == parameter_docs(Registry().find("methods", "dino").load())["steps"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_page_says_how_to_get_a_dataset_where_it_lies_and_what_its_options_mean(command, name):
    said = command("info", name).out
    spec, plugin = Registry().dataset(name)
    assert "get it" in said
    assert "license" in said
    entry = plugin.load()
    options = list(inspect.signature(entry).parameters)[1:]
    assert options
    docs = parameter_docs(entry)
    for option in options:
        assert docs.get(option), f"{name} does not say what {option} means"
        assert docs[option].split()[0] in said
    if "root" in options:
        assert "ROOT/" in said
        for line in spec.layout.strip().splitlines():
            assert line in said, "shown as it is"


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocols_page_explains_every_field(command, name):
    said = " ".join(command("info", name).out.split())
    for struct in (Protocol, *[CrfParams] * (get_protocol(name).crf is not None)):
        docs = parameter_docs(struct)
        for field in set(struct.__struct_fields__) - {"name", "version", "crf"}:
            assert docs.get(field), f"{struct.__name__}.{field} has no docstring"
            # A line may end after a hyphen.
            assert docs[field].replace(" ", "") in said.replace(" ", "")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbones_page_can_be_copied_from(command, name):
    said = command("info", name)
    spec, _ = Registry().backbone(name)
    assert said.code == 0
    for text in (spec.url, spec.sha256, spec.source):
        assert text in said.out, "never broken over two lines"


def test_docs_of_parameters_are_those_of_the_source():
    class Example:
        """An example.

        Args:
            first: what comes
                first; ``code`` loses its marks.
            second: the `other`.

        Raises:
            Nothing: at all.
        """

        third: int = 3
        """Not in the Args."""

        def __init__(self, first: int, *, second: int = 2) -> None: ...

    assert parameter_docs(Example) == {
        "first": "what comes first; code loses its marks.",
        "second": "the other.",
        "third": "Not in the Args.",
    }


def test_the_page_of_a_backbone_states_what_else_than_pixels_went_in(command):
    assert "weights trained with the labels of ImageNet" in command("info", "resnet50").out
    assert "ingredients" not in command("info", "resnet50_mocov2").out


def test_an_ingredient_outside_the_vocabulary_is_refused(tmp_path):
    text = 'kind = "method"\nname = "a"\ntitle = "A"\nsummary = "a"\nentry = "a:A"\ninputs = ["tokens"]\n'
    (tmp_path / "spec.toml").write_text(f'{text}ingredients = ["depth-supervision", "text"]')
    assert read_spec(tmp_path / "spec.toml").ingredients == ["depth-supervision", "text"]
    (tmp_path / "spec.toml").write_text(f'{text}ingredients = ["magic"]')
    with pytest.raises(DataError, match="ingredients"):
        read_spec(tmp_path / "spec.toml")


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_a_method_says_what_it_means(name):
    entry = Registry().find("methods", name).load()
    docs = parameter_docs(entry)
    options = list(inspect.signature(entry).parameters)
    assert "clusters" in options
    assert not [option for option in options if not docs.get(option)]
