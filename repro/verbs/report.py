"""`repro report`: the page of a study from the results that are there. Imports no torch when its prices are known."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro import ablation
from repro.errors import InputError
from repro.report.curves import Curve, read_curve
from repro.report.export import to_json
from repro.report.figure import draw
from repro.report.index import write_index
from repro.report.markdown import to_markdown
from repro.report.page import Page, build_page
from repro.report.sheet import to_csv
from repro.request import Request, parse_request, study_arguments
from repro.results import Cost, Result, read_result, write_atomic
from repro.study import Study, known_prices, plan
from repro.tracking.records import records

Results = Mapping[str, Mapping[int, Result | None]]
Curves = Mapping[str, Sequence[Curve]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    study_arguments(parser)
    parser.add_argument("--format", choices=("md", "json"), default="md")
    parser.add_argument("--out", metavar="FOLDER", help="write page, figure and index there instead of printing")
    parser.add_argument(
        "--from", dest="place", metavar="wandb:ENTITY/PROJECT", help="read the results from a W&B server, not from disk"
    )


def main(options: argparse.Namespace) -> int:
    """Report on the study of that name."""
    form = "json" if options.json else options.format
    return report(options.name, options.words, form, options.out, options.place)


def report(name: str, words: Sequence[str], form: str, out: str | None, place: str | None = None) -> int:
    """Print the page; with `out`, write it with its figure into that folder and renew the folder's index.

    `place`: where the results are read from, `wandb:ENTITY/PROJECT`; from disk when None.
    """
    request, spec = parse_request(words), ablation.load(name)
    if place is None:
        study = request.study_on_disk(spec)
        results: Results = read_results(study)
        curves = None
    else:
        study, results, curves = _fetch(request, spec, place, with_curves=out is not None)
    if out is not None:
        _, path = write_report(study, results, Path(out), curves)
        write_index(Path(out))
        print(path)
        return 0
    page = make_page(study, results)
    print(json.dumps(to_json(page), indent=2) if form == "json" else to_markdown(page, None))
    return 0


def _fetch(request: Request, spec: ablation.Ablation, place: str, with_curves: bool) -> tuple[Study, Results, Curves]:
    """Read the results from a server; what could not be used is named on standard error."""
    from repro.tracking.wandb_reports import fetch, parse_place

    study = plan(spec, request.scale, request.seeds, request.overrides, request.only)
    fetched = fetch(study, parse_place(place), request.seeds_given, with_curves)
    for reason in fetched.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return fetched.study, fetched.results, fetched.curves


def read_results(study: Study) -> dict[str, dict[int, Result | None]]:
    """Read every run's result. Raises InputError, naming the file, when one cannot be read."""
    table: dict[str, dict[int, Result | None]] = {variant: {} for variant in study.configs}
    for run in study.runs:
        table[run.variant][run.seed] = read_result(run.directory)
    return table


def make_page(study: Study, results: Results) -> Page:
    """Build the page from results and prices."""
    return build_page(study.ablation, study.scale, results, _costs(study, results), study.rerun, only=study.configs)


def _costs(study: Study, results: Results) -> dict[str, Cost]:
    """Prices from the cache, else from the results themselves."""
    costs = known_prices(study)
    for variant, by_seed in results.items():
        for result in by_seed.values():
            if result is not None and result.cost is not None:
                costs.setdefault(variant, result.cost)
    return costs


def write_report(
    study: Study, results: Results, target: Path | None = None, curves: Curves | None = None
) -> tuple[Page, Path]:
    """Write the page and its figure; into the study's own folder, with `table.csv`, unless `target` is given.

    `curves`: learning curves by variant; those on disk when None. Returns page and path.
    """
    stem = "report" if target is None else f"{study.ablation.name}-{study.scale}"
    directory = study.directory if target is None else target
    figure, path = directory / f"{stem}.png", directory / f"{stem}.md"
    page = make_page(study, results)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draw(page, _curves(study) if curves is None else curves, figure)
        write_atomic(path, to_markdown(page, figure.name))
        if target is None:
            write_atomic(directory / "table.csv", to_csv(records(page)))
    except OSError as error:
        raise InputError(f"{directory}: the report cannot be written ({error.strerror})") from None
    return page, path


def _curves(study: Study) -> Curves:
    """Curves on disk of the finished runs, by variant."""
    curves: dict[str, list[Curve]] = {variant: [] for variant in study.configs}
    for run in study.runs:
        result = run.result()
        curve = read_curve(run.directory) if result and result.status == "finished" else None
        if curve is not None:
            curves[run.variant].append(curve)
    return curves
