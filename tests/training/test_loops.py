"""Loops of training: one after another, one within another, left early, and what they must not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import ArrayImages, FakeBackbone
from torch import nn

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError
from uss_bench.features.store import FeatureStore
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext


class Killed(BaseException):
    """What ends a process in the middle, as far as the code that it ends can tell."""


class Method:
    """Runs a training loop, and can be killed at any of its ticks."""

    def __init__(
        self, train: Callable[[Method, RunContext], torch.Tensor], kill_at: int | None = None
    ) -> None:
        self._train = train
        self._kill_at = kill_at
        self.ticks: list[str] = []

    def tick(self, name: str) -> None:
        if self._kill_at == len(self.ticks):
            raise Killed
        self.ticks.append(name)

    def __call__(self, folder: Path) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        store = FeatureStore(folder, FakeBackbone(), device=torch.device("cpu"), log=lambda message: None)
        items = TransformedImages(ArrayImages.random(3, 9, 9), side=8, filter="nearest")
        self.context = RunContext(
            method=self,
            items=items,
            store=store,
            seed=0,
            scratch=folder,
            clock=Clock(),
            snapshot_seconds=0,
        )
        torch.manual_seed(3)
        return self._train(self, self.context)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


def one_after_another(method: Method, ctx: RunContext) -> torch.Tensor:
    """Three phases, of which each reads what the one before has learned."""
    codebook = torch.zeros(4)
    for step in ctx.steps(3, label="codebook", codebook=codebook):
        method.tick(f"codebook {step}")
        codebook += torch.rand(4)
    head = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for step in ctx.steps(4, label="head", head=head, optimizer=optimizer):
        method.tick(f"head {step}")
        optimizer.zero_grad()
        head(codebook + 0.1 * torch.rand(4)).square().sum().backward()
        optimizer.step()
        ctx.report(step, loss=head.weight.sum())
    probe = torch.zeros(4)
    with torch.no_grad():
        for step in ctx.steps(2, label="probe", probe=probe):
            method.tick(f"probe {step}")
            probe += head(codebook) * torch.rand(4)
    return probe.clone()


def epochs(method: Method, ctx: RunContext) -> torch.Tensor:
    """Epochs of two passes: centroids from the network, and the network from the centroids."""
    net = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for epoch in ctx.steps(3, label="epochs", net=net, optimizer=optimizer):
        centroids = torch.zeros(4)
        with torch.no_grad():
            for step in ctx.steps(2, label="k-means", centroids=centroids):
                method.tick(f"{epoch} k-means {step}")
                centroids += net(torch.rand(4))
        for step in ctx.steps(3, label="training", net=net, optimizer=optimizer):
            method.tick(f"{epoch} training {step}")
            optimizer.zero_grad()
            (net(torch.rand(4)) - centroids).square().sum().backward()
            optimizer.step()
            ctx.report(10 * epoch + step, loss=net.weight.sum())
    return net.weight.detach().clone()


TRAIN = {"one after another": one_after_another, "epochs": epochs}
TICKS = {"one after another": 9, "epochs": 15}


@pytest.mark.parametrize(("kind", "kill_at"), [(kind, at) for kind in TRAIN for at in range(TICKS[kind])])
def test_a_run_killed_in_any_loop_ends_as_one_that_was_not(tmp_path, kind, kill_at):
    whole = Method(TRAIN[kind])
    expected = whole(tmp_path / "whole")
    assert len(whole.ticks) == TICKS[kind]

    killed = Method(TRAIN[kind], kill_at)
    with pytest.raises(Killed):
        killed(tmp_path / "killed")
    again = Method(TRAIN[kind])
    assert torch.equal(again(tmp_path / "killed"), expected)
    assert again.ticks == whole.ticks[kill_at:], "no step is done twice"
    assert again.context.curves == whole.context.curves


def test_a_run_may_be_killed_again_and_again(tmp_path):
    whole = Method(epochs)
    expected = whole(tmp_path / "whole")
    ticks: list[str] = []
    while True:
        method = Method(epochs, kill_at=2)
        try:
            assert torch.equal(method(tmp_path / "killed"), expected)
            break
        except Killed:
            ticks += method.ticks
    assert ticks + method.ticks == whole.ticks


def test_snapshots_of_steps_that_are_done_go(tmp_path):
    Method(epochs)(tmp_path)
    assert [path.name for path in tmp_path.glob("*.snapshot")] == ["training-0.snapshot"]
    with pytest.raises(Killed):
        Method(epochs, kill_at=8)(tmp_path / "killed")
    names = sorted(path.name for path in (tmp_path / "killed").glob("*.snapshot"))
    assert names == ["training-0.2.0.snapshot", "training-0.2.1.snapshot", "training-0.snapshot"]


def left_early(method: Method, ctx: RunContext) -> torch.Tensor:
    value = torch.zeros(1)
    for _ in ctx.steps(10, value=value):
        method.tick("first")
        value += torch.rand(1)
        if value > 1:
            break
    for _ in ctx.steps(3, value=value):
        method.tick("second")
        value += 1
    return value.clone()


@pytest.mark.parametrize("kill_at", range(6))
def test_a_loop_may_be_left_early(tmp_path, kill_at):
    whole = Method(left_early)
    expected = whole(tmp_path / "whole")
    try:
        Method(left_early, kill_at)(tmp_path / "killed")
    except Killed:
        assert torch.equal(Method(left_early)(tmp_path / "killed"), expected)
    else:
        assert kill_at >= len(whole.ticks)


# --- Rebinding -------------------------------------------------------------------------------------


def rebinds_a_variable(method: Method, ctx: RunContext) -> None:
    prototypes = torch.zeros(3)
    for _ in ctx.steps(3, prototypes=prototypes):
        prototypes = prototypes + 1


def rebinds_an_attribute(method: Method, ctx: RunContext) -> None:
    Holder().train(ctx, rebind=True)


class Holder:
    def train(self, ctx: RunContext, *, rebind: bool) -> None:
        self.prototypes = torch.zeros(3)
        for _ in ctx.steps(3, prototypes=self.prototypes):
            if rebind:
                self.prototypes = self.prototypes + 1
            else:
                self.prototypes += 1


def rebinds_a_module(method: Method, ctx: RunContext) -> None:
    net = nn.Linear(2, 2)
    for step in ctx.steps(3, net=net):
        if step == 2:
            net = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("train", "name", "step"),
    [
        (rebinds_a_variable, "prototypes", 1),
        (rebinds_an_attribute, "self.prototypes", 1),
        (rebinds_a_module, "net", 2),
    ],
)
def test_binding_a_kept_name_anew_is_an_error_in_the_step_that_does_it(tmp_path, train, name, step):
    with pytest.raises(ContractError, match=f"'{name}' was bound to another object in step {step}"):
        Method(train)(tmp_path)


def changes_in_place(method: Method, ctx: RunContext) -> None:
    prototypes = torch.zeros(3)
    weights = prototypes
    for _ in ctx.steps(3, prototypes=prototypes, kept=weights):
        prototypes += 1
        loss = prototypes.sum()
        weights = loss  # not kept under this name
    Holder().train(ctx, rebind=False)


def advanced_elsewhere(method: Method, ctx: RunContext) -> None:
    net = nn.Linear(2, 2)

    def in_a_function(steps) -> None:
        for _ in steps:
            net = None  # another variable of the same name  # noqa: F841

    in_a_function(ctx.steps(3, net=net))


@pytest.mark.parametrize("train", [changes_in_place, advanced_elsewhere])
def test_what_is_changed_in_place_or_is_another_variable_is_no_error(tmp_path, train):
    Method(train)(tmp_path)
