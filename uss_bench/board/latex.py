"""Boards as LaTeX tables, ready to paste: booktabs, best bold, second underlined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from uss_bench.board import text
from uss_bench.board.headline import headline
from uss_bench.board.model import Board, Measure, Row
from uss_bench.results.scores import METRICS, REFINEMENTS
from uss_bench.runtime.formatting import MISSING

_SPECIAL = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}#$%&_"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        "±": r"$\pm$",
        "²": r"\textsuperscript{2}",
        "→": r"$\to$",
        "·": r"$\cdot$",
        "–": "--",
        text.STALE: r"$^\dagger$",
        text.LABELED: r"$^\ddagger$",
    }
)


def render(board: Board) -> str:
    """Return a ``table`` environment that needs the package booktabs, and nothing else.

    Published numbers stand in it only if they are claims about the same experiment.
    """
    published = any(row.published and row.published[0].comparable for row in board.rows)
    methods = [_line(row, board, published) for row in board.every_row if not row.floor]
    floors = [_line(row, board, published) for row in board.rows if row.floor]
    lines = [
        rf"% {escape(board.title)}: \usepackage{{booktabs}}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(board)}}}",
        rf"  \label{{tab:{board.slug}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(board.scores) + 1)}{'l' * published}}}",
        r"    \toprule",
        *_header(board, published),
        r"    \midrule",
        *methods,
        *([r"    \midrule"] if methods and floors else []),
        *floors,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def render_overview(boards: Sequence[Board]) -> str:
    """Return one table of all methods on all datasets, as papers have it; '' for fewer than two datasets.

    Columns are pairs of accuracy and mIoU, refined where anything is. Published numbers stand below a rule of
    their own, whatever they were measured under.
    """
    found = headline(boards)
    if found is None:
        return ""
    lines = [_overview_line(title, rows, found.boards) for title, floor, rows in found.rows if not floor]
    floors = [_overview_line(title, rows, found.boards) for title, floor, rows in found.rows if floor]
    claims = [line for title, _, rows in found.rows if (line := _claims_line(title, rows))]
    names = [rf"\multicolumn{{2}}{{c}}{{{escape(board.key.dataset)}}}" for board in found.boards]
    backbones = [rf"\multicolumn{{2}}{{c}}{{\scriptsize {escape(board.backbone)}}}" for board in found.boards]
    rules = " ".join(rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(names)))
    groups = [group for group in (lines, floors, claims) if group]
    body = [line for i, group in enumerate(groups) for line in ([r"    \midrule"] * (i > 0) + group)]
    return "\n".join(
        [
            r"% all datasets: \usepackage{booktabs}",
            r"\begin{table*}",
            r"  \centering",
            r"  \caption{Accuracy and mIoU in percent, mean over seeds. Best bold, second underlined; "
            r"$^{=}$ cannot be distinguished from the best. Columns are not comparable with each other."
            + (" Below the last rule: as published, under other protocols." if claims else "")
            + "}",
            r"  \label{tab:overview}",
            rf"  \begin{{tabular}}{{l{'rr' * len(names)}}}",
            r"    \toprule",
            _join(["", *names]),
            _join(["", *backbones]),
            f"    {rules}",
            _join(["Method", *[name for _ in names for name in METRICS.values()]]),
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _overview_line(title: str, rows: Sequence[Row | None], boards: Sequence[Board]) -> str:
    cells = [
        _score(row.measures.get((board.primary[0], metric)) if row else None).partition(r" {\scriptsize")[0]
        for row, board in zip(rows, boards, strict=True)
        for metric in METRICS
    ]
    return _join([escape(title), *cells])


def _claims_line(title: str, rows: Sequence[Row | None]) -> str:
    """Return what papers claim for a method, or '' where no paper claims anything for it."""
    nearest = [row.published[0] if row and row.published else None for row in rows]
    if not any(nearest):
        return ""
    source = next(one.claim.paper for one in nearest if one)
    cells = [escape(one.printed[metric]) if one else escape(MISSING) for one in nearest for metric in METRICS]
    return _join([escape(f"{title} (published, {source})"), *cells])


def _header(board: Board, published: bool) -> list[str]:
    over, rules, start = ["", ""], [], 3
    for refinement, scores in groupby(board.scores, lambda one: one[0]):
        width = len(list(scores))
        over.append(rf"\multicolumn{{{width}}}{{c}}{{{REFINEMENTS[refinement]}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    under = ["Method", "$n$", *(METRICS[metric] for _, metric in board.scores)]
    if published:
        over.append("")
        under.append("Published Acc / mIoU")
    return [_join(over), f"    {' '.join(rules)}", _join(under)]


def _line(row: Row, board: Board, published: bool) -> str:
    indent = r"\quad " if row.changes else ""
    cells = [indent + escape((row.changes or row.title) + text.marks(row)), str(len(row.runs))]
    cells += [_score(row.measures.get(score)) for score in board.scores]
    if published:
        nearest = next((one for one in row.published[:1] if one.comparable), None)
        cells.append(escape(f"{text.claim(nearest)} ({text.status(nearest)})" if nearest else MISSING))
    return _join(cells)


def _score(measure: Measure | None) -> str:
    mean, _, spread = text.mean(measure).partition(" ± ")
    if measure is None:
        return escape(mean)
    if emphasis := {1: r"\textbf", 2: r"\underline"}.get(measure.place or 0):
        mean = f"{emphasis}{{{mean}}}"
    tied = "$^{=}$" if measure.tier == 1 and measure.place != 1 else ""
    return mean + tied + (rf" {{\scriptsize$\pm${spread}}}" if spread else "")


def _caption(board: Board) -> str:
    measures = [one for row in board.rows for one in row.measures.values()]
    settings = any(row.variants for row in board.rows)
    tied = any(one.tier == 1 and one.place != 1 for one in measures)
    parts = [
        f"{escape(board.key.dataset)} with backbone {escape(board.backbone)}, {escape(board.key.protocol)}.",
        f"{escape(text.data_line(board))}; {escape(text.seeds_line(board.rows))}, in percent.",
        "Best bold, second underlined"
        + ("; $^{=}$ cannot be distinguished from the best (paired bootstrap over images)." if tied else "."),
        *(f"{escape(remark)}." for remark in text.legend(board.every_row)),
    ]
    if settings:
        parts.append("Indented: other settings of the method above, which are not ranked.")
    if any(row.floor for row in board.rows):
        parts.append("Below the last rule: floors, which look at no feature.")
    return " ".join(parts)


def _join(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def escape(words: str) -> str:
    """Return `words` so that LaTeX prints them as they are, on one line."""
    one_line = " ".join(words.split())
    return "".join(sign for sign in one_line if sign.isprintable()).translate(_SPECIAL)
