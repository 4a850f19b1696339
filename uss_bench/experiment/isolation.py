"""Methods that are trained in a process of their own, which has no way to the labels.

With ``--isolate`` this process never imports a method's code. It reads data, extracts features and scores;
the other one (`uss_bench.experiment.isolated_process`) trains and predicts, and gets images and features
alone. To the rest of the harness the class that stands for the method is a method like any other.

On Linux from 5.13 on the kernel also keeps the other process from opening files of the data
(`uss_bench.runtime.landlock`). Elsewhere it merely is not told where they are, and the record says so.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.errors import UsageError
from uss_bench.experiment.isolated_places import code_folders, count_outside
from uss_bench.experiment.method_process import MethodProcess
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import Kind
from uss_bench.results.record import Isolation, Phase
from uss_bench.runtime import tracking
from uss_bench.runtime.opened_files import opened_files

if TYPE_CHECKING:
    from torch import Tensor

    from uss_bench.contracts import Backbone, Batch, Images, Method
    from uss_bench.experiment.setup import Setup
    from uss_bench.features.store import FeatureStore
    from uss_bench.training.clock import Clock
    from uss_bench.training.context import RunContext


class IsolatingRegistry(Registry):
    """Finds the plugins of another registry, with methods that are never imported here.

    A method that was defined in Python is here already: it stays as it is, and its records say so.
    """

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.extra)
        self._plain = registry

    def _plugins(self, kind: Kind) -> dict[str, Plugin]:
        if kind not in self._found:
            self._found[kind] = {one.name: self._apart(kind, one) for one in self._plain.all(kind)}
        return self._found[kind]

    def _apart(self, kind: Kind, one: Plugin) -> Plugin:
        if kind != "methods" or one.made is not None:
            return one
        return IsolatedPlugin(one.spec, one.folder, one.origin, registry=self)


@dataclass(frozen=True)
class IsolatedPlugin(Plugin):
    """A method's plugin whose entry is a class that stands for the method's own, in another process."""

    registry: Registry = field(kw_only=True, compare=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The class, and the process of the cell at work."""

    def load(self, entry: str = "") -> Any:
        """Return a class with the signature of the method's own.

        Raises:
            ContractError: when the entry cannot be imported, or a parameter has a type of its own.
        """
        if entry and entry != self.spec.entry:
            raise UsageError(f"{entry} of '{self.name}' is not offered by an isolated method.")
        if "class" not in self._kept:
            described, _ = self.process().ask("describe")
            self._kept["class"] = _stand_in(self, described)
        return self._kept["class"]

    def process(self) -> MethodProcess:
        """Return the process at work, or one that has nothing but the plugin's code."""
        if "process" not in self._kept:
            self._kept["process"] = MethodProcess(self, self.registry, None, {})
        process: MethodProcess = self._kept["process"]
        return process

    def with_process(self, process: MethodProcess) -> None:
        self._kept["process"] = process

    def end_process(self) -> None:
        """End the process once nothing more is asked of its methods."""
        self._kept.pop("process", None)


def train(setup: Setup, method: Method, context: RunContext, store: FeatureStore, clock: Clock) -> Isolation:
    """Train a method, here or in a process of its own, and return how it was kept from labels."""
    if isinstance(method, IsolatedMethod):
        return _train_apart(setup, method, context, store, clock)
    with opened_files(by_harness=False) as opened:
        method.train(setup.train_images, context)
    known = [*code_folders(setup.plugin), store.root, context.scratch]
    asked = isinstance(setup.registry, IsolatingRegistry)
    return Isolation(
        process=False,
        reason="its class was defined in Python, where no other process finds it" if asked else "",
        opened_files=count_outside(opened, known),
    )


def _train_apart(
    setup: Setup, method: IsolatedMethod, context: RunContext, store: FeatureStore, clock: Clock
) -> Isolation:
    if setup.reads_test_images:
        raise UsageError(
            f"--isolate: method '{setup.spec.name}' reads test images in training, which none is given.",
            hint="Choose parameters that read training images only, or run it without --isolate.",
        )
    for inputs in filter(None, (setup.inputs, setup.spec.reads)):
        context.features(inputs)  # stored by this process: the other one may only read the store
    process = method.move(setup, store, context.scratch)
    wanted = {
        "seed": context.seed,
        "images": len(setup.train_images),
        "fingerprint": setup.train_images.fingerprint(),
        "geometry": msgspec.to_builtins(setup.training),
        "patch": setup.backbone.patch,
        "store": str(store.root.absolute()),
        "dtype": store.dtype.name,
        "scratch": str(context.scratch.absolute()),
        "snapshot_seconds": context.snapshot_seconds,
    }
    found = method.train_on(wanted)
    context.curves = {name: [(int(a), float(b)) for a, b in rows] for name, rows in found["curves"].items()}
    context.offers = [(int(step), context.scratch / Path(name).name) for step, name in found["offers"]]
    context.resumed = list(found["resumed"])
    tracking.report_curves(context.curves)  # the tracker of the run is here
    store.encoded += int(found["encoded"])
    clock.absorb(msgspec.convert(found["phases"], dict[str, Phase]), credited=found["credited"])
    return Isolation(
        process=True,
        enforced=f"Landlock {process.enforced}" if process.enforced else "",
        reason=process.reason,
        opened_files=count_outside(found["opened"], process.known),
    )


def end_isolation(setup: Setup) -> None:
    """End the process of a cell that is done; nothing for one that had none."""
    if isinstance(setup.plugin, IsolatedPlugin):
        setup.plugin.end_process()


class IsolatedMethod:
    """Stands for a method in another process; see `uss_bench.contracts.Method`.

    Args:
        params: of the method's constructor.
    """

    plugin: IsolatedPlugin

    def __init__(self, **params: Any) -> None:
        self._params = {name: _stated(value) for name, value in params.items()}
        self._given = params
        runs = (value for value in params.values() if hasattr(value, "stated"))
        self._backbone: Backbone | None = next((run.backbone for run in runs), None)
        self._at: tuple[MethodProcess, int] | None = None

    def train(self, data: Images, ctx: Any) -> None:
        raise NotImplementedError("an isolated method is trained by uss_bench.experiment.isolation.train")

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self._tensor("embed", batch)
        return code

    def classify(self, code: Tensor) -> Tensor:
        logits: Tensor = self._tensor("classify", {"code": code})
        return logits

    def state_dict(self) -> dict[str, Tensor]:
        from safetensors.torch import load

        found: dict[str, Tensor] = load(self._ask("state")[1])
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        self._ask("load", save({name: value.cpu().contiguous() for name, value in state.items()}))

    def move(self, setup: Setup, store: FeatureStore, scratch: Path) -> MethodProcess:
        """Live in a new process, which may train; return it."""
        process = MethodProcess(
            self.plugin,
            self.plugin.registry,
            store.backbone,
            self._params,
            setup=setup,
            store=store,
            scratch=scratch,
        )
        process.runs = {name: value for name, value in self._given.items() if hasattr(value, "record")}
        self.plugin.with_process(process)
        self._at = (process, process.new_key(self))
        return process

    def train_on(self, training: dict[str, Any]) -> dict[str, Any]:
        assert self._at is not None, "it lives in the process that trains"
        process, key = self._at
        return process.ask("train", key=key, params=self._params, training=training)[0]

    def _tensor(self, step: str, tensors: Mapping[str, Tensor]) -> Any:
        from safetensors.torch import load, save

        device = next(iter(tensors.values())).device
        body = save({name: value.cpu().contiguous() for name, value in tensors.items()})
        info, content = self._ask(step, body)
        if info["kind"] != "Tensor":
            return type(info["kind"], (), {})()  # for the caller to refuse by the name of its type
        return load(content)["value"].to(device)

    def _ask(self, do: str, body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        if self._at is None:
            process = self.plugin.process()
            if self._backbone is not None and not process.has_backbone:
                process = MethodProcess(self.plugin, self.plugin.registry, self._backbone, self._params)
                self.plugin.with_process(process)
            key = process.new_key(self)
            process.ask("make", key=key, params=self._params)
            self._at = (process, key)
        process, key = self._at
        return process.ask(do, body, key=key)


def _stand_in(plugin: IsolatedPlugin, described: Mapping[str, Any]) -> type[IsolatedMethod]:
    """Return a class with the signature of the method's own."""
    kinds = {row["name"]: _type(row["type"]) for row in described["parameters"]}
    signature = inspect.Signature(
        [
            inspect.Parameter(
                row["name"],
                inspect.Parameter.KEYWORD_ONLY,
                default=row.get("default", inspect.Parameter.empty),
            )
            for row in described["parameters"]
        ]
    )

    def __init__(self: IsolatedMethod, **params: Any) -> None:
        IsolatedMethod.__init__(self, **params)

    __init__.__annotations__ = kinds
    members: dict[str, Any] = {"__init__": __init__, "__signature__": signature, "plugin": plugin}
    if "reads_test_images" in described["own"]:
        members["reads_test_images"] = property(lambda self: self._ask("reads_test_images")[0]["reads"])
    if "inputs" in described["own"]:
        members["inputs"] = property(lambda self: self._ask("inputs")[0]["inputs"])
    if "bind" in described["own"]:
        members["bind"] = lambda self, backbone: setattr(self, "_backbone", backbone)
    return type(f"Isolated{plugin.spec.entry.rpartition(':')[2]}", (IsolatedMethod,), members)


def _stated(value: Any) -> Any:
    """Return a constructor's argument as a message states it."""
    if isinstance(value, Path):
        return {"$path": str(value.absolute())}
    if hasattr(value, "stated"):
        return {"$run": msgspec.to_builtins(value.stated), "cell": value.cell, "state": value.state}
    return msgspec.to_builtins(value)


def _type(written: Any) -> Any:
    """Return the type that a message states."""
    from uss_bench.experiment.isolated_process import PLAIN

    if isinstance(written, str):
        return PLAIN[written]
    name, *arguments = written
    if name == "Literal":
        return typing.Literal[tuple(arguments)]
    inner = tuple(map(_type, arguments))
    return typing.Union[inner] if name == "Union" else PLAIN[name][inner]  # noqa: UP007
