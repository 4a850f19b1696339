"""What tests share: a cache of their own, the plugins of the tests, and whole runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import timm
import torch
from running import PLUGINS, Run

from uss_bench.cli import main
from uss_bench.files.atomic import cache_root
from uss_bench.plugins.registry import ENVIRONMENT_VARIABLE, Registry
from uss_bench.results.states import STATES


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache, and the user's plugins out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(ENVIRONMENT_VARIABLE, raising=False)
        torch.set_num_threads(1)  # the tensors are too small to share between cores
        yield


@pytest.fixture(autouse=True)
def untrained(isolated: None) -> None:
    """Forget the trained states of other tests: a cell that a test runs is trained in it."""
    shutil.rmtree(cache_root() / STATES, ignore_errors=True)


@pytest.fixture(autouse=True)
def imported_once() -> Iterator[None]:
    """Put back the plugins' modules that a test imported again: other tests hold on to the first ones."""
    before = {name: one for name, one in sys.modules.items() if name.startswith("uss_bench_plugins")}
    yield
    sys.modules.update(before)


@pytest.fixture
def registry() -> Registry:
    """The built-in plugins and those of the tests."""
    return Registry([PLUGINS])


@pytest.fixture
def run(registry: Registry, tmp_path: Path) -> Run:
    return Run(registry, tmp_path)


@pytest.fixture(scope="session")
def random_vit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The options that ask for a small ViT of twelve blocks, with random weights from a file."""
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=0).state_dict()
    # timm's initial matrices are so small that all tokens look alike; larger ones tell patches apart.
    state = {key: value * 3 if value.ndim == 2 else value for key, value in state.items()}
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file(state, path)
    return {"backbone": name, "weights": path, "backbone_name": "random-vit"}


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run ``uss-bench`` with some arguments, in this process."""

    def command(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["uss-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return Said(int(exit.value.code or 0), *capsys.readouterr())

    return command


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of spoilt files, when more than the usual few were read."""
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing is not None and fuzzing.TIMES > 1:
        terminalreporter.section(f"spoilt files, USS_BENCH_FUZZ={fuzzing.TIMES}")
        terminalreporter.write_line(fuzzing.table())
