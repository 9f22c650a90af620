"""`repro evaluate`: runs, rows of an ablation or published weights on a held-out split. Trains and changes nothing."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from repro.console import console
from repro.errors import InputError
from repro.evaluation.cuts import Choices
from repro.evaluation.records import Evaluation, Job, Split
from repro.evaluation.targets import find_targets
from repro.report.evaluation_table import evaluation_sheet, records, to_tree
from repro.report.sheet import to_csv, to_latex, to_markdown, to_terminal
from repro.verbs.inputs import whole

_EPILOG = (
    "Ten crops of published weights: repro evaluate torchvision/resnet50:IMAGENET1K_V1 data=imagenet data.root=/path "
    "--views ten_crop. Several scales (He et al. 2015): --views full --sizes 224,256,384,480,640. Several devices: "
    "trainer=ddp trainer.devices=4."
)
_WORD = re.compile(r"[+~]?[A-Za-z_][\w.@/]*=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.epilog = _EPILOG
    words = (
        "a run's folder, ABLATION/SCALE[/VARIANT], timm/NAME, torchvision/NAME[:WEIGHTS] or a preset; overrides of "
        "data, trainer and recipe.evaluation"
    )
    parser.add_argument("words", nargs="+", metavar="TARGET, KEY=VALUE", help=words)
    parser.add_argument("--resize", metavar="PX", help="shorter side of the image before the crop")
    parser.add_argument("--crop", metavar="PX", help="side of the crop")
    parser.add_argument(
        "--views", choices=("centre", "flip", "ten_crop", "full"), help="full: the whole image, mirrored"
    )
    parser.add_argument("--sizes", metavar="PX,PX", help="average over crops of these sizes, or over whole images")
    parser.add_argument("--weights", choices=("raw", "ema"), help="of a run (default: those of its result)")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--ensemble", action="store_true", help="also average the probabilities of all networks")
    parser.add_argument("--batch", metavar="N", help="images on a device at once")
    parser.add_argument("--format", choices=("md", "csv", "latex", "json"))


def main(options: argparse.Namespace) -> int:
    """Evaluate what is named and print the table."""
    overrides = [word for word in options.words if _WORD.match(word) and not Path(word).exists()]
    names = [word for word in options.words if word not in overrides]
    choices = Choices(
        which=options.weights,
        resize=_pixels("--resize", options.resize),
        crop=_pixels("--crop", options.crop),
        views=options.views,
        sizes=_sizes(options.sizes),
        batch=None if options.batch is None else whole("--batch", options.batch, "images"),
    )
    form = "json" if options.json else options.format
    return evaluate(names, overrides, choices, options.split, options.ensemble, form)


def evaluate(
    names: Sequence[str], overrides: Sequence[str], choices: Choices, split: Split, ensemble: bool, form: str | None
) -> int:
    """Print what the named networks reach on a held-out split; with `ensemble`, also all of them together."""
    if not names:
        raise InputError("name what to evaluate: a run's folder, ABLATION/SCALE[/VARIANT], timm/NAME, torchvision/NAME")
    targets = find_targets(names, overrides, choices)
    if ensemble and len(targets) < 2:
        raise InputError(f"--ensemble needs at least two networks; {', '.join(names)} is one")
    from repro.evaluate import start

    _print(start(Job(targets=targets, split=split, ensemble=ensemble)), form)
    return 0


def _print(found: Evaluation, form: str | None) -> None:
    if form == "json":
        print(json.dumps(to_tree(found), indent=2))
    elif form == "csv":
        print(to_csv(records(found)), end="")
    elif form is not None:
        print((to_latex if form == "latex" else to_markdown)(evaluation_sheet(found)), end="")
    else:
        sheet = evaluation_sheet(found)
        console().print(to_terminal(sheet))
        print("", *sheet.notes, sep="\n")


def _pixels(flag: str, text: str | None) -> int | None:
    return None if text is None else whole(flag, text, "pixels")


def _sizes(text: str | None) -> tuple[int, ...]:
    parts = [] if text is None else text.split(",")
    sizes = tuple(whole("--sizes", part.strip(), "pixels") for part in parts)
    if len(set(sizes)) < len(sizes):
        raise InputError(f"--sizes {text}: a size is given twice")
    return sizes
