"""Draws the figures of the release as bars with their bounds, for the README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from bench.figures import Figure

TITLE_TEXT = "How fast it is: ratios within one run, shorter is better"

WIDTH = 960
LABELS = 310  # pixels, left of the bars
VALUES = 230  # right of them
BARS = WIDTH - LABELS - VALUES
ROW, BAR, TITLE, GAP, MARGIN = 24, 13, 34, 18, 20

INK, FAINT = "#1f2933", "#616e7c"
OURS, MISSED, PEER, LINE, BOUND = "#0f766e", "#c2410c", "#b8c1cc", "#1f2933", "#be123c"


def draw(figures: Sequence[Figure]) -> str:
    """An SVG of all ratios, except those to the usual set, which repeat others."""
    shown = [figure for figure in figures if figure.unit == "×" and not figure.key.startswith("cold-usual/")]
    parts: list[str] = []
    y = MARGIN + 34
    for group, members in groupby(shown, key=lambda figure: figure.group):
        panel, y = _panel(group, list(members), y)
        parts += [*panel]
    legend = _legend(y)
    height = y + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label="{TITLE_TEXT}" '
            'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            _text(MARGIN, MARGIN + 14, TITLE_TEXT, size=17, weight=600),
            *parts,
            *legend,
            "</svg>\n",
        ]
    )


def _panel(group: str, figures: Sequence[Figure], y: int) -> tuple[list[str], int]:
    """The SVG elements of a group, and the y of the next one."""
    longest = max(1.0, *(max(figure.value.high, figure.bound or 0) for figure in figures))

    def x(ratio: float) -> float:
        return LABELS + BARS * ratio / (longest * 1.02)

    title, _, explained = group.partition(", ")
    parts = [
        f'<text x="{MARGIN}" y="{y + 20}" fill="{INK}"><tspan font-weight="600" font-size="14">{escape(title)}</tspan>'
        f'<tspan dx="8" fill="{FAINT}">{escape(explained)}</tspan></text>'
    ]
    top = y + TITLE
    for number, figure in enumerate(figures):
        parts += _row(figure, top + number * ROW, x)
    bottom = top + len(figures) * ROW
    parts += [_upright(x(1), top - 4, bottom, LINE, dashed=True)]
    return parts, bottom + GAP


def _row(figure: Figure, y: int, x: Callable[[float], float]) -> list[str]:
    colour = PEER if not figure.is_ours else OURS if figure.is_met else MISSED
    middle = y + ROW / 2
    value = figure.value
    parts = [
        _text(LABELS - 10, middle + 4.5, figure.title, anchor="end"),
        f'<rect x="{LABELS}" y="{middle - BAR / 2:.1f}" width="{x(value.median) - LABELS:.1f}" height="{BAR}" rx="2" '
        f'fill="{colour}"/>',
    ]
    if value.low != value.high:
        parts += [
            f'<path d="M{x(value.low):.1f} {middle:.1f}H{x(value.high):.1f}" stroke="{INK}" stroke-opacity=".55"/>'
        ]
    if figure.bound is not None:
        parts += [_upright(x(figure.bound), middle - BAR / 2 - 3, middle + BAR / 2 + 3, BOUND)]
    text = f"{value.median:.2f} × {figure.over}"
    parts += [_text(WIDTH - VALUES + 12, middle + 4.5, text, colour=INK if figure.is_ours else FAINT)]
    if figure.bound is not None:
        parts += [_text(WIDTH - MARGIN, middle + 4.5, f"≤ {figure.bound:.2f}", anchor="end", colour=BOUND)]
    return parts


def _legend(y: int) -> list[str]:
    parts: list[str] = []
    left = MARGIN
    for colour, text in ((OURS, "the gateway"), (MISSED, "misses its bound"), (PEER, "floors and peers")):
        parts += [f'<rect x="{left}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>']
        parts += [_text(left + 18, y + 10.5, text, colour=FAINT)]
        left += 36 + 7 * len(text)
    for colour, dashed, text in ((LINE, True, "reference (1 ×)"), (BOUND, False, "at most")):
        parts += [_upright(left + 4, y - 1, y + 13, colour, dashed=dashed)]
        parts += [_text(left + 12, y + 10.5, text, colour=FAINT)]
        left += 32 + 7 * len(text)
    parts += [_text(left, y + 10.5, "thin lines: quartiles", colour=FAINT)]
    return parts


def _upright(x: float, top: float, bottom: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    width = 1 if dashed else 2
    return f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _text(
    x: float, y: float, text: str, *, colour: str = INK, anchor: str = "start", weight: int = 400, size: int = 13
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )
