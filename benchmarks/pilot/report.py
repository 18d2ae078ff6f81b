"""Tables and figures of the pilot, from its committed JSON alone.

    python -m benchmarks.pilot.report        # make pilot

Figures go to ``docs/pilot/``; in ``docs/pilot.md`` the parts between ``<!-- NAME -->`` and ``<!-- end -->`` are
written anew, the sentences around them are left as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import fill_in, row, table
from benchmarks.pilot.compare import Pull, Results, comparisons, differences
from benchmarks.pilot.draw import draw_all
from benchmarks.pilot.paired import verdict
from benchmarks.pilot.settings import METHODS, SEEDS, SHORT, paired_name, recipe_fields
from benchmarks.runs import Planned
from co2ssl.config import load_recipe

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "pilot.md"
PULLS_AT = (10, 50, 100, 220)
"""Steps of ``pull.json`` that the table has; the figure has all."""
MEASURES = {"knn": "kNN", "linear_fast": "linear (fast)"}


def main(measured: Path = HERE, page: Path = PAGE) -> None:
    """Rewrite the page and its figures from what was measured: ``results/*.json``, ``cost.json``, ``pull.json``."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted((measured / "results").glob("*.json"))}
    cost, pull = (json.loads((measured / f"{name}.json").read_text())["result"] for name in ("cost", "pull"))
    draw_all(results, pull, folder=page.with_suffix(""))
    page.write_text(fill_in(page.read_text(), tables(results, cost, pull)))
    print(f"{page} from {len(results)} runs")


def tables(results: Results, cost: Mapping[str, Any], pull: Pull) -> dict[str, str]:
    """Markdown by the name of its place."""
    return {
        "pairs": _pairs(results),
        "differences": _differences(results),
        "pull": _pull(pull),
        "negatives": _negatives(results),
        "short": _short(results),
        "cost": _cost(cost),
        "runs": _runs(results),
    }


def _pairs(results: Results) -> str:
    rows = [row("method", *(f"{title}, seed {seed}" for title in MEASURES.values() for seed in SEEDS))]
    for title, pairs in comparisons(results).items():
        with_term, without = ([pair[place] for pair in pairs] for place in (0, 1))
        kinds = {f"{title} + CO2": with_term} if title not in METHODS else {title: without, f"{title} + CO2": with_term}
        for called, names in kinds.items():
            rows.append(row(called, *(_percent(results, name, measure) for measure in MEASURES for name in names)))
    return table(rows)


def _differences(results: Results) -> str:
    rows = [row("method", "measure", "with minus without, each seed", "mean", "95 % interval", "by the plan")]
    for title, pairs in comparisons(results).items():
        found = {measure: differences(results, pairs, measure) for measure in MEASURES}
        complete = {MEASURES[measure]: one for measure, one in found.items() if one is not None}
        for measure, one in complete.items():
            each = ", ".join(f"{value:+.1f}" for value in one.values)
            interval = "-" if one.low is None else f"{one.low:+.1f} to {one.high:+.1f}"
            # One word for both measures, in the row of the first.
            word = verdict(complete) if measure == next(iter(complete)) else ""
            rows.append(row(title, measure, each, f"{one.mean:+.1f}", interval, word))
    return table(rows)


def _pull(pull: Pull) -> str:
    header = ("run (seed 0)", "step", "L_ins", "L_con", "cosine with negatives", "of L_ins", "of alpha L_con", "agree")
    rows = [row(*header)]
    for method in METHODS:
        for term in (False, True):
            for one in pull[paired_name(method, with_term=term, seed=0)]:
                if one["step"] not in PULLS_AT:
                    continue
                losses = (f"{one['instance']:.2f}", f"{one['consistency']:.4f}", f"{one['similarity']:.3f}")
                pulls = (f"{one['pull_of_instance']:.2f}", f"{one['pull_of_term']:.2f}", f"{one['agreement']:+.2f}")
                rows.append(row(method + " + CO2" * term, f"{one['step']}", *losses, *pulls))
    return table(rows)


def _negatives(results: Results) -> str:
    header = ("run (seed 0)", "when", "cosine, own class", "other classes", "pair", "by chance", "mass of P", "of Q")
    rows = [row(*header)]
    for method in METHODS:
        for term in (False, True):
            seen = results.get(paired_name(method, with_term=term, seed=0), {}).get("negatives", {})
            for when, one in seen.items():
                cosines = (f"{one[name]:.3f}" for name in ("same", "other", "pair"))
                shares = (f"{100 * one[name]:.1f} %" for name in ("by_chance", "mass_of_p", "mass_of_q"))
                rows.append(row(method + " + CO2" * term, when, *cosines, *shares))
    return table(rows)


def _short(results: Results) -> str:
    header = ("changed", "alpha / tau_con^2", "kNN of the training tenth", "L_ins", "L_con", "effective rank")
    rows = [row("run", *header)]
    for planned in SHORT:
        if planned.name not in results:
            continue
        result = results[planned.name]
        last, probe = result["epochs"][-1], result["probes"][-1]
        changed = [f"{name} {value}" for name, value in planned.options.items() if name not in _usual(planned.name)]
        rows.append(
            row(
                planned.name.removeprefix("short-"),
                ", ".join(changed) or "-",
                _steepness(planned),
                f"{100 * probe['top1']:.1f}",
                f"{last['instance']:.2f}",
                f"{last['consistency']:.3f}",
                f"{probe['effective_rank']:.0f}",
            )
        )
    return table(rows)


def _steepness(planned: Planned) -> str:
    """How steeply the weighted term rises around a single point."""
    recipe = load_recipe(planned.recipe, overrides=recipe_fields(planned.options)).recipe
    return f"{recipe.consistency_weight / recipe.consistency_temperature**2:,.0f}"


def _usual(name: str) -> set[str]:
    """Options that a short run shares with the first one."""
    first = SHORT[0].options
    (own,) = [planned.options for planned in SHORT if planned.name == name]
    return {option for option, value in own.items() if first.get(option) == value}


def _runs(results: Results) -> str:
    rows = [row("run", "commit", "training", "processor")]
    for name, result in results.items():
        rows.append(row(name, result["commit"][:9], f"{result['train_seconds'] / 60:.0f} min", result["cpu"]))
    return table(rows)


def _cost(cost: Mapping[str, Any]) -> str:
    header = ("neither value nor gradient", "its value alone, as in runs without", "with the term")
    rows = [row("ms a step", *header, "with / without", "with / neither")]
    for method, one in cost.items():
        times = (f"{one[f'{kind}_ms']:.1f}" for kind in ("unwatched", "without", "with"))
        ratios = [
            f"{one[name]:.3f} ({' to '.join(f'{quartile:.3f}' for quartile in one[f'{name}_quartiles'])})"
            for name in ("ratio", "ratio_to_unwatched")
        ]
        rows.append(row(method, *times, *ratios))
    return table(rows)


def _percent(results: Results, name: str, measure: str) -> str:
    return f"{100 * results[name][measure]['top1']:.1f}" if name in results else "-"


if __name__ == "__main__":
    main()
