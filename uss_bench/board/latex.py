"""Boards as LaTeX tables, ready to paste: booktabs, best bold, second underlined."""

from __future__ import annotations

from itertools import groupby

from uss_bench.board import text
from uss_bench.board.model import Board, Measure, Row
from uss_bench.records import Refinement

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "–": "--",
    text.STALE: r"$^\dagger$",
    text.LABELLED: r"$^\ddagger$",
}


def render(board: Board) -> str:
    """Return a ``table`` environment that needs the package booktabs, and nothing else.

    Published numbers stand in it only if they are claims about the same experiment.
    """
    published = [row for row in board.rows if any(one.comparable for one in row.published)]
    columns = "l" + "r" * (len(board.scores) + 1) + ("l" if published else "")
    methods = [_line(row, board, bool(published)) for row in board.rows if not row.floor]
    floors = [_line(row, board, bool(published)) for row in board.rows if row.floor]
    body = [*methods, *([r"\midrule"] if methods and floors else []), *floors]
    lines = [
        rf"% {escape(board.title)}: \usepackage{{booktabs}}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(board)}}}",
        rf"  \label{{tab:{board.slug}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        *(f"    {line}" for line in _header(board, bool(published))),
        r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _header(board: Board, published: bool) -> list[str]:
    groups: list[tuple[Refinement, int]] = [
        (refinement, len(list(scores))) for refinement, scores in groupby(board.scores, lambda one: one[0])
    ]
    over, rules, start = ["", ""], [], 3
    for refinement, width in groups:
        over.append(rf"\multicolumn{{{width}}}{{c}}{{{text.REFINEMENTS[refinement]}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    under = ["Method", "$n$", *(text.METRICS[metric] for _, metric in board.scores)]
    if published:
        over.append("")
        under.append("Published Acc / mIoU")
    return [_join(over), " ".join(rules), _join(under)]


def _line(row: Row, board: Board, published: bool) -> str:
    cells = [escape(row.label + text.marks(row)), str(len(row.runs))]
    cells += [_score(row.measures.get(score)) for score in board.scores]
    if published:
        cells.append(_published(row))
    return _join(cells)


def _published(row: Row) -> str:
    if not row.published or not row.published[0].comparable:
        return escape(text.MISSING)
    nearest = row.published[0]
    return escape(f"{text.claim(nearest)} ({text.status(nearest)})")


def _score(measure: Measure | None) -> str:
    if measure is None:
        return escape(text.MISSING)
    mean = f"{measure.mean:.1f}"
    if measure.place == 1:
        mean = rf"\textbf{{{mean}}}"
    elif measure.place == 2:
        mean = rf"\underline{{{mean}}}"
    tied = "$^{=}$" if measure.tier == 1 and measure.place != 1 else ""
    spread = rf" {{\scriptsize$\pm${measure.sd:.1f}}}" if measure.sd is not None else ""
    return mean + tied + spread


def _caption(board: Board) -> str:
    parts = [
        f"{escape(board.key.dataset)} with backbone {escape(board.backbone)}, {escape(board.key.protocol)}.",
        f"{escape(text.data_line(board))}; {escape(text.seeds_line(board.rows))}, in percent.",
        "Best bold, second underlined",
    ]
    measures = [one for row in board.rows for one in row.measures.values()]
    if any(one.tier == 1 and one.place != 1 for one in measures):
        parts[-1] += "; $^{=}$ cannot be told from the best (paired bootstrap over images)"
    parts[-1] += "."
    parts += [f"{escape(remark)}." for remark in text.legend(board.rows)]
    if any(row.floor for row in board.rows):
        parts.append("Below the last rule: floors, which look at no feature.")
    return " ".join(parts)


def _join(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(words: str) -> str:
    """Return `words` so that LaTeX prints them as they are, on one line."""
    one_line = " ".join(words.split())
    return "".join(_SPECIAL.get(sign, sign) for sign in one_line if sign.isprintable())
