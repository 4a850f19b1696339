"""Commands in records: every option of the two commands that make records is read back."""

from __future__ import annotations

import click
import pytest

from uss_bench.cli.commands.run import command as run
from uss_bench.cli.commands.study import command as study
from uss_bench.experiment.command_line import read_command, with_all_seeds


def options(command: click.Command) -> list[click.Option]:
    return [
        one for one in command.params if isinstance(one, click.Option) and one.name not in ("help", "plan")
    ]


@pytest.mark.parametrize(("job", "command"), [("run", run), ("study", study)])
def test_every_option_is_read(job, command):
    for option in options(command):
        flag = max(option.opts, key=len)
        words = flag if option.is_flag else f"{flag} {_value(option)}"
        read_command(f"uss-bench {job} {'' if job == 'run' else 'fig'} {words}")


@pytest.mark.parametrize("option", options(run), ids=lambda option: option.name)
def test_values_are_those_that_click_reads(option):
    if option.is_flag or option.name in ("launcher_config", "launcher_pairs", "plugin"):
        pytest.skip("it says nothing of what was run")
    words = [max(option.opts, key=len), _value(option)]
    read = read_command("uss-bench run " + " ".join(words))
    name = {"crf_engine": "crf", "snapshot_seconds": "snapshot_every"}.get(option.name, option.name)
    assert read[name] == run.make_context("run", words).params[option.name]


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[0])
    return "3" if isinstance(option.type, click.types.IntRange | click.types.FloatRange) else "a=1"


def test_a_value_may_follow_an_equals_sign():
    assert read_command("uss-bench run --seed=3 --set=a=1")["seed"] == 3
    assert read_command("uss-bench run --set=a=1 --set b=2")["set_pairs"] == ("a=1", "b=2")


@pytest.mark.parametrize(
    ("seeds", "given"),
    [
        ([0, 1, 2], ["--seeds 3"]),
        ([2, 1], ["--seed 1 --seeds 2"]),
        ([0, 2], ["--seed 0", "--seed 2"]),
        ([1, 1], ["--seed 1"]),
        ([10, 1, 11], ["--seed 1", "--seed 10", "--seed 11"]),
    ],
)
def test_commands_that_differ_in_the_seed_are_one(seeds, given):
    line = "uss-bench run --method dino --set seed_of=3 {} --out results"
    commands = [line.format(f"--seed {seed}") for seed in seeds]
    assert with_all_seeds(commands) == [line.format(words) for words in given]
    assert with_all_seeds([*commands, "uss-bench run --seeds 3"])[-1] == "uss-bench run --seeds 3"
    last = [f"uss-bench run --seed {seed}" for seed in seeds]
    assert with_all_seeds(last) == [f"uss-bench run {words}" for words in given]


@pytest.mark.parametrize("one", ["--seeds 1 --seed {}", "--seed {} --seeds 1"])
def test_a_number_of_one_is_no_second_number(one):
    commands = [f"uss-bench study a {one.format(seed)} --out results" for seed in range(3)]
    assert with_all_seeds(commands) == ["uss-bench study a --seeds 3 --out results"]


@pytest.mark.parametrize("commands", [["a --seeds 2 --seed 0", "a --seeds 2 --seed 1"], ["a", "a --seed 1"]])
def test_commands_for_other_numbers_of_seeds_stay_as_they_are(commands):
    assert with_all_seeds(commands) == commands
