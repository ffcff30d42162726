"""Draws charts as SVG that stands inside a page: its colours are the page's, its texts are texts.

Fonts are the reader's, so room for texts is reckoned, not measured. A text is data: none is taken for mathematics or
mark-up.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sfworker.report.tables import cell, shown

Number = float | None
Point = tuple[float, float]

WIDTH = 7.2
MOST_BARS = 40
_ROW = 0.27
_CHARACTER = 0.077
"""Inches that half a Chinese character takes, at most."""
_LONGEST_LABEL = 30
_PIXELS = 1.45
"""Of a point, where there is room."""
_ANNOTATED = 12
"""Columns of a heat map, at most, whose cells have room for figures."""
_MOST_NAMED = 60

INK, MUTED, RULE, PAPER = "#0000f1", "#0000f2", "#0000f3", "#0000f4"
SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    **{each: f"--series-{n}" for n, each in enumerate(SERIES, 1)},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sfworker",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#2b6cb0", "#f7f7f5", "#c2571a"]).with_extremes(
    bad="#9a9a9a"
)


def lines(
    series: Mapping[str, Sequence[Point]],
    across: str,
    up: str,
    *,
    diagonal: bool = False,
    level: tuple[float, str] | None = None,
    marks: Sequence[tuple[Point, Point]] = (),
    points_only: Sequence[str] = (),
    percent: str = "",
) -> str:
    """Draw lines through points. `marks` are dotted; `percent` names the axes, of `x` and `y`, that are shares."""
    with _chart(3.9) as (figure, finish):
        axes = _axes(figure, left=0.75, bottom=0.6, top=0.35)
        if diagonal:
            axes.axline((0, 0), (1, 1), color=MUTED, linewidth=1, linestyle="--")
        if level is not None:
            axes.axhline(level[0], color=MUTED, linewidth=1, linestyle="--", label=level[1])
        for start, end in marks:
            axes.plot(*zip(start, end, strict=True), color=MUTED, linewidth=1.4, linestyle=":")
        for number, (name, points) in enumerate(series.items()):
            style = {"linestyle": "none"} if name in points_only else {"linewidth": 1.8}
            x, y = [each[0] for each in points], [each[1] for each in points]
            axes.plot(x, y, color=SERIES[number], label=_short(name), marker="o", markersize=4, **style)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _count(axes, [x for points in series.values() for x, _ in points])
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in percent:
                axis.set_major_formatter(PercentFormatter(1.0))
                getattr(axes, f"set_{name}lim")(-0.02, 1.02)
        _legend(axes, len(series) + (level is not None))
        return finish()


def bars(
    labels: Sequence[str],
    parts: Mapping[str, Sequence[Number]],
    across: str,
    *,
    guides: Sequence[float] = (),
    ends: Sequence[str] | None = None,
) -> str:
    """Draw a lying bar for each label, or several beside each other.

    `guides` are values that are commonly compared with; `ends` is what stands at the end of each bar, by default its
    value where it is one for each label.
    """
    if ends is None and len(parts) == 1:
        ends = [cell(value) for values in parts.values() for value in values]
    with _chart(1.0 + _ROW * (0.25 + 0.75 * len(parts)) * max(len(labels), 2)) as (figure, finish):
        axes = _axes(figure, left=_room(labels), bottom=0.6, top=0.35, right=_room(ends or ()))
        thick = 0.72 / len(parts)
        for number, (name, values) in enumerate(parts.items()):
            at = [row + (number - (len(parts) - 1) / 2) * thick for row in range(len(labels))]
            axes.barh(at, [value or 0.0 for value in values], thick, color=SERIES[number], label=_short(name))
        for guide in guides:
            axes.axvline(guide, color=MUTED, linewidth=1, linestyle="--")
        drawn = [0.0, *guides, *(value or 0.0 for values in parts.values() for value in values)]
        _count(axes, drawn)
        span = (max(drawn) - min(drawn)) or 1.0
        axes.set_xlim(min(drawn) - (0.12 * span if min(drawn) < 0 else 0), max(drawn) + 0.03 * span)
        for row, end in enumerate(ends or ()):
            axes.annotate(
                _short(end),
                (max(0.0, *(values[row] or 0.0 for values in parts.values())), row),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                annotation_clip=False,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
            )
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(across)
        _legend(axes, len(parts))
        return finish()


def columns(
    ranges: Sequence[tuple[float, float]], parts: Mapping[str, Sequence[float]], across: str, up: str, *, even: bool
) -> str:
    """Draw standing bars over ranges of numbers: as wide as these, or all alike where `even`."""
    with _chart(3.6) as (figure, finish):
        axes = _axes(figure, left=0.85, bottom=0.95 if even else 0.6, top=0.35)
        lefts: list[float] = [float(n) for n in range(len(ranges))] if even else [left for left, _ in ranges]
        widths = [0.9 if even else right - left for left, right in ranges]
        bases = [0.0] * len(ranges)
        for number, (name, heights) in enumerate(parts.items()):
            axes.bar(
                lefts,
                heights,
                widths,
                bases,
                align="edge",
                color=SERIES[number],
                label=_short(name),
                edgecolor=RULE,
                linewidth=0.5,
            )
            bases = [base + height for base, height in zip(bases, heights, strict=True)]
        if even:
            step = math.ceil(len(ranges) / 16)
            ticks = range(0, len(ranges), step)
            texts = [f"{cell(ranges[n][0])} - {cell(ranges[n][1])}" for n in ticks]
            axes.set_xticks(
                [n + 0.45 for n in ticks], texts, rotation=35, rotation_mode="anchor", ha="right", fontsize=7.5
            )
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _legend(axes, len(parts))
        return finish()


def heat(labels: Sequence[str], matrix: Sequence[Sequence[Number]]) -> str:
    """Draw a square of figures from -1 to 1; those that are missing are grey."""
    named = len(labels) <= _MOST_NAMED
    size = 8 if len(labels) <= 30 else 5.5
    room = _room(labels) * size / 9 if named else 0.4
    side = min(WIDTH - room - 0.9, max(1.2, 0.5 * len(labels)))
    with _chart(side + room + 0.2, room + side + 0.9) as (figure, finish):
        width, height = figure.get_size_inches()
        axes = figure.add_axes((room / width, room / height, side / width, side / height))
        values = [[math.nan if value is None else value for value in row] for row in matrix]
        image = axes.imshow(values, _DIVERGING, vmin=-1, vmax=1, interpolation="none", aspect="auto")
        place = ((room + side + 0.15) / width, room / height, 0.14 / width, side / height)
        bar = figure.colorbar(image, cax=figure.add_axes(place))
        bar.set_ticks([-1, -0.5, 0, 0.5, 1])
        bar.outline.set_visible(False)  # type: ignore[operator]
        ticks = range(len(labels)) if named else []
        texts = [_short(label) for label in labels] if named else []
        axes.set_xticks(ticks, texts, rotation=90, rotation_mode="anchor", ha="right", va="center", fontsize=size)
        axes.set_yticks(ticks, texts, fontsize=size)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if len(labels) <= _ANNOTATED:
            for row, line in enumerate(matrix):
                for column, value in enumerate(line):
                    colour = "#ffffff" if value is None or abs(value) > 0.65 else "#1a1a1a"
                    text = "-" if value is None else f"{value:.2f}"
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
        return finish()


def boxes(labels: Sequence[str], figures: Sequence[tuple[float, float, float, float, float, Number]]) -> str:
    """Draw where quartiles and mean lie between the smallest and the largest value, which are the ends for each."""
    with _chart(1.0 + _ROW * max(len(labels), 2)) as (figure, finish):
        axes = _axes(figure, left=_room(labels), bottom=0.6, top=0.35, right=0.3)
        for row, (low, first, middle, third, high, mean) in enumerate(figures):
            span = (high - low) or 1.0
            q1, q2, q3 = ((each - low) / span for each in (first, middle, third))
            axes.plot([0, 1], [row, row], color=MUTED, linewidth=1)
            axes.add_patch(Rectangle((q1, row - 0.3), q3 - q1, 0.6, facecolor=SERIES[0], edgecolor=SERIES[0]))
            axes.plot([q2, q2], [row - 0.3, row + 0.3], color=INK, linewidth=2, label="median" if not row else None)
            if mean is not None:
                axes.plot(
                    [(mean - low) / span],
                    [row],
                    color=SERIES[1],
                    marker="D",
                    markersize=5,
                    linestyle="none",
                    label="mean" if not row else None,
                )
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["min", "1/4", "1/2", "3/4", "max"])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        _legend(axes, 2)
        return finish()


def squares(rows: Sequence[str], across: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a table of counts whose cells are the darker the more of their row they hold."""
    with _chart(2.6, 5.2) as (figure, finish):
        axes = _axes(figure, left=1.5, bottom=0.15, top=0.45, right=0.2)
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                share = count / (sum(line) or 1)
                axes.add_patch(
                    Rectangle((column, row), 0.97, 0.95, facecolor=SERIES[0], alpha=0.12 + 0.5 * share, linewidth=0)
                )
                axes.text(column + 0.48, row + 0.4, f"{count}", ha="center", va="center", fontsize=13)
                axes.text(column + 0.48, row + 0.72, f"{share:.1%} of the row", ha="center", va="center", fontsize=7.5)
        axes.set_xlim(0, len(across))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([n + 0.48 for n in range(len(across))], across)
        axes.set_yticks([n + 0.48 for n in range(len(rows))], rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return finish()


def overlap(sets: Sequence[str], common: str) -> str:
    """Draw two or three sets that overlap. Their sizes are not to scale."""
    with _chart(2.6 if len(sets) == 2 else 3.4) as (figure, finish):
        axes = figure.add_axes((0, 0, 1, 1))
        centres = [(-0.75, 0.0), (0.75, 0.0)] if len(sets) == 2 else [(-0.62, 0.42), (0.62, 0.42), (0.0, -0.62)]
        names = [(-0.1, -1.4), (0.1, -1.4)] if len(sets) == 2 else [(-1.4, 1.4), (1.4, 1.4), (1.0, -1.5)]
        for number, (centre, place, name) in enumerate(zip(centres, names, sets, strict=True)):
            axes.add_patch(Circle(centre, 1.15, facecolor=SERIES[number], alpha=0.3, edgecolor=INK, linewidth=1))
            side = "right" if place[0] < 0 else "left"
            axes.text(*place, _short(name), ha=side, va="center", fontsize=9.5)
        axes.text(0, 0.06, common, ha="center", va="center", fontsize=15, fontweight="bold")
        axes.set_aspect("equal")
        axes.set_xlim(-4.3, 4.3)
        axes.set_ylim(-1.65 if len(sets) == 2 else -1.95, 1.3 if len(sets) == 2 else 1.75)
        axes.axis("off")
        return finish()


def as_percent(value: float) -> str:
    return f"{100 * value:.3g} %"


@contextmanager
def _chart(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """Give a figure in inches, and the function that returns it as SVG."""
    with rc_context(_STYLE), warnings.catch_warnings():
        # Its own font lacks Chinese, which the reader's has.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure = Figure(figsize=(width, height))

        def finish() -> str:
            written = io.StringIO()
            figure.savefig(written, format="svg", metadata={"Date": None})
            return _for_a_page(written.getvalue())

        yield figure, finish


def _for_a_page(svg: str) -> str:
    """Return a whole SVG file as an element of a page that holds several."""
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    own = f"c{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    return re.sub(r"<[^>]+>", partial(_tag_for_a_page, own), body)  # texts hold no < or >, so none is changed


def _tag_for_a_page(own: str, found: re.Match[str]) -> str:
    tag = re.sub(r'^<svg(.*?) width="([\d.]+)pt" height="[\d.]+pt"', _sized, found[0])
    tag = re.sub(r"^<g id=\"[^\"]*\"", "<g", tag)  # each figure numbers its groups from 1
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}", tag)  # like markers of two figures have like ids
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", tag)


def _sized(found: re.Match[str]) -> str:
    return f'<svg{found[1]} style="max-width: {float(found[2]) * _PIXELS:.0f}px"'


def _axes(figure: Figure, *, left: float, bottom: float, top: float, right: float = 0.3) -> Axes:
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


def _legend(axes: Axes, entries: int) -> None:
    if entries > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(entries, 5), borderaxespad=0.2, fontsize=8.5)


def _count(axes: Axes, values: Sequence[float]) -> None:
    """Divide the axis by whole numbers where `values` are such: there is no half of a row or of an epoch."""
    if all(float(value).is_integer() for value in values):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _room(labels: Sequence[str]) -> float:
    """Return the inches that labels beside an axis need."""
    return 0.25 + _CHARACTER * max((_wide(_short(label)) for label in labels), default=0)


def _wide(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _short(text: str) -> str:
    """Return a text that fits beside an axis; the table has all of it."""
    text = shown(text)
    if _wide(text) <= _LONGEST_LABEL:
        return text
    # Names of columns often differ in their ends alone.
    start, end = text, text
    while _wide(start) > _LONGEST_LABEL * 0.6:
        start = start[:-1]
    while _wide(start) + _wide(end) > _LONGEST_LABEL - 1:
        end = end[1:]
    return f"{start}…{end}"
