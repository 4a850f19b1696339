"""What a plugin says about itself in its ``spec.toml``, readable without importing the plugin.

A plugin is a folder with a ``spec.toml`` and the Python files that its ``entry`` names. Unknown keys
and wrong types are errors that name the path of the key, so that a spec cannot say something that
nothing reads.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.old_spellings import with_todays_keys
from uss_bench.plugins.inputs import facets_of
from uss_bench.protocol.training import TrainingGeometry
from uss_bench.runtime.limits import DEEPEST_KEY

Kind = Literal["methods", "datasets", "backbones"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NO_BACKBONE = "none"
"""The name of the backbone of runs that use none."""

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar")
"""How files of weights end; an address that ends otherwise is that of a page."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
Name = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME.pattern}\Z", max_length=64)]
_KEY_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_KEY_PART}){{{DEEPEST_KEY}}}")
Color = tuple[int, int, int]
Shade = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Paper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    authors: str
    venue: str
    year: int
    url: str = ""


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Published or recommended parameters, applied when a run matches `when`, or by ``--preset``."""

    name: Name
    params: dict[str, Any]
    when: dict[Literal["dataset", "backbone"], str] = {}
    note: str = ""


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters whose default depends on the run: these hold, unless the run is on one of `unless`."""

    params: dict[str, Any]
    unless: Annotated[dict[Literal["dataset", "backbone"], list[str]], msgspec.Meta(min_length=1)]
    """Names, by what they name; a run on any of them keeps the defaults of the signature."""
    note: str = ""


class TrainingRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of the training geometry, for every run or for runs on some datasets or backbones."""

    params: dict[str, Any]
    """By the names of `uss_bench.protocol.TrainingGeometry`."""
    when: dict[Literal["dataset", "backbone"], str | list[str]] = {}
    """Names, by what they name: the run must be on one of each. Empty: every run."""
    note: str = ""

    def __post_init__(self) -> None:
        msgspec.convert(self.params, TrainingGeometry)


class ClassSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    color: tuple[Shade, Shade, Shade]
    kind: Literal["thing", "stuff"] | None = None
    values: list[int | Color] = []
    """What label files hold for this class: gray values or RGB colors; default: its own position."""


class TaxonomySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other classes that the labels and the counts of a dataset can be read as: merged or dropped ones."""

    name: Name
    classes: Annotated[
        dict[str, Annotated[list[str], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)
    ]
    """In order: each class, with the dataset's classes that it is made of. Pixels of others are ignored."""
    note: str = ""
    """Who uses it."""


class SplitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published split, for the dataset's page."""

    name: str
    """As records state it; part of the dataset's identity."""
    images: int
    labeled: bool = True
    note: str = ""
    """Who trains or tests on it."""


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run asks of the machine that a launcher starts it on; see docs/launchers.md.

    The defaults suit a method that reads frozen features of a few thousand images.
    """

    cpus: Annotated[int, msgspec.Meta(ge=1)] = 2
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_gb: Annotated[float, msgspec.Meta(gt=0)] = 8.0
    minutes: Annotated[int, msgspec.Meta(ge=1)] = 120


Ingredient = Literal[
    "imagenet-labels", "depth-supervision", "text", "sam-masks", "lidar", "stereo-or-flow", "tuned-on-labels"
]
INGREDIENTS: dict[Ingredient, str] = {
    "imagenet-labels": "weights trained with the labels of ImageNet",
    "depth-supervision": "depth maps, or a network trained with measured depth",
    "text": "text, or a network trained with text",
    "sam-masks": "masks of a network trained with masks, such as SAM",
    "lidar": "LiDAR scans",
    "stereo-or-flow": "stereo pairs or optical flow",
    "tuned-on-labels": "constants that were chosen with labels",
}
"""What else than unlabeled pixels may go into a result."""


class CheckSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``uss-bench check`` needs to know of a method; it decides no result."""

    params: dict[str, Any] = {}
    """Parameters under which every phase of training runs, and all of it takes seconds."""
    channels: list[str] = []
    """Extra channels of the images that training reads, where `MethodSpec.inputs` does not name them."""
    batches: str = ""
    """Batches of all loops, as a formula of parameters and of `items`, the training items: ``steps``."""
    images: str = ""
    """Images that all loops see, in the same way: ``steps * batch_size``."""


class PluginSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What every plugin states; the key ``kind`` says which of the three it is."""

    group: ClassVar[Kind]

    name: Name
    title: str
    summary: str
    entry: str
    """``file:object``, the file being a module of the plugin's own folder."""
    overrides: bool = False
    """Replace a plugin of the same name from a later source; without it a clash is an error."""
    license: str = ""
    source: str = ""
    notes: list[str] = []

    def called(self, backbone: str = "frozen features") -> str:
        """Return the title, with the backbone of a run where it says ``{backbone}``."""
        return self.title.replace("{backbone}", backbone)


class DiagnosisSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A diagnosis that a method offers: what ``uss-bench diagnose`` shows of it without labels."""

    entry: str
    """``file:function`` of the plugin's folder; see `uss_bench.experiment.diagnosis`."""
    summary: str
    """What it shows, in one line."""


class ReleasedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Official checkpoints that ``uss-bench import-state`` turns into a state of the method."""

    entry: str
    """``file:function`` of the plugin's folder; see `uss_bench.experiment.released`."""
    source: str
    """Where the checkpoints come from."""
    network: str = ""
    """What the names of the frozen network's tensors begin with, where a checkpoint holds it."""
    labels_used: list[str] = []
    """What labels were used for when the checkpoints were made."""


class MethodSpec(PluginSpec, frozen=True, tag="method"):
    group: ClassVar[Kind] = "methods"

    inputs: list[str]
    """Inputs of `Method.embed`: ``image``, ``aux:NAME``, or any facet of the backbone."""
    reads: list[str] = []
    """Inputs that training reads besides, so that what is missing is refused before any work."""
    paper: Paper | None = None
    alpha: float | None = None
    """Overrides the protocol's softmax temperature; the record says so."""
    training: list[TrainingRow] = []
    """What the method trains on, as its released code has it; applied in order to the lineage's geometry."""
    defaults: list[Defaults] = []
    """Applied in order, before presets and the user's choice."""
    presets: list[Preset] = []
    minimum: dict[str, float] = {}
    """The least value of parameters that count something, such as steps; a run with less is refused."""
    resources: Resources = Resources()
    ingredients: list[Ingredient] = []
    labels_used: dict[str, str] = {}
    """What labels are used for under a switch, by parameter: a record with it says so, and has no rank."""
    check: CheckSpec = CheckSpec()
    symbols: dict[str, str] = {}
    """What the paper calls the scalars that training reports, by name, as math of LaTeX without dollars.

    A formula stands where no symbol of the paper is known: z is the code, f the features, μ the centroids.
    """
    floor: bool = False
    """Whether it looks at no feature: any other method has to beat it, and no mean over methods holds it."""
    diagnosis: DiagnosisSpec | None = None
    released: ReleasedSpec | None = None

    @property
    def facets(self) -> list[str]:
        """The inputs that come from a backbone."""
        return facets_of(self.inputs)


class DatasetSpec(PluginSpec, frozen=True, tag="dataset"):
    group: ClassVar[Kind] = "datasets"

    train_split: str = "train"
    test_split: str = "test"
    default_backbone: str = ""
    generated: bool = False
    """Whether its images are drawn by the plugin: pictures of them may be shown anywhere."""
    splits: list[SplitSpec] = []
    obtain: str = ""
    """How to get it, in a sentence or two."""
    layout: str = ""
    """How the files lie on disk, line by line; shown as it is."""
    classes: list[ClassSpec] = []
    taxonomies: list[TaxonomySpec] = []

    def __post_init__(self) -> None:
        known = {row.name for row in self.classes}
        for taxonomy in self.taxonomies:
            merged = [source for sources in taxonomy.classes.values() for source in sources]
            if unknown := set(merged) - known:
                raise ValueError(f"taxonomy '{taxonomy.name}' merges '{min(unknown)}', which is no class")
            if len(set(merged)) < len(merged):
                raise ValueError(f"taxonomy '{taxonomy.name}' splits a class, and can only merge and drop")


class BackboneSpec(PluginSpec, frozen=True, tag="backbone"):
    group: ClassVar[Kind] = "backbones"

    entry: str = ""
    """As for every plugin, unless there is an `adapter`."""
    adapter: str = ""
    """The backbone whose code runs with this spec, in place of an `entry`: a plugin without Python."""
    params: dict[str, Any] = {}
    """Keyword arguments of the entry, fixed by this spec."""
    ingredients: list[Ingredient] = []
    trained_on: str = ""
    url: str = ""
    """Where the weights are; when it names a weights file, they are downloaded from there."""
    sha256: str = ""
    """Digest of the weights file; empty where it is not known for certain."""
    patch: int = 0
    dim: int = 0
    """Channels of ``tokens``. Adapters hold `patch` and `dim` against the network, where not 0."""
    positions: Literal["", "dino", "timm"] = ""
    """Who interpolates the position embedding of a ViT, as the network's own code does it; empty: what the
    adapter knows of the network."""
    mean: list[float] = []
    std: list[float] = []
    """What the pixels, in [0, 1], are normalized with; empty: what the adapter knows of the network."""

    def __post_init__(self) -> None:
        if bool(self.entry) == bool(self.adapter):
            raise ValueError("a backbone states either `entry` or `adapter`")


def is_name(text: str) -> bool:
    """Whether `text` may be a plugin's name; a name is always safe as part of a file name."""
    return _NAME.fullmatch(text) is not None and len(text) <= 64


def read_spec(path: Path) -> MethodSpec | DatasetSpec | BackboneSpec:
    """Read and check a ``spec.toml``.

    Raises:
        DataError: when the file is missing or malformed, naming the wrong key by its path.
    """
    spec: MethodSpec | DatasetSpec | BackboneSpec = decode_toml(path, MethodSpec | DatasetSpec | BackboneSpec)
    return spec


def decode_toml(path: Path, as_type: Any) -> Any:
    """Read a TOML file as the struct (or union of structs) `as_type`.

    Raises:
        DataError: when the file is missing, is no TOML or does not fit, naming the file and the key.
    """
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode()
        if _DEEP_KEY.search(text):
            raise DataError(f"{path} is not valid: a key has more than {DEEPEST_KEY} parts.")
        content = tomllib.loads(text)
        try:
            return msgspec.convert(content, as_type)
        except msgspec.ValidationError:
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert(with_todays_keys(content), as_type)
            raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}.") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and nested brackets
        raise DataError(f"{path} is not TOML: {error}.") from None
