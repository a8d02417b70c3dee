"""A comparison, or what tests have proven, as one HTML file that needs nothing else: no network, no script from elsewhere. It decides nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from stackctl.comparison import Comparison, Measure, shown
from stackctl.matrix import Matrix, State

_WIDE, _LEFT, _BOTTOM, _HIGH = 560.0, 60.0, 210.0, 190.0  # of the bars; where the curves begin, and how high they are


def matrix(found: Matrix) -> str:
    """The page of what tests have proven."""
    return _filled("matrix.html.j2", found=found, failed=found.rows_of("failed"), states=get_args(State))


def _filled(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(values)


def html(found: Comparison) -> str:
    """The page of a comparison."""
    names = list(found.servers)
    grown: dict[str, list[Measure]] = {}
    for measure in found.measures:
        if measure.size:
            grown.setdefault(measure.what, []).append(measure)
    return _filled(
        "comparison.html.j2",
        names=names,
        made=found.made,
        beside=found.beside,
        quick=found.quick,
        machine=found.machine,
        warnings=found.warnings,
        verdict=[{"name": name, "server": found.servers[name], "only": found.only(name), "lacking": found.lacking(name), "ahead": found.ahead(name)} for name in names],
        measures=[_bars(measure) for measure in found.measures],
        growths=[_growth(what, measures) for what, measures in grown.items() if len(measures) > 1],
        sections=[{"name": section, "facts": [fact for fact in found.facts if fact.section == section]} for section in found.sections],
    )


def _bars(measure: Measure) -> dict[str, Any]:
    longest = max(measure.spread(server)[1] for server in measure.runs) or 1.0
    bars = []
    for server in measure.runs:
        (low, high), median = measure.spread(server), measure.median(server)
        ends = {"from": round(_WIDE * low / longest, 1), "to": round(_WIDE * high / longest, 1), "width": round(_WIDE * median / longest, 1)}
        bars.append({"server": server, "median": shown(median), "low": shown(low), "high": shown(high), "best": server == measure.best, **ends})
    return {"name": measure.name, "unit": measure.unit, "more": measure.better == "more", "best": measure.best, "noisy": measure.noisy, "bars": bars}


def _growth(what: str, measures: list[Measure]) -> dict[str, Any]:
    """Curves over the size of the mailbox, both axes logarithmic."""
    sizes = [math.log(measure.size) for measure in measures]
    values = {server: [math.log(max(measure.median(server), 0.001)) for measure in measures] for server in measures[0].runs}
    least, most = min(map(min, values.values())), max(map(max, values.values()))

    def x(size: float) -> float:
        return round(_LEFT + 20 + 600 * (size - sizes[0]) / (sizes[-1] - sizes[0]), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - _HIGH * (value - least) / ((most - least) or 1), 1)

    lines = [
        {"server": server, "points": " ".join(f"{x(size)},{y(value)}" for size, value in zip(sizes, curve, strict=True)), "x": x(sizes[-1]), "y": y(curve[-1])}
        for server, curve in values.items()
    ]
    return {
        "what": what,
        "unit": measures[0].unit,
        "sizes": [measure.size for measure in measures],
        "ticks": [{"x": x(size), "label": f"{measure.size:,}"} for size, measure in zip(sizes, measures, strict=True)],
        "least": shown(math.exp(least)),
        "most": shown(math.exp(most)),
        "lines": lines,
    }
