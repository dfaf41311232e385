"""``restoration-guide calibrate-gate``: the gate's ``min_rating`` from labelled images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoomiqa_core.cli.inputs import check_output
from zoomiqa_core.cli.options import (
    JudgeOptions,
    MaxMegapixels,
    limit_arguments,
    stop,
    with_options,
)
from zoomiqa_core.cli.results import progress, report
from zoomiqa_core.runs.files import write_text_atomic

if TYPE_CHECKING:
    import numpy as np


@with_options
def calibrate_gate(
    labels: Annotated[Path, typer.Argument(metavar="CSV", help="Columns image, acceptable (1/0).")],
    judge: JudgeOptions,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The images' folder.", show_default="that of the CSV"),
    ] = None,
    target: Annotated[
        float, typer.Option(help="Fraction of unacceptable images that may pass.")
    ] = 0.05,
    hold_out: Annotated[
        float, typer.Option(help="Fraction of the images held out to check the threshold.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the hold-out split.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="YAML", help="File for the settings, for gate --config.")
    ] = Path("runs/gate.yaml"),
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Find the rating from which a judge's opinion is good enough, from labelled images."""
    import numpy as np
    import yaml

    from restoration_guide.gate.calibration import calibrate, check

    if not 0 <= hold_out < 1:
        raise typer.BadParameter(f"--hold-out is a fraction in [0, 1), got {hold_out}")
    paths, acceptable = _read_labels(labels, images)
    check_output(out.parent)
    scorer = judge.load()
    limits = limit_arguments(scorer, max_megapixels)
    assessments = [scorer.assess(path, **limits) for path in progress(paths, "Rating")]
    for path, assessment in zip(paths, assessments, strict=True):
        if not assessment.valid:
            report(assessment.error or "invalid", assessment.message or str(path))
    ratings = np.array([assessment.rating for assessment in assessments])
    order = np.random.default_rng(seed).permutation(len(ratings))
    held, used = np.split(order, [round(hold_out * len(order))])
    try:
        found = calibrate(ratings[used], acceptable[used], target_false_accept=target, seed=seed)
    except ValueError as error:
        stop(f"{labels}, column 'acceptable': {error}", error)
    low, high = found.interval
    mean, least, most = found.expected
    lines = [
        f"min_rating {found.min_rating:.3f} [{low:.3f}, {high:.3f}], from {len(used)} images, "
        f"{found.unacceptable} of them unacceptable",
        f"expected false accepts {mean:.1%}, in 95 % of calibrations {least:.1%} – {most:.1%}",
    ]
    if len(held):
        rates = check(ratings[held], acceptable[held], found.min_rating)._asdict()
        lines += [f"held out: {name.replace('_', ' ')} {rate}" for name, rate in rates.items()]
    given = {name: value for name, value in asdict(judge).items() if value is not None}
    given |= {} if max_megapixels is None else {"max_megapixels": max_megapixels}
    settings = yaml.safe_dump({**given, "min_rating": found.min_rating}, sort_keys=False)
    try:
        write_text_atomic(out, "".join(f"# {line}\n" for line in lines) + settings)
    except OSError as error:
        stop(f"cannot write: {error}", error)
    typer.echo("\n".join([*lines, f"written: {out}"]))


def _read_labels(labels: Path, images: Path | None) -> tuple[list[Path], np.ndarray]:
    """Images of a label file and whether people accept them; a bad file ends the program."""
    import numpy as np

    from zoomiqa_core.data.benchmarks.tables import csv_rows

    meaning = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    paths, acceptable = [], []
    try:
        for row in csv_rows(labels, ("image", "acceptable")):
            text = row.text("acceptable").lower()
            if text not in meaning:
                raise ValueError(f"{row.where}: acceptable is 1 or 0, got {text!r}")
            paths.append((images or labels.parent) / row.image("image"))
            acceptable.append(meaning[text])
        if missing := [path for path in paths if not path.is_file()]:
            raise ValueError(
                f"{labels}, column 'image': no file {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + "; --images names their folder"
            )
    except (OSError, ValueError) as error:
        stop(str(error), error)
    return paths, np.array(acceptable, bool)
