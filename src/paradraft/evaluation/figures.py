"""How a report looks: the page, tables, answers by round, and charts (figures as JSON, drawn by DRAW_SCRIPT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.io
from plotly.offline import get_plotlyjs  # type: ignore[attr-defined]

from ..files import make_directory, write_text
from .tables import RoundPiece

PALETTE = ("#4c7fb8", "#e0812f", "#3a9d7c", "#b3609f", "#c2a11f", "#7d8794", "#c2544d", "#5fa7b5")
ROUND_COLOURS = 4
Record = dict[str, Any]
NEAR, FAR = (58, 111, 190), (226, 134, 40)

STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #24272b; --soft: #626a73; --rule: #dcdfe3;
  --r0: #d3e5f7; --r1: #f9e2c8; --r2: #d2ecdd; --r3: #ecd9ef; }
@media (prefers-color-scheme: dark) { :root { --page: #191b1e; --ink: #e3e5e8; --soft: #a0a7b0; --rule: #373c42;
  --r0: #244463; --r1: #5b4021; --r2: #214b37; --r3: #512f58; } }
* { box-sizing: border-box; }
html { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
a { color: inherit; }
nav { columns: 18rem; font-size: .9rem; }
nav a { display: block; padding: .1rem 0; }
.note { color: var(--soft); font-size: .9rem; max-width: 50rem; margin: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.wrap { min-width: 7rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.pair > div, .plot { min-width: 0; }
pre, .answer { white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.7 ui-monospace, monospace; }
pre, .answer { margin: .7rem 0; }
.answer span, .legend span { padding: .1em 0; border-radius: .2em; box-decoration-break: clone; }
.r0 { background: var(--r0); } .r1 { background: var(--r1); }
.r2 { background: var(--r2); } .r3 { background: var(--r3); }
.answer u, .legend u { text-decoration-thickness: 2px; text-underline-offset: 3px; }
del { color: var(--soft); font-size: .8em; display: none; }
.legend del, label del { display: inline; }
section:has(.rejected:checked) .answer del { display: inline; }
"""

DRAW_SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const style = getComputedStyle(document.documentElement);
  const [ink, rule, page] = ["--ink", "--rule", "--page"].map(name => style.getPropertyValue(name).trim());
  const axis = {gridcolor: rule, linecolor: rule, zerolinecolor: rule, automargin: true};
  const template = {layout: {
    font: {color: ink, family: style.fontFamily, size: 13}, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis, margin: {l: 12, r: 12, t: 12, b: 12},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"}, dragmode: false,
    hoverlabel: {bgcolor: page, bordercolor: rule, font: {color: ink}},
  }};
  for (const place of document.querySelectorAll(".plot")) {
    const figure = JSON.parse(place.nextElementSibling.textContent);
    Plotly.react(place, figure.data, {...figure.layout, template}, {responsive: true, displayModeBar: false});
  }
}
draw();
dark.addEventListener("change", draw);
"""


@dataclass(frozen=True)
class PageSection:
    """A part of the page; `title` is plain text, `html` goes into the page as it is."""

    title: str
    html: str


@dataclass(frozen=True)
class Line:
    """One line of a chart; None in `y` is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    dash: str = "solid"


def write_page(title: str, sections: Sequence[PageSection], out: Path) -> None:
    """Write one HTML file that needs no other; `out` never holds an incomplete page."""
    make_directory(out.parent)
    write_text(out, page_html(title, sections))


def page_html(title: str, sections: Sequence[PageSection]) -> str:
    """The whole page, with plotly.js if there is a chart."""
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    parts = [f'<section id="s{i}"><h2>{escape(s.title)}</h2>{s.html}</section>' for i, s in enumerate(sections)]
    drawing = any('class="plot"' in section.html for section in sections)
    scripts = f"<script>{get_plotlyjs()}</script><script>{DRAW_SCRIPT}</script>" if drawing else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<nav>{links if len(sections) > 1 else ''}</nav>{''.join(parts)}{scripts}</body></html>\n"
    )


def rounds_section(title: str, prompt: str, pieces: Sequence[RoundPiece], note: str) -> PageSection:
    """An answer with one background a round; rejected drafts show on hover, or in the text when asked for.

    The first piece is what the prefill gave.
    """
    answer = []
    for i, piece in enumerate(pieces):
        tip = f"round {i}: {piece.drafted} drafted, {piece.kept} kept" if i else "came with the reading of the prompt"
        tip += f", rejected: {piece.rejected}" if piece.rejected else ""
        text = f"{escape(piece.accepted)}<u>{escape(piece.own)}</u>"
        rejected = f"<del>{escape(piece.rejected)}</del>" if piece.rejected else ""
        answer.append(
            f'<span class="r{(i - 1) % ROUND_COLOURS if i else "none"}" title="{escape(tip)}">{text}</span>{rejected}'
        )
    colours = "".join(f'<span class="r{i}">&nbsp;{i + 1}&nbsp;</span>' for i in range(ROUND_COLOURS))
    legend = (
        f'<p class="note legend">One background a round {colours}: drafts that were kept, then the target\'s '
        "<u>own token</u>. Hover over a round for how many were drafted and kept, and which were rejected.</p>"
    )
    box = '<input type="checkbox" class="rejected"> show rejected drafts in the text, <del>struck through</del>'
    head = f'<h3>Prompt</h3><pre>{escape(prompt)}</pre><h3>Answer</h3>{legend}<label class="note">{box}</label>'
    return PageSection(title, f'{head}<div class="answer">{"".join(answer)}</div>{remark(note)}')


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A table that scrolls sideways on a narrow screen; columns from `numbers_from` on are set to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["number" if i >= numbers_from else "wrap" for i in range(len(cells))]
        inner = "".join(f'<{tag} class="{k}">{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{inner}</tr>"

    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(line(row, "td") for row in rows)}</tbody></table></div>'


def remark(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def pair(left: str, right: str) -> str:
    """Two charts beside each other where the screen is wide enough."""
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'


def colour_of(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def ramp(count: int) -> list[str]:
    """`count` colours from blue to orange, for things in an order, such as draft positions."""
    shares = [i / max(1, count - 1) for i in range(count)]
    mixed = [[round(a + (b - a) * share) for a, b in zip(NEAR, FAR, strict=True)] for share in shares]
    return [f"rgb({r},{g},{b})" for r, g, b in mixed]


def plot(data: list[dict[str, Any]], layout: dict[str, Any], height: int, label: str) -> str:
    """The HTML of a figure: its place, then its data as JSON. ValueError if plotly does not know a property."""
    figure = {"data": data, "layout": layout | {"template": {}}}  # without it plotly adds 8 kB of its own style
    text = str(plotly.io.to_json(figure, validate=True)).replace("<", "\\u003c")
    return (
        f'<div class="plot" role="img" aria-label="{escape(label)}" style="height:{height}px"></div>'
        f'<script type="application/json">{text}</script>'
    )


def line_chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    percent: bool = False,
    marks: bool = False,
    ticks: Sequence[float] | None = None,
) -> str:
    """Lines over a shared x axis; `percent` reads y as a share, `marks` shows the points, for lines of few.

    With `ticks` the x axis is logarithmic, and these values are written under it.
    """
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if marks else "lines",
            "name": escape(line.name, quote=False),
            "x": list(line.x),
            "y": list(line.y),
            "line": {"color": line.colour, "dash": line.dash, "width": 2},
        }
        for line in lines
    ]
    x_axis: dict[str, Any] = {"title": {"text": x_title}}
    if ticks is not None:
        x_axis |= {"type": "log", "tickvals": list(ticks), "ticktext": [f"{tick:g}" for tick in ticks]}
    y_axis: dict[str, Any] = {"title": {"text": y_title}, "rangemode": "tozero"}
    if percent:
        y_axis |= {"tickformat": ".0%", "hoverformat": ".1%"}
    else:
        y_axis["hoverformat"] = ".4~g"
    layout = {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "hovermode": "x unified",
        "showlegend": len(lines) > 1,
    }
    return plot(data, layout, 360 + 20 * (len(lines) // 6), f"{y_title} over {x_title}")


def scalar_chart(steps: Sequence[Record], key: str, colour: int) -> str:
    line = Line(key, [r["step"] for r in steps], [r[key] for r in steps], colour_of(colour))
    return line_chart([line], "step", key.replace("_", " "))


def position_chart(steps: Sequence[Record], key: str, percent: bool) -> str:
    """A line for each draft position, from blue (the first) to orange (the last)."""
    x, columns = [r["step"] for r in steps], list(zip(*(r[key] for r in steps), strict=True))
    lines = [Line(str(k), x, y, c) for k, (y, c) in enumerate(zip(columns, ramp(len(columns)), strict=True), 1)]
    return line_chart(lines, "step", key, percent)


def bar_chart(
    groups: Mapping[str, Mapping[str, float | None]],
    y_title: str,
    reference: float,
    spreads: Mapping[str, Mapping[str, float | None]] | None = None,
) -> str:
    """{series: {category: value}} as bars side by side, with a dotted line at `reference`; `spreads` are whiskers."""
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": escape(name, quote=False),
            "x": [escape(category, quote=False) for category in values],
            "y": list(values.values()),
            "text": ["" if value is None else f"{value:.2f}" for value in values.values()],
            "textposition": "inside" if spreads else "outside",
            "insidetextanchor": "middle",
            "cliponaxis": False,
            "marker": {"color": colour_of(i)},
        }
        for i, (name, values) in enumerate(groups.items())
    ]
    for trace, name in zip(data, groups, strict=True):
        if spreads:
            whiskers = [spreads[name].get(category) for category in groups[name]]
            trace["error_y"] = {"type": "data", "array": whiskers, "color": "#7d8794"}
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": reference, "y1": reference}
    layout = {
        "barmode": "group",
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": y_title}, "rangemode": "tozero", "hoverformat": ".3~g"},
        "shapes": [line | {"line": {"dash": "dot", "width": 1.5, "color": "#7d8794"}}],
        "showlegend": True,
    }
    return plot(data, layout, 380, f"{y_title} by {', '.join(groups)}")


def share_chart(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """{row: {part: amount}} as one bar a row, its parts in per cent of the row's sum; amounts show on hover."""
    totals = {row: sum(parts.values()) or 1.0 for row, parts in rows.items()}
    names = list(dict.fromkeys(part for parts in rows.values() for part in parts))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [escape(row, quote=False).replace("\n", "<br>") for row in rows],
            "x": [parts.get(name, 0.0) / totals[row] for row, parts in rows.items()],
            "text": [f"{parts.get(name, 0.0) / totals[row]:.0%}" for row, parts in rows.items()],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "customdata": [parts.get(name, 0.0) for parts in rows.values()],
            "hovertemplate": f"%{{y}}: {name} %{{x:.1%}}, %{{customdata:.2f}} {unit}<extra></extra>",
            "marker": {"color": colour_of(i)},
        }
        for i, name in enumerate(names)
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"tickformat": ".0%", "range": [0, 1]},
        "yaxis": {"type": "category", "autorange": "reversed"},
        "showlegend": True,
    }
    return plot(data, layout, 110 + 48 * len(rows), f"shares of {', '.join(names)}")
