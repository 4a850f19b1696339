"""``uss-bench cache``: what lies in the cache, whether it is sound, and deleting it."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import FiniteRange, common
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.formatting import byte_size

if TYPE_CHECKING:
    from uss_bench.features.cache import Contents, Part

_DAY = 24 * 3600

EPILOG = """\b
Examples:
  uss-bench cache du
  uss-bench cache verify
  uss-bench cache prune --partial
  uss-bench cache prune --older 30 --yes
"""


@click.group("cache", epilog=EPILOG, short_help="Show, check and empty the cache.")
def command() -> None:
    """Show, check and empty the cache: features, what was derived from them, trained states, digests.

    The cache lies in the folder that USS_BENCH_CACHE names, or in the user's cache folder. Everything in it
    can be made again. Downloaded weights lie where torch.hub keeps them, not here.
    """


@command.command("du", short_help="Show the parts of the cache.")
@common
def du(registry: Registry) -> None:
    """Show the parts of the cache with backbone, images, size and age, and whether they are complete.

    Images are named by a digest: a store does not know a dataset's name.
    """
    from uss_bench.features.cache import survey
    from uss_bench.files.atomic import cache_root

    contents = survey(cache_root())
    click.echo(f"{click.style(str(contents.root), bold=True)}\n")
    if contents.parts:
        click.echo(f"{_table(contents.parts)}\n")
    click.echo(_total(contents))


@command.command("verify", short_help="Read every file of the cache and name the first wrong one.")
@common
def verify(registry: Registry) -> None:
    """Read every file of the cache, compare size and checksum with the recorded ones, and name wrong files.

    Exits with 1 when there are any.
    """
    from uss_bench.features import cache_verification
    from uss_bench.features.cache import survey
    from uss_bench.files.atomic import cache_root
    from uss_bench.runtime import progress

    contents = survey(cache_root())
    with progress.bar(total=sum(part.bytes for part in contents.parts), label="cache", unit="B") as bar:
        faults = list(cache_verification.verify(contents, bar.update))
    if faults:
        for fault in faults[1:]:
            click.echo(f"{fault.path}: {fault.what}")
        first, more = faults[0], f" And {len(faults) - 1} more, listed above." if len(faults) > 1 else ""
        raise DataError(
            f"{first.path} is damaged: {first.what}.{more}",
            hint="Nothing is lost: the next run that needs it makes it again, and only it. "
            "If that happens twice, suspect the disk or the memory.",
        )
    click.echo(f"All {_count(contents.parts, 'part')} of the cache are sound: {contents.root}")
    for part in contents.parts:
        if part.missing:
            click.echo(f"  unfinished: {part.path} ({part.missing})")


@command.command("prune", short_help="Delete parts of the cache.")
@click.option("--older", type=FiniteRange(0), metavar="DAYS", help="Delete parts older than this many days.")
@click.option("--partial", is_flag=True, help="Delete incomplete parts.")
@click.option("--all", "everything", is_flag=True, help="Delete everything that uss-bench wrote there.")
@click.option("--yes", is_flag=True, help="Delete; without it, parts are only listed.")
@common
def prune(registry: Registry, older: float | None, partial: bool, everything: bool, yes: bool) -> None:
    """Delete parts of the cache, or list what would be deleted. --older and --partial together mean both.

    Parts that a running extraction or training holds are kept. A run that only reads holds nothing, so prune
    while none runs. The age of a trained state is counted from its last use. Links are not followed, and
    files that uss-bench did not write are never deleted.
    """
    if not everything and older is None and not partial:
        raise UsageError("Nothing is named to delete.", hint="Add --partial, --older DAYS or --all.")
    if everything and (older is not None or partial):
        raise UsageError("--all deletes everything, and --older and --partial limit it.", hint="Choose one.")

    from uss_bench.features.cache import delete, is_held, survey
    from uss_bench.files.atomic import cache_root

    before = time.time() - (older or 0.0) * _DAY

    def wanted(part: Part) -> bool:
        return (older is None or part.modified < before) and bool(part.missing or not partial)

    contents = survey(cache_root())
    chosen = [part for part in contents.parts if wanted(part)]
    if not chosen:
        click.echo(f"Nothing of that kind lies in {contents.root}.")
        return
    if yes:
        gone = [part for part in chosen if delete(contents, part, wanted)]
    else:
        gone = [part for part in chosen if not is_held(part)]
    left = [part for part in chosen if part not in gone]
    if gone:
        click.echo(f"{_table(gone)}\n")
    for part in left:
        click.echo(f"left alone, because a running process holds it: {part.path}")
    total = f"{_count(gone, 'part')}, {byte_size(sum(part.bytes for part in gone))}"
    click.echo(f"Deleted {total}." if yes else f"Would delete {total}. Nothing was deleted: add --yes.")


def _table(parts: list[Part]) -> str:
    from uss_bench.cli.output.tables import table

    rows: list[tuple[str, ...]] = []
    shown: set[tuple[str, str]] = set()
    for part in sorted(parts, key=_order):
        group = (part.key, part.kind)
        if part.kind != "features" and group in shown:
            continue
        # Derived arrays and digests are named by digests only: one row for all of a folder.
        alike = [part] if part.kind == "features" else [one for one in parts if (one.key, one.kind) == group]
        is_first = all(key != part.key for key, _ in shown)
        rows.append(
            (
                part.key[:8] if is_first else "",
                *(_about(part) if is_first else ("", "", "")),
                part.path.name if part.kind == "features" else _count(alike, _NAMES[part.kind]),
                f"{part.items:,}" if part.kind == "features" else "",
                byte_size(sum(one.bytes for one in alike)),
                _age(max(one.modified for one in alike)),
                part.missing or "complete",
            )
        )
        shown.add(group)
    headers = ("key", "backbone", "images", "at", "what", "items", "size", "written", "state")
    return table(rows, headers, align="lllllrrrl")


_NAMES = {
    "derived": "derived array",
    "state": "trained state",
    "digests": "file of digests",
    "leftover": "leftover",
}


def _order(part: Part) -> tuple[bool, str, int, str]:
    kinds = ("features", "derived", "leftover", "state", "digests")
    return not part.key, part.key, kinds.index(part.kind), part.path.name


def _about(part: Part) -> tuple[str, str, str]:
    """Return backbone, images and geometry, or method and seed, as far as they were noted."""
    about = part.about
    if part.kind == "state":
        backbone, images = about.get("backbone", {}).get("name", "?"), str(about.get("images", "?"))
        return backbone, images[:8], f"{about.get('method', '?')}, seed {about.get('seed', '?')}"
    if part.kind != "features":
        return "", "", ""
    side = "whole" if "whole" in about else f"{about.get('side', '?')} px"
    extras = ["5 crops"] * (about.get("crops") == 5) + ["flips"] * bool(about.get("flips"))
    return str(about.get("backbone", "?")), str(about.get("images", "?"))[:8], ", ".join([side, *extras])


def _total(contents: Contents) -> str:
    lines = []
    for label, kind in (
        ("features", "features"),
        ("derived from them", "derived"),
        ("trained states", "state"),
        ("digests of images", "digests"),
        ("leftovers", "leftover"),
    ):
        found = [part for part in contents.parts if part.kind == kind]
        if found:
            lines.append((label, byte_size(sum(part.bytes for part in found))))
    for path, size in contents.unknown_files:
        lines.append((f"not of uss-bench: {path.relative_to(contents.root)}", byte_size(size)))
    lines += [(f"a link, not followed: {path.relative_to(contents.root)}", "") for path in contents.links]
    if not lines:
        return "The cache is empty."
    width = max(len(label) for label, _ in lines)
    rows = [f"{label:<{width}}  {size:>9}".rstrip() for label, size in lines]
    free = byte_size(shutil.disk_usage(contents.root).free)
    return "\n".join([*rows, f"{'free on this disk':<{width}}  {free:>9}"])


def _count(found: list[Part], name: str) -> str:
    """Count in words: ``1 file of digests``, ``2 files of digests``."""
    first, _, rest = name.partition(" of ")
    plural = first if len(found) == 1 else f"{first}s"
    return f"{len(found)} {plural}" + (f" of {rest}" if rest else "")


def _age(modified: float) -> str:
    seconds = max(time.time() - modified, 0.0)
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.0f} days ago"
    return f"{seconds / 3600:.0f} h ago" if seconds >= 3600 else f"{seconds / 60:.0f} min ago"
