"""The process of an isolated method, as the harness sees it: started, asked, and answered."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.errors import ContractError, RunError, UsageError
from uss_bench.experiment.isolated_places import SYSTEM, code_folders, data_places, device_files, without
from uss_bench.files.atomic import CACHE_VARIABLE
from uss_bench.files.bundled import bundled_folders
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.results.record import states_a_run
from uss_bench.runtime import progress
from uss_bench.runtime.landlock import version

if TYPE_CHECKING:
    from uss_bench.contracts import Backbone
    from uss_bench.experiment.setup import Setup
    from uss_bench.features.store import FeatureStore

_VARIABLES = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TERM", "USER", "LOGNAME", "LD_LIBRARY_PATH")
_VARIABLE_PREFIXES = (
    *("LC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "CUDA_", "CUBLAS_", "NVIDIA_"),
    *("PYTORCH_", "TORCH_", "ATEN_", "HF_", "XDG_", "PYTHON"),
)
"""The environment of the other process: what decides how it computes, and where caches of weights are."""


class MethodProcess:
    """The process of one method, which ends with this object.

    Args:
        registry: finds what the parameters and the backbone name.
        backbone: what the method may be bound to, or None: then it has no weights to read either.
        params: of the method's constructor, as messages state them.
        setup, store, scratch: of the cell that is trained; None where nothing is trained.
    """

    def __init__(
        self,
        plugin: Plugin,
        registry: Registry,
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
        bases = list(_base_folders(registry, params))
        try:
            start, self.known = _start(
                plugin, registry, backbone, request, bases, setup, store, scratch, self._temporary.name
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

    def new_key(self, method: object) -> int:
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


def _serve(owner: weakref.ref[MethodProcess], data: Any) -> None:
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
    plugin: Plugin,
    registry: Registry,
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
        card, adapter = _network(registry, name)
        if card.made is not None:
            raise UsageError(
                f"--isolate: backbone '{name}' was defined in Python, where no other process finds it.",
                hint="Make it a plugin: uss-bench new backbone.",
            )
        folders += [one.folder for one in (card, adapter) if one.origin != "built-in"]
        chosen = request["weights"]
        weights = backbone_files(registry, name, None if chosen is None else Path(chosen))
    data = [] if setup is None else data_places(setup)
    code = [*code_folders(*folders), *(weights or [])]
    files = [] if setup is None else [path.absolute() for path in setup.files.values()]
    own = [Path(temporary), Path("/proc/self")]
    reads = [*map(Path, SYSTEM), *code, *files, *([store.root.absolute()] if store else [])]
    writes = [*own, *([scratch.absolute()] if scratch else []), *device_files()]
    hidden = [*data, *bundled_folders("uss_bench.datasets", "datasets")]
    if scratch is not None:
        hidden.append(scratch.absolute().parents[2])  # the results, which state scores
    readable, listable = without(reads, [one.resolve() for one in hidden])
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


def _environment(temporary: str) -> dict[str, str]:
    own = {
        name: value
        for name, value in os.environ.items()
        if name in _VARIABLES or name.startswith(_VARIABLE_PREFIXES)
    }
    path = os.pathsep.join(filter(None, map(os.path.abspath, filter(None, sys.path))))
    return {**own, "PYTHONPATH": path, "TMPDIR": temporary, CACHE_VARIABLE: f"{temporary}/cache"}
