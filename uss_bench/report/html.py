"""A report as one HTML file: no script, no network; light, dark and on paper."""

from __future__ import annotations

import base64
from html import escape

from uss_bench.plots.style import render
from uss_bench.report.document import Block, Code, Document, Picture, Section, Table, Text

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --dim: #5c6470; --line: #d9dde3; --shade: #f5f6f8;
  --page: #ffffff; --link: #00568a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --dim: #9aa3ae; --line: #3a414b;
  --shade: #20252c; --page: #15181d; --link: #7cc4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 60rem; background: var(--page);
  color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
nav ul { list-style: none; margin: 0; padding: 0; } nav li.sub { padding-left: 1.2rem; }
nav a { color: var(--link); text-decoration: none; } nav a:hover { text-decoration: underline; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid var(--dim); }
th.word, td.word { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
figure { margin: 1.2rem 0 1.6rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--dim); font-size: .87rem; padding-top: .45rem; max-width: 46rem; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: 4px; padding: .7rem .9rem;
  overflow-x: auto; font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #bbb; --shade: #fff;
  --page: #fff; --link: #000; } body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .wide { overflow: visible; } table { font-size: 8pt; } th, td { white-space: normal; padding-right: .5rem; }
  pre { white-space: pre-wrap; } tr, figure, pre { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


def to_html(document: Document) -> str:
    """Return the page; every text of the document is escaped."""
    sections = list(enumerate(document.sections))
    links = "\n".join(
        f"<li{'' if section.level == 2 else ' class=sub'}>"
        f'<a href="#s{number}">{escape(section.title)}</a></li>'
        for number, section in sections
    )
    body = "\n".join(_section(number, section) for number, section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(document.title)}</h1>\n<nav>\n<ul>\n{links}\n</ul>\n</nav>\n{body}\n</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    heading = f'<h{section.level} id="s{number}">{escape(section.title)}</h{section.level}>'
    return "\n".join(["<section>", heading, *map(_block, section.blocks), "</section>"])


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    return _table(block) if isinstance(block, Table) else _picture(block)


def _table(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        parts = []
        for index, cell in enumerate(cells):
            kind = ' class="word"' if index < table.labels else ""
            parts.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    caption = f"<figcaption>{escape(table.caption)}</figcaption>" if table.caption else ""
    head = f"<thead>{row(list(table.headers), 'th')}</thead>" if any(table.headers) else ""
    body = "\n".join(row(list(cells), "td") for cells in table.rows)
    return f'<figure><div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>{caption}</figure>'


def _picture(picture: Picture) -> str:
    if isinstance(picture.content, bytes):
        kind, content, width = "image/png", picture.content, ""
    else:
        kind, content = "image/svg+xml", render(picture.content, "svg")
        # A column's figure is drawn for 3.25 inches of paper; a screen is read from further away.
        width = f' width="{round(130 * picture.content.get_figwidth())}"'
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img src="data:{kind};base64,{data}" alt="{escape(picture.caption)}"{width}>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
