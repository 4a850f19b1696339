"""Optional trackers: what methods report while they train, sent to TensorBoard, W&B or anything else.

A tracker is named ``KIND:ARGUMENT``: ``tensorboard:DIR``, ``wandb:PROJECT``, or a kind that an installed
distribution offers as an entry point ``uss_bench.trackers``: a function of the argument, the run's name and
its settings that returns a `Tracker`. No result depends on a tracker.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from uss_bench.errors import UsageError, did_you_mean

ENTRY_POINTS = "uss_bench.trackers"


class Tracker(Protocol):
    """Receives the curves of one run."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


Factory = Callable[[str, str, Mapping[str, Any]], Tracker]

_current: Tracker | None = None


def report(step: int, scalars: Mapping[str, float]) -> None:
    """Send scalars to the tracker of the run that is in training, if it has one."""
    if _current is not None:
        _current.log(step, scalars)


def report_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Send the curves of a training that ran before or elsewhere, in the order of their steps."""
    of_step: dict[int, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in curve:
            of_step.setdefault(step, {})[name] = value
    for step, values in sorted(of_step.items()):
        report(step, values)


@contextlib.contextmanager
def tracked(spec: str, run: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Send what is reported meanwhile to the tracker that `spec` names; '' for none.

    Args:
        run: the run's name.
        settings: its parameters, for trackers that show them.

    Raises:
        UsageError: when there is no such tracker, or its package is not installed.
    """
    global _current
    if not spec:
        yield
        return
    factory, argument = find_tracker(spec)
    _current = factory(argument, run, settings)
    try:
        yield
    finally:
        _current.close()
        _current = None


def find_tracker(spec: str) -> tuple[Factory, str]:
    """Return the tracker that ``KIND:ARGUMENT`` names, and the argument.

    Raises:
        UsageError: when there is no such kind, or its package is not installed.
    """
    kind, colon, argument = spec.partition(":")
    if not colon or not argument:
        raise UsageError(f"--track takes KIND:ARGUMENT, not '{spec}'.", hint="For example tensorboard:runs.")
    if kind in _KINDS:
        factory, package = _KINDS[kind]
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"--track {kind} needs the package {package}.", hint=f"pip install {package}")
        return factory, argument
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if kind not in points:
        raise UsageError(f"There is no tracker '{kind}'.", hint=did_you_mean(kind, [*_KINDS, *points]))
    found: Factory = points[kind].load()
    return found, argument


class _TensorBoard:
    def __init__(self, argument: str, run: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(argument) / run))
        self._writer.add_text(
            "settings", "\n".join(f"    {name}: {value}" for name, value in settings.items())
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, argument: str, run: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(project=argument, name=run, config=dict(settings), reinit=True)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, tuple[Factory, str]] = {
    "tensorboard": (_TensorBoard, "tensorboard"),
    "wandb": (_WeightsAndBiases, "wandb"),
}
"""With the package that each needs."""
