"""What can go wrong, as a person should read it.

::

    UssBenchError
    ├── UsageError         exit 2   a wrong name, option or parameter: the command must change
    ├── RunError           exit 1   the command was right and the work failed
    │   ├── DataError               a file is missing, unreadable or not what it claims to be
    │   ├── ContractError           a plugin broke the contract of `uss_bench.contracts`
    │   └── Diverged                a training loss became NaN or infinite
    └── RegressionError    exit 3   a number moved that should not have

Every error says *what* happened and, as `hint`, what to do about it. The command line prints both
and keeps the traceback for ``--debug``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UssBenchError(Exception):
    """Base of every error that uss-bench raises on purpose.

    Args:
        what: one sentence, naming the file, option or value concerned.
        hint: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class UsageError(UssBenchError):
    exit_code = 2


class RunError(UssBenchError):
    exit_code = 1


class DataError(RunError):
    pass


class ContractError(RunError):
    pass


class Diverged(RunError):
    pass


class RegressionError(UssBenchError):
    exit_code = 3


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" and the known names, for the hint of a wrong name."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=2, cutoff=0.5)
    listing = f"Known: {', '.join(names)}." if names else "None are known."
    if not close:
        return listing
    return f"Did you mean {' or '.join(repr(name) for name in close)}? {listing}"


@contextlib.contextmanager
def blame(who: str, step: str) -> Iterator[None]:
    """Turn whatever a plugin raises in `step` into an error that names the plugin; ours pass as they are."""
    try:
        yield
    except UssBenchError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise RunError(f"{who} ran out of memory in {step}.", hint="Lower batch_size.") from error
        raise ContractError(
            f"{who} failed in {step}: {type(error).__name__}: {shortened(str(error))}",
            hint="The traceback is shown with --debug.",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch could not have the memory that it asked for.

    Of a thread Python says only that it could not be started: its stack found no place, or a limit was met.
    """
    # torch's errors are told by name and by words, so that this module does not import torch.
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in said
        or "can't start new thread" in said
    )


def shortened(text: str, limit: int = 2000) -> str:
    """Return a text, or its beginning and how much is left out: messages of plugins have no end at times."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
