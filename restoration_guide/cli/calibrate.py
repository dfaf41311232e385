"""``restoration-guide calibrate-gate``: a gate's threshold from labelled images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

    from zoomiqa_core.scorer import Scorer


@dataclass(frozen=True)
class Labels:
    """Images and whether people accept them."""

    inputs: list[Path] | None
    """The degraded image of each result; None in a table of images alone."""
    results: list[Path]
    acceptable: np.ndarray
    """(n,) bool."""
    photos: list[str]
    """The photo that each image was made from."""


@with_options
def calibrate_gate(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="CSV", help="Columns image or input,result; acceptable (1/0); photo (optional)."
        ),
    ],
    judge: JudgeOptions,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The images' folder.", show_default="that of the CSV"),
    ] = None,
    target: Annotated[
        float, typer.Option(help="Fraction of unacceptable images that may pass.")
    ] = 0.05,
    confidence: Annotated[
        float, typer.Option(min=0, help="k of the lower bound gain − k·std of a result.")
    ] = 0.5,
    hold_out: Annotated[
        float, typer.Option(help="Fraction of the photos held out to check the threshold.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the hold-out split.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="YAML", help="File for the settings, for gate --config.")
    ] = Path("runs/gate.yaml"),
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Find the threshold from which an image is good enough, from labelled images.

    With the columns input and result, and a judge that takes the degraded input, it is the lowest
    gain over the input (min_gain); otherwise the lowest rating (min_rating).
    """
    import numpy as np
    import yaml

    from restoration_guide.gate.calibration import GAINS, RATINGS, calibrate, check

    if not 0 <= hold_out < 1:
        raise typer.BadParameter(f"--hold-out is a fraction in [0, 1), got {hold_out}")
    found = _read_labels(labels, images)
    check_output(out.parent)
    scorer = judge.load()
    limits = limit_arguments(scorer, max_megapixels)
    gains = found.inputs is not None and getattr(scorer, "takes_degraded", False)
    if gains:
        pairs = list(zip(found.inputs or (), found.results, strict=True))
        values = [_gain(scorer, *pair, confidence, limits) for pair in progress(pairs, "Comparing")]
    else:
        values = [_rating(scorer, path, limits) for path in progress(found.results, "Rating")]
    value, photos = np.array(values), np.array(found.photos)
    names = list(dict.fromkeys(found.photos))
    order = np.random.default_rng(seed).permutation(len(names))
    held = np.isin(photos, [names[index] for index in order[: round(hold_out * len(names))]])
    try:
        calibration = calibrate(
            value[~held],
            found.acceptable[~held],
            target_false_accept=target,
            bounds=GAINS if gains else RATINGS,
            photos=photos[~held].tolist(),
            seed=seed,
        )
    except ValueError as error:
        stop(f"{labels}, column 'acceptable': {error}", error)
    setting = "min_gain" if gains else "min_rating"
    low, high = calibration.interval
    mean, least, most = calibration.expected
    used = int((~held).sum())
    alike = len(names) < len(photos)
    of_photos = f" of {len(set(photos[~held].tolist()))} photos" if alike else ""
    lines = [
        f"{setting} {calibration.threshold:.3f} [{low:.3f}, {high:.3f}], from {used} images"
        f"{of_photos}, {calibration.unacceptable} of them unacceptable",
        f"expected false accepts {mean:.1%}, in 95 % of calibrations {least:.1%} – {most:.1%}"
        + (" (if images of a photo were independent)" if alike else ""),
    ]
    if held.any():
        checked = photos[held].tolist()
        rates = check(value[held], found.acceptable[held], calibration.threshold, photos=checked)
        lines += [
            f"held out: {name.replace('_', ' ')} {rate}" for name, rate in rates._asdict().items()
        ]
    settings: dict[str, Any] = {k: v for k, v in asdict(judge).items() if v is not None}
    settings |= {} if max_megapixels is None else {"max_megapixels": max_megapixels}
    settings |= {setting: calibration.threshold} | ({"confidence": confidence} if gains else {})
    text = yaml.safe_dump(settings, sort_keys=False)
    try:
        write_text_atomic(out, "".join(f"# {line}\n" for line in lines) + text)
    except OSError as error:
        stop(f"cannot write: {error}", error)
    typer.echo("\n".join([*lines, f"written: {out}"]))


def _rating(scorer: Scorer, path: Path, limits: dict[str, Any]) -> float:
    said = scorer.assess(path, **limits)
    if not said.valid:
        report(said.error or "invalid", said.message or str(path))
    return said.rating


def _gain(
    scorer: Any, before: Path, after: Path, confidence: float, limits: dict[str, Any]
) -> float:
    """Lower bound of the result's gain over its input; NaN where the two cannot be compared."""
    from zoomiqa_core.assessment import lower_bound
    from zoomiqa_core.images.errors import ImageError

    try:
        said = scorer.compare([after], degraded=before, **limits)
    except (ImageError, ValueError) as error:
        code = error.code if isinstance(error, ImageError) else "wrong_size"
        report(code, f"{after}, compared with {before}: {error}")
        return math.nan
    return lower_bound(said.gains[0], said.gain_stds[0], confidence)


def _read_labels(labels: Path, images: Path | None) -> Labels:
    """Images of a label file and whether people accept them; a bad file ends the program."""
    import numpy as np

    from zoomiqa_core.data.benchmarks.tables import csv_rows

    meaning = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    folder = images or labels.parent
    inputs: list[Path] = []
    results: list[Path] = []
    acceptable: list[bool] = []
    photos: list[str] = []
    try:
        for row in csv_rows(labels, ("acceptable",)):
            text = row.text("acceptable").lower()
            if text not in meaning:
                raise ValueError(f"{row.where}: acceptable is 1 or 0, got {text!r}")
            pair = "result" in row.values
            results.append(folder / row.image("result" if pair else "image"))
            if pair:
                inputs.append(folder / row.image("input"))
            acceptable.append(meaning[text])
            photo = str(row.values.get("photo") or "").strip()
            photos.append(photo or str((inputs if pair else results)[-1]))
        for column, paths in (("image or result", results), ("input", inputs)):
            if missing := [path for path in paths if not path.is_file()]:
                raise ValueError(
                    f"{labels}, column {column}: no file {missing[0]}"
                    + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                    + "; --images names their folder"
                )
    except (OSError, ValueError) as error:
        stop(str(error), error)
    return Labels(inputs or None, results, np.array(acceptable, bool), photos)
