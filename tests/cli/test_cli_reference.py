"""The command line as a whole: what its reference shows, and options that mean the same everywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from uss_bench.cli import cli

BUILD = Path(__file__).parents[2] / "docs" / "build.py"


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))


COMMANDS = dict(commands(cli))


def test_the_reference_shows_the_help_of_every_command_and_of_those_below_it():
    spec = importlib.util.spec_from_file_location("docs_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    lines = build.cli_reference().splitlines()
    assert {"board build", "plot sensitivity", "audit records", "check method", "regress golden"} < set(
        COMMANDS
    )
    for words, command in COMMANDS.items():
        if words:
            assert lines.count(f"{'#' * (1 + len(words.split()))} {words}") == 1
            usage = f"Usage: uss-bench {words} "
            assert sum(line.startswith(usage) for line in lines) >= 1, usage
        assert command.get_short_help_str(200)


@pytest.mark.parametrize(
    "words",
    [
        words
        for words in COMMANDS
        if words.split()[:1] in (["compare"], ["errors"], ["board"], ["audit"], ["report"], ["plot"])
        and not isinstance(COMMANDS[words], click.Group)
    ],
)
def test_commands_about_records_look_for_them_in_the_same_place(words):
    options = [one for one in COMMANDS[words].params if one.name == "folders"]
    (reference,) = (one for one in COMMANDS["compare"].params if one.name == "folders")
    for option in options:
        assert isinstance(option, click.Option)
        assert isinstance(reference, click.Option)
        assert option.opts == ["--records"]
        assert (option.multiple, option.default, option.help) == (True, reference.default, reference.help)
        assert list(option.default) == ["results"]
    assert options or words in ("plot studies",)
