"""A warm process that runs each command in a forked child, so that hundreds can be killed in minutes.

It imports all that a run needs, once, and reads requests from standard input, one JSON object a line:
``{"argv": […], "env": {…}, "said": PATH, "prelude": [[NAME, {…}], …]}`` forks a child, which calls functions
of `preludes.py` by name and then the command line; ``{"wait": PID, "seconds": S}`` reaps one. Every
answer is one line. `Bench` of `harness.py` speaks to it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def warm_up() -> None:
    """Import and compile what runs use. No thread may be left behind: a fork would lose it."""
    # Shards of three items, so that the few items of these runs fill several.
    import uss_bench.features.shards

    uss_bench.features.shards.ITEMS_PER_SHARD = 3

    import numpy as np
    import torch

    torch.set_num_threads(1)
    import uss_bench.board.files
    import uss_bench.cli
    import uss_bench.cli.output.summary
    import uss_bench.cli.run_options
    import uss_bench.experiment.runner
    import uss_bench.experiment.setup
    import uss_bench.features.cache
    import uss_bench.plots.curves
    import uss_bench.plots.panels
    import uss_bench.plugins.registry
    from uss_bench.crf import refine
    from uss_bench.plots import style

    "".encode("cp437")  # of zip files: whoever gives root up may not read Python's own modules any more
    refine(np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.float32))
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()  # imports half of torch
    with style.figure("column", height=1) as canvas:
        canvas.subplots().set_title("fonts")
    style.render(canvas, "png")
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads"
    gc.freeze()


def run(request: dict[str, Any]) -> None:
    """Become the command; does not return."""
    code = 70  # the child broke before the command could answer
    try:
        os.setsid()
        said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(request["env"])
        sys.argv = ["uss-bench", *request["argv"]]
        import preludes

        for name, options in request["prelude"]:
            getattr(preludes, name)(**options)
        from uss_bench.cli import main

        main()
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reap(pid: int, seconds: float) -> int | None:
    """Return a child's exit code, negative for a signal; None when it has not ended in time."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        select.select([], [], [], 0.002)  # unlike time.sleep, not confused by a clock that is set back


def serve() -> None:
    warm_up()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = reap(request["wait"], request["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                run(request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
