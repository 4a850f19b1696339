"""The process of an isolated method: it imports the plugin, trains it and predicts with it.

It is started by `uss_bench.experiment.isolation` and has neither the data set nor a path of it. Images come
decoded through a socket, by number; stored features are read from the store. What it may open beside them is
decided before the plugin is imported.
"""

from __future__ import annotations

import inspect
import json
import signal
import socket
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
import torch
from safetensors.torch import load, save
from torch import Tensor

from uss_bench.contracts import Backbone, Images, Method, TrainedRun
from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError, UssBenchError, blame
from uss_bench.experiment.assets import BaseRun
from uss_bench.experiment.messages import Channel, error_message
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.lazy_backbone import BackboneFacts, LazyBackbone
from uss_bench.plugins.loading import inputs_of, load_backbone, load_method
from uss_bench.plugins.params import parameter_types
from uss_bench.plugins.registry import Registry
from uss_bench.protocol import TrainingGeometry
from uss_bench.runtime import progress
from uss_bench.runtime.landlock import end_with_parent, restrict
from uss_bench.runtime.malloc import disable_malloc_trim
from uss_bench.runtime.opened_files import opened_files
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext, portable_state

PLAIN: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple, Path, TrainedRun)},
    "None": types.NoneType,
    "Any": Any,
    "...": ...,
}
"""Types that a parameter may have, by what a message calls them."""


class Start(msgspec.Struct, kw_only=True):
    """What the process is told when it starts."""

    method: str
    folders: list[str]
    """Plugins that it may find, the method's own first."""
    readable: list[str]
    listable: list[str]
    writable: list[str]
    enforce: bool
    network: dict[str, str | None] | None
    """What the backbone is loaded from; None while nothing needs one."""
    facts: BackboneFacts | None
    eager: bool
    """Load the backbone before files are given up, where nobody can tell which it reads."""
    device: str
    threads: int
    quiet: bool


class Training(msgspec.Struct, kw_only=True):
    """What is trained on, and where it is kept."""

    seed: int
    images: int
    fingerprint: str
    geometry: TrainingGeometry
    patch: int
    store: str
    dtype: str
    scratch: str
    snapshot_seconds: float


def main() -> None:
    """Serve commands until the other side is gone."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    commands, data = (Channel(socket.socket(fileno=int(number))) for number in sys.argv[1:3])
    try:
        info, _ = commands.receive()
        _Server(msgspec.convert(info, Start), commands, data).serve()
    except (EOFError, OSError):
        pass


class ServedImages(Images):
    """The training images, which come from the other process; their ids are numbers."""

    def __init__(self, data: Channel, count: int, fingerprint: str) -> None:
        self.ids: Sequence[str] = [str(index) for index in range(count)]
        self._data = data
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return self._arrays("image", range(len(self))[index])["image"]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return self._arrays("aux", range(len(self))[index])

    def fingerprint(self) -> str:
        return self._fingerprint

    def aux_fingerprint(self, channel: str) -> str:
        return str(self._data.ask({"ask": "aux_fingerprint", "channel": channel})[0]["digest"])

    def _arrays(self, what: str, index: int) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = safetensors.numpy.load(
            self._data.ask({"ask": what, "index": index})[1]
        )
        return found


class ServedRun(TrainedRun):
    """A run that is built upon: its state comes from the other process, its scores never."""

    def __init__(self, base: BaseRun, cell: str, state: str, data: Channel, parameter: str) -> None:
        self._base, self._cell, self._state = base, cell, state
        self._data, self._parameter = data, parameter
        self._loaded: dict[torch.device, Method] = {}

    @property
    def method(self) -> str:  # type: ignore[override]
        return self._base.method

    @property
    def params(self) -> Mapping[str, Any]:  # type: ignore[override]
        return self._base.params

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._base.inputs

    @property
    def cell(self) -> str:  # type: ignore[override]
        return self._cell

    @property
    def state(self) -> str:  # type: ignore[override]
        return self._state

    def make(self) -> Method:
        return self._base.make()

    def load(self, device: torch.device) -> Method:
        if device not in self._loaded:
            state = self._data.ask({"ask": "state", "parameter": self._parameter})[1]
            self._loaded[device] = self._base.with_state(state, device)
        return self._loaded[device]


class _Server:
    def __init__(self, start: Start, commands: Channel, data: Channel) -> None:
        self._commands, self._data = commands, data
        self._start = start
        self._registry = Registry(map(Path, start.folders))
        self._methods: dict[int, Method] = {}
        self._device = torch.device(start.device)
        self._backbone: Backbone | None = None
        progress.set_quiet(start.quiet)
        torch.set_num_threads(start.threads)
        disable_malloc_trim()

    def serve(self) -> None:
        self._commands.send(self._give_up_files())
        while True:
            info, body = self._commands.receive()
            for key in info.pop("forget"):
                self._methods.pop(key, None)
            name = info.pop("do")
            do: Callable[..., tuple[dict[str, Any], bytes]] = getattr(self, f"do_{name}")
            try:
                with blame(self._who, name):
                    answer, content = do(body, **info)
            except UssBenchError as error:
                trace = "".join(traceback.format_exception(error.__cause__ or error))
                answer, content = {**error_message(error), "trace": trace}, b""
            self._commands.send(answer, content)

    def _give_up_files(self) -> dict[str, Any]:
        start = self._start
        if start.network is not None and start.facts is not None:
            weights = start.network.get("weights")
            options = {**start.network, "weights": None if weights is None else Path(weights)}
            self._backbone = LazyBackbone(
                start.facts,
                lambda: load_backbone(self._registry, **options),  # type: ignore[arg-type]
            ).to(self._device)
            if start.eager:
                self._backbone.built()
        if not start.enforce:
            return {"enforced": 0}
        try:
            version = restrict(
                read=map(Path, start.readable),
                list_only=map(Path, start.listable),
                write=map(Path, start.writable),
            )
        except OSError as error:
            return {"enforced": 0, "reason": str(error)}
        return {"enforced": version}

    @property
    def _entry(self) -> Callable[..., Method]:
        entry: Callable[..., Method] = self._registry.find("methods", self._start.method).load()
        return entry

    @property
    def _who(self) -> str:
        return f"Method '{self._start.method}'"

    def do_describe(self, body: bytes) -> tuple[dict[str, Any], bytes]:
        entry = self._entry
        with blame(self._who, "stating its parameters"):
            hints = parameter_types(entry)
            rows = []
            for name, item in inspect.signature(entry).parameters.items():
                row = {"name": name, "type": _written(hints.get(name, Any), f"{self._who}: {name}")}
                if item.default is not inspect.Parameter.empty:
                    row["default"] = json.loads(json.dumps(msgspec.to_builtins(item.default)))
                rows.append(row)
        own = [name for name in ("inputs", "bind", "reads_test_images") if hasattr(entry, name)]
        return {"parameters": rows, "own": own}, b""

    def do_make(self, body: bytes, key: int, params: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        given = {name: self._argument(name, value) for name, value in params.items()}
        plugin = self._registry.find("methods", self._start.method)
        backbone: Any = self._backbone  # None where the method asks for none
        self._methods[key] = load_method(plugin, given, backbone)
        return {}, b""

    def do_inputs(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        spec, _ = self._registry.method(self._start.method)
        return {"inputs": inputs_of(spec, self._methods[key])}, b""

    def do_reads_test_images(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        return {"reads": bool(getattr(self._methods[key], "reads_test_images", False))}, b""

    def do_load(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        state = {name: value.to(self._device) for name, value in load(body).items()}
        with blame(self._who, "loading its state"):
            self._methods[key].load_state_dict(state)
        return {}, b""

    def do_state(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        with blame(self._who, "stating its state"):
            return {}, save(portable_state(self._methods[key]))

    @torch.no_grad()
    def do_embed(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        batch = {name: value.to(self._device) for name, value in load(body).items()}
        with blame(self._who, "embed"):
            return _sent(self._methods[key].embed(batch))

    @torch.no_grad()
    def do_classify(self, body: bytes, key: int) -> tuple[dict[str, Any], bytes]:
        with blame(self._who, "classify"):
            return _sent(self._methods[key].classify(load(body)["code"].to(self._device)))

    def do_train(
        self, body: bytes, key: int, params: dict[str, Any], training: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        wanted = msgspec.convert(training, Training)
        assert self._backbone is not None, "a training has a backbone, if only the one called none"
        images = ServedImages(self._data, wanted.images, wanted.fingerprint)
        items = TransformedImages.for_training(images, wanted.geometry, patch=wanted.patch)
        store = FeatureStore(
            Path(wanted.store),
            self._backbone,
            device=self._device,
            dtype=wanted.dtype,  # type: ignore[arg-type]
            budget=0,  # what the other process did not store is streamed
            log=lambda text: None,
        )
        clock = Clock()
        seed_everything(wanted.seed)
        self.do_make(b"", key, params)
        method = self._methods[key]
        context = RunContext(
            method=method,
            items=items,
            store=store,
            seed=wanted.seed,
            scratch=Path(wanted.scratch),
            clock=clock,
            snapshot_seconds=wanted.snapshot_seconds,
        )
        with opened_files() as opened, clock.phase("train"), blame(self._who, "training"):
            method.train(images, context)
        answer = {
            "curves": context.curves,
            "offers": [[step, path.name] for step, path in context.offers],
            "resumed": context.resumed,
            "phases": msgspec.to_builtins(clock.phases),
            "credited": context.credited,
            "encoded": store.encoded,
            "opened": opened,
        }
        return answer, b""

    def _argument(self, name: str, value: Any) -> Any:
        """Return what the constructor receives for a parameter as a message states it."""
        if isinstance(value, dict) and "$path" in value:
            return Path(value["$path"])
        if isinstance(value, dict) and "$run" in value:
            assert self._backbone is not None, "what is built upon another run comes with the backbone"
            base = BaseRun(self._registry, self._backbone, value["$run"], None)
            return ServedRun(base, value["cell"], value["state"], self._data, name)
        hint = parameter_types(self._entry).get(name, Any)
        kinds = [typing.get_origin(one) or one for one in (typing.get_args(hint) or ())] + [
            typing.get_origin(hint) or hint
        ]
        return tuple(value) if isinstance(value, list) and tuple in kinds and list not in kinds else value


def _sent(value: Any) -> tuple[dict[str, Any], bytes]:
    """Return what a method computed as a message; of what is no tensor the type, to be refused."""
    if not isinstance(value, Tensor):
        return {"kind": type(value).__name__}, b""
    return {"kind": "Tensor"}, save({"value": value.detach().cpu().contiguous()})


def _written(hint: Any, who: str) -> Any:
    """Return a type as JSON.

    Raises:
        ContractError: for one that no value of a command could have.
    """
    for name, kind in PLAIN.items():
        if hint is kind:
            return name
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return ["Literal", *arguments]
    if origin in (typing.Union, types.UnionType):
        return ["Union", *(_written(one, who) for one in arguments)]
    if origin in (list, dict, tuple):
        return [origin.__name__, *(_written(one, who) for one in arguments)]
    raise ContractError(
        f"{who} is of type {hint}, which an isolated method cannot state.",
        hint="Use numbers, strings, lists, tables, Literal, Path or TrainedRun, or run it without --isolate.",
    )
