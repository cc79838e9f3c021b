"""Drawings as inline SVG that takes its colours and letters from the page it stands in.

matplotlib draws with stand-in colours, which are then replaced by the page's CSS variables, so that
one drawing serves light and dark. Text stays text: it can be read aloud, found and scaled.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins: colours that occur nowhere else, by the CSS variable that replaces them.
INK: Final = "#010203"
MUTED: Final = "#040506"
LINE: Final = "#070809"
BEFORE: Final = "#0a0b0c"
AFTER: Final = "#0d0e0f"
DROPPED: Final = "#101112"
BOUNDARY: Final = "#131415"
WARN: Final = "#161718"
_VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BEFORE: "--before",
    AFTER: "--after",
    DROPPED: "--dropped",
    BOUNDARY: "--boundary",
    WARN: "--warn",
}
# matplotlib types its settings by name; so many names help nobody here.
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rewardds",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawing with the words that stand for it."""

    title: str
    """What it shows."""
    text: str
    """What one sees in it, for those who do not."""
    svg: Markup
    """Inline SVG."""


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of so many inches with its axes; draw on it with `STYLE` in force."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def legend_above(axes: Axes, *, num_columns: int = 2) -> None:
    """Put the legend over the axes, where it hides nothing."""
    if not axes.get_legend_handles_labels()[0]:  # nothing was drawn
        return
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=num_columns, handlelength=0.9,
        fontsize=10, handletextpad=0.5, columnspacing=1.4, borderaxespad=0.1, labelcolor=MUTED,
    )  # fmt: skip


def finished_plot(figure: Figure, *, title: str, text: str, name: str) -> Plot:
    """Turn a figure into a plot for a page.

    Args:
        figure: What was drawn.
        title: What it shows.
        text: What one sees in it, for those who do not.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot, in the page's colours; every id in it begins with `name`.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = re.sub(r"(?<![\w.])-(?=\d)", "−", text)  # a minus, as the axes have it
    return Plot(title=title, text=text, svg=_inline(buffer.getvalue(), title, text, name))


def _inline(drawn: str, title: str, text: str, name: str) -> Markup:
    svg = drawn[drawn.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Its rules would hold for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    # Several drawings share the page, so that names must not clash.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')
    svg = re.sub(r"font: (?:[\w.]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box, "matplotlib writes a viewBox"
    label = escape(f"{title}. {text}", quote=True)
    head = (
        f'<svg {box[0]} class="plot" role="img" aria-label="{label}" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    body = svg[svg.index(">") + 1 :]
    # The words come from numbers and fixed labels, and are escaped; the rest is matplotlib's.
    return Markup(f"{head}<title>{escape(title)}</title>{body}")  # noqa: S704


def standalone(plot: Plot, colours: str) -> str:
    """Return a plot as a file of its own, for pages that cannot hold its colours.

    Args:
        plot: The plot.
        colours: CSS that gives the page's variables their values, for light and dark.

    Returns:
        The file's text, SVG with a size and a background.
    """
    first, rest = str(plot.svg).split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', first)
    assert box, "matplotlib writes a viewBox from 0"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{box[1]}" height="{box[2]}"'
    style = f"<style>{colours} svg {{ font-family: sans-serif; background: var(--card); }}</style>"
    return f"{first.replace('<svg', f'<svg {size}', 1)}>{style}{rest}"
