"""The figures as a table for a terminal, and the regressions among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.figures import Figure, Spread

HEAD = ("", "measured", "quartiles", "figure", "quartiles", "over", "at most", "", "release")


def table(figures: Sequence[Figure], released: Mapping[str, Figure]) -> str:
    """One row for each figure, grouped; the column `figure` is what is compared with the bound, mostly a ratio."""
    rows: list[tuple[str, ...]] = [HEAD]
    for number, figure in enumerate(figures):
        if not number or figure.group != figures[number - 1].group:
            rows += [(), (figure.group,)]
        rows.append(_row(figure, released.get(figure.key)))
    full = [row for row in rows if len(row) == len(HEAD)]
    widths = [max(len(row[column]) for row in full) for column in range(len(HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def regressions(figures: Sequence[Figure], released: Mapping[str, Figure]) -> list[str]:
    """The figures that are worse than in the last release or no longer measured."""
    worse = [
        f"{_name(figure)} is {_number(figure.value.median)} {figure.unit}, was {_number(before.value.median)}"
        for figure in figures
        if (before := released.get(figure.key)) and figure.is_worse_than(before)
    ]
    measured = {figure.key for figure in figures}
    return worse + [f"{_name(figure)} is no longer measured" for key, figure in released.items() if key not in measured]


def _row(figure: Figure, before: Figure | None) -> tuple[str, ...]:
    measured = figure.measured
    return (
        f"  {figure.title}",
        f"{_number(measured.median)} {figure.measured_unit}" if measured else "",
        _quartiles(measured) if measured else "",
        f"{_number(figure.value.median)} {figure.unit}",
        _quartiles(figure.value),
        figure.over,
        _number(figure.bound) if figure.bound is not None else "",
        "" if figure.bound is None else "met" if figure.is_met else "MISSED",
        _number(before.value.median) if before else "",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if len(row) < len(widths):
        return "".join(row)
    first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
    return "  ".join([first, *others]).rstrip()


def _name(figure: Figure) -> str:
    return f"{figure.group.partition(',')[0]}: {figure.title} ({figure.key})"


def _quartiles(spread: Spread) -> str:
    return f"{_number(spread.low)} – {_number(spread.high)}" if spread.low != spread.high else ""


def _number(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
