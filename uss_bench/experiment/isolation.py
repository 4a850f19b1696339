"""Methods that are trained in a process of their own, which has no way to the labels.

With ``--isolate`` this process never imports a method's code. It reads data, extracts features and scores;
the other one (`uss_bench.experiment.isolated_process`) trains and predicts, and gets images and features
alone. To the rest of the harness the class that stands for the method is a method like any other.

On Linux from 5.13 on the kernel also keeps the other process from opening files of the data
(`uss_bench.runtime.landlock`). Elsewhere it merely is not told where they are, and the record says so.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import typing
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.errors import ContractError, RunError, UsageError
from uss_bench.files.atomic import CACHE_VARIABLE
from uss_bench.files.bundled import bundled_folders
from uss_bench.files.status import PACKAGE
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import Kind
from uss_bench.results.record import Isolation, Phase, states_a_run
from uss_bench.runtime import progress, tracking
from uss_bench.runtime.landlock import version
from uss_bench.runtime.opened_files import opened_files

if TYPE_CHECKING:
    from torch import Tensor

    from uss_bench.contracts import Backbone, Batch, Images, Method
    from uss_bench.experiment.setup import Setup
    from uss_bench.features.store import FeatureStore
    from uss_bench.training.clock import Clock
    from uss_bench.training.context import RunContext

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys", "/nix/store"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys", "/proc/driver"),
)
"""What programs read of a Linux system, and where no data lie."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "shm")
_VARIABLES = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TERM", "USER", "LOGNAME", "LD_LIBRARY_PATH")
_VARIABLE_PREFIXES = (
    *("LC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "CUDA_", "CUBLAS_", "NVIDIA_"),
    *("PYTORCH_", "TORCH_", "ATEN_", "HF_", "XDG_", "PYTHON"),
)
"""The environment of the other process: what decides how it computes, and where caches of weights are."""


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

    def process(self) -> _Process:
        """Return the process at work, or one that has nothing but the plugin's code."""
        if "process" not in self._kept:
            self._kept["process"] = _Process(self, None, {})
        process: _Process = self._kept["process"]
        return process

    def with_process(self, process: _Process) -> None:
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
    known = [*_code_folders(setup.plugin), store.root, context.scratch]
    asked = isinstance(setup.registry, IsolatingRegistry)
    return Isolation(
        process=False,
        reason="its class was defined in Python, where no other process finds it" if asked else "",
        opened_files=_outside(opened, known),
    )


def _train_apart(
    setup: Setup, method: IsolatedMethod, context: RunContext, store: FeatureStore, clock: Clock
) -> Isolation:
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
    by_step: dict[int, dict[str, float]] = {}
    for name, curve in context.curves.items():
        for step, value in curve:
            by_step.setdefault(step, {})[name] = value
    for step in sorted(by_step):  # the tracker of the run is here
        tracking.report(step, by_step[step])
    store.encoded += int(found["encoded"])
    clock.absorb(msgspec.convert(found["phases"], dict[str, Phase]), credited=found["credited"])
    return Isolation(
        process=True,
        enforced=f"Landlock {process.enforced}" if process.enforced else "",
        reason=process.reason,
        opened_files=_outside(found["opened"], process.known),
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
        self._at: tuple[_Process, int] | None = None

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

    def move(self, setup: Setup, store: FeatureStore, scratch: Path) -> _Process:
        """Live in a new process, which may train; return it."""
        process = _Process(
            self.plugin, store.backbone, self._params, setup=setup, store=store, scratch=scratch
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
                process = _Process(self.plugin, self._backbone, self._params)
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
    if "inputs" in described["own"]:
        members["inputs"] = property(lambda self: self._ask("inputs")[0]["inputs"])
    if "bind" in described["own"]:
        members["bind"] = lambda self, backbone: setattr(self, "_backbone", backbone)
    return type(f"Isolated{plugin.spec.entry.rpartition(':')[2]}", (IsolatedMethod,), members)


class _Process:
    """The process of one method, which ends with this object.

    Args:
        backbone: what the method may be bound to, or None: then it has no weights to read either.
        params: of the method's constructor, as messages state them.
        setup, store, scratch: of the cell that is trained; None where nothing is trained.
    """

    def __init__(
        self,
        plugin: IsolatedPlugin,
        backbone: Backbone | None,
        params: Mapping[str, Any],
        *,
        setup: Setup | None = None,
        store: FeatureStore | None = None,
        scratch: Path | None = None,
    ) -> None:
        from uss_bench.experiment.messages import Channel

        self.has_backbone = backbone is not None
        self.runs: dict[str, Any] = {}
        """Runs that the method is built upon, by parameter."""
        self._who = f"Method '{plugin.name}'"
        self._keys = 0
        self._forget: list[int] = []
        self._images = None if setup is None else setup.train_images
        self._temporary = tempfile.TemporaryDirectory(prefix="uss-bench-isolated-")
        request = getattr(backbone, "request", None)
        bases = list(_base_folders(plugin.registry, params))
        try:
            start, self.known = _start(
                plugin, backbone, request, bases, setup, store, scratch, self._temporary.name
            )
        except BaseException:
            self._temporary.cleanup()
            raise
        ours, theirs = socket.socketpair()
        data, their_data = socket.socketpair()
        with theirs, their_data:
            numbers = [one.fileno() for one in (theirs, their_data)]
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from uss_bench.experiment.isolated_process import main; main()"),
                    *map(str, numbers),
                ],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                cwd=self._temporary.name,
                env=_environment(self._temporary.name),
            )
        self._commands = Channel(ours)
        self._data = Channel(data)
        self._finalizer = weakref.finalize(
            self, _end, self._process, (self._commands, self._data), self._temporary
        )
        threading.Thread(target=_serve, args=(weakref.ref(self), self._data), daemon=True).start()
        answer, _ = self._exchange(msgspec.to_builtins(start), b"")
        self.enforced = int(answer["enforced"])
        self.reason = answer.get("reason", "") if version() else f"{sys.platform} has no Landlock here"

    def new_key(self, method: IsolatedMethod) -> int:
        """Return a number for an instance, which the other process forgets with it."""
        self._keys += 1
        weakref.finalize(method, self._forget.append, self._keys)
        return self._keys

    def ask(self, do: str, body: bytes = b"", **info: Any) -> tuple[dict[str, Any], bytes]:
        """Have something done.

        Raises:
            UssBenchError: as the method's own code, or what it was lent, raised it.
            RunError: when the process has ended.
        """
        forget, self._forget[:] = list(self._forget), []
        return self._exchange({"do": do, "forget": forget, **info}, body)

    def answer(self, info: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return what the other process asks for: an image, or the state of a run that is built upon."""
        import safetensors.numpy

        from uss_bench.data.images import channel_fingerprint
        from uss_bench.results.files import read_record, read_state

        images, what = self._images, info["ask"]
        if what == "state":
            path = self.runs[info["parameter"]].record()
            return {}, read_state(path, read_record(path))
        if images is None:
            raise UsageError("Nothing is trained here.")
        if what == "aux_fingerprint":
            return {"digest": channel_fingerprint(images, str(info["channel"]))}, b""
        if what not in ("image", "aux"):
            raise ContractError(f"An isolated method is given no '{what}'.")
        index = range(len(images))[int(info["index"])]
        arrays = {"image": images.image(index)} if what == "image" else dict(images.aux(index))
        packed = {name: value.copy(order="C") for name, value in arrays.items()}
        return {}, safetensors.numpy.save(packed)

    def _exchange(self, info: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        from uss_bench.experiment.messages import read_error

        try:
            self._commands.send(info, body)
            answer, content = self._commands.receive()
        except (EOFError, OSError):
            code = self._process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise RunError(
                f"The process of {self._who.lower()} ended ({how}).",
                hint="What it printed last may say why; it may have run out of memory.",
            ) from None
        if "error" in answer:
            raise read_error(answer) from RuntimeError(f"in the other process:\n{answer.get('trace', '')}")
        return answer, content


def _serve(owner: weakref.ref[_Process], data: Any) -> None:
    """Answer what the other process asks for while it is at work, in a thread of its own."""
    from uss_bench.errors import UssBenchError
    from uss_bench.experiment.messages import error_message

    with contextlib.suppress(EOFError, OSError):
        while True:
            info, _ = data.receive()
            process = owner()
            if process is None:
                return
            try:
                answer, content = process.answer(info)
            except UssBenchError as error:
                answer, content = error_message(error), b""
            except Exception as error:
                text = f"It asked for what there is not: {type(error).__name__}: {error}"
                answer, content = {"error": "ContractError", "what": text}, b""
            del process
            data.send(answer, content)


def _end(process: subprocess.Popen[bytes], channels: Sequence[Any], temporary: Any) -> None:
    process.kill()
    process.wait()
    for channel in channels:
        channel.close()
    temporary.cleanup()


def _start(
    plugin: IsolatedPlugin,
    backbone: Backbone | None,
    request: Mapping[str, Any] | None,
    bases: Sequence[Path],
    setup: Setup | None,
    store: FeatureStore | None,
    scratch: Path | None,
    temporary: str,
) -> tuple[Any, list[Path]]:
    """Return what the process is told, and the folders whose files are none of the data's."""
    import torch

    from uss_bench.experiment.isolated_process import Start
    from uss_bench.plugins.backbone_files import backbone_files
    from uss_bench.plugins.lazy_backbone import BackboneFacts

    folders = [plugin.folder, *bases]
    weights: list[Path] | None = []
    if request is not None:
        name = request["name"]
        card, adapter = _network(plugin.registry, name)
        if card.made is not None:
            raise UsageError(
                f"--isolate: backbone '{name}' was defined in Python, where no other process finds it.",
                hint="Make it a plugin: uss-bench new backbone.",
            )
        folders += [one.folder for one in (card, adapter) if one.origin != "built-in"]
        chosen = request["weights"]
        weights = backbone_files(plugin.registry, name, None if chosen is None else Path(chosen))
    data = [] if setup is None else _data_places(setup)
    code = [*_code_folders(*folders), *(weights or [])]
    files = [] if setup is None else [path.absolute() for path in setup.files.values()]
    own = [Path(temporary), Path("/proc/self")]
    reads = [*map(Path, _SYSTEM), *code, *files, *([store.root.absolute()] if store else [])]
    writes = [*own, *([scratch.absolute()] if scratch else []), *_devices()]
    hidden = [*data, *bundled_folders("uss_bench.datasets", "datasets")]
    if scratch is not None:
        hidden.append(scratch.absolute().parents[2])  # the results, which state scores
    readable, listable = _without(reads, [one.resolve() for one in hidden])
    facts = None if backbone is None else BackboneFacts.of(backbone)
    device = "cpu" if store is None else str(store.device)
    start = Start(
        method=plugin.name,
        folders=[str(one) for one in dict.fromkeys(folders)],
        readable=[str(one) for one in readable],
        listable=[str(one) for one in listable],
        writable=[str(one) for one in writes],
        enforce=version() > 0,
        network=None if request is None else {k: None if v is None else str(v) for k, v in request.items()},
        facts=facts,
        eager=weights is None,
        device=device,
        threads=torch.get_num_threads(),
        quiet=progress.is_quiet(),
    )
    return start, [one.resolve() for one in (*reads, *writes)]


def _network(registry: Registry, name: str) -> tuple[Plugin, Plugin]:
    card = registry.find("backbones", name if name in registry.names("backbones") else "timm")
    return card, registry.backbone(card.name)[1]


def _base_folders(registry: Registry, value: Any) -> Iterator[Path]:
    """Yield the folders of the methods that parameters are built upon, as messages or cells state them."""
    if isinstance(value, Mapping):
        if states_a_run(value):
            yield registry.find("methods", value["method"]).folder
        for inner in value.values():
            yield from _base_folders(registry, inner)


def _data_places(setup: Setup) -> list[Path]:
    """Return the files and folders that a dataset was given, and the folder of its plugin.

    Raises:
        UsageError: when the method's own code lies among the data.
    """
    texts = [*_strings(setup.asked.data), *setup.asked.aux.values()]
    given = [Path(text).expanduser() for text in texts]
    places = [one.resolve() for one in given if one.exists()]
    places.append(setup.registry.dataset(setup.asked.dataset)[1].folder)
    for place in places:
        for code in (setup.plugin.folder, PACKAGE):
            if code.resolve().is_relative_to(place):
                raise UsageError(
                    f"--isolate: {code} lies in {place}, which is kept from the method.",
                    hint="Move the data, or the code, to a folder of their own.",
                )
    return places


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _code_folders(*plugins: Plugin | Path) -> list[Path]:
    """Return where code lies: Python, its libraries, this package, plugins, and notes of installs."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = [Path(text) for text in sys.path if Path(text).name in ("site-packages", "dist-packages")]
    python = [Path(text) for text in (sys.prefix, sys.base_prefix) if text != "/"]
    own = [one if isinstance(one, Path) else one.folder for one in plugins]
    found = [Path(sysconfig.get_path(name)) for name in names]
    # that of an editable install lies beside its source
    installed = [one for at in (*map(Path, sys.path), PACKAGE.parent) for one in at.glob("*.egg-info")]
    return list(dict.fromkeys([*python, *found, *libraries, *installed, PACKAGE, *own]))


def _devices() -> list[Path]:
    return [Path("/dev", name) for name in _DEVICES] + sorted(Path("/dev").glob("nvidia*"))


def _without(roots: Sequence[Path], hidden: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return paths that hold all of `roots` but what is hidden, and the folders that were taken apart."""
    kept: list[Path] = []
    apart: list[Path] = []
    todo = [one.resolve() for one in roots if one.exists()]
    while todo:
        path = todo.pop()
        if any(path.is_relative_to(one) for one in hidden if not _holds(one, path, roots)):
            continue
        if any(one.is_relative_to(path) for one in hidden) and path.is_dir():
            apart.append(path)
            todo += list(path.iterdir())
        else:
            kept.append(path)
    return kept, apart


def _holds(hidden: Path, path: Path, roots: Sequence[Path]) -> bool:
    """Whether a hidden place holds a root that was named itself, which is then meant to be read."""
    return any(path.is_relative_to(root) and root.is_relative_to(hidden) for root in map(Path.resolve, roots))


def _environment(temporary: str) -> dict[str, str]:
    own = {
        name: value
        for name, value in os.environ.items()
        if name in _VARIABLES or name.startswith(_VARIABLE_PREFIXES)
    }
    path = os.pathsep.join(filter(None, map(os.path.abspath, filter(None, sys.path))))
    return {**own, "PYTHONPATH": path, "TMPDIR": temporary, CACHE_VARIABLE: f"{temporary}/cache"}


def _outside(opened: Sequence[str], known: Sequence[Path]) -> int:
    """Return how many of these files lie in none of these folders, nor in those of the system."""
    folders = [one.resolve() for one in known] + [Path(text) for text in (*_SYSTEM, "/proc", "/dev")]
    # the entry that an editable install leaves on the path is a name without a file
    return sum(
        not path.name.endswith("__path_hook__") and not any(path.is_relative_to(folder) for folder in folders)
        for path in map(Path, opened)
    )


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
