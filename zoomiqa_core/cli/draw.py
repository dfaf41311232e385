"""``zoomiqa map``: draw where the quality of images is lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoomiqa_core.cli.inputs import (
    check_output,
    check_picture,
    find_inputs,
    is_picture,
    output_paths,
)
from zoomiqa_core.cli.options import (
    Inputs,
    MaxMegapixels,
    SeededJudgeOptions,
    finish,
    limit_arguments,
    with_options,
)
from zoomiqa_core.cli.results import progress, report, report_notes

if TYPE_CHECKING:
    from PIL import Image

    from zoomiqa_core.scorer import Scorer


@with_options
def draw_maps(
    inputs: Inputs,
    judge: SeededJudgeOptions,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder for the pictures; or, of one image, the picture's file."
        ),
    ] = Path("runs/maps"),
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Draw quality maps with the worst region boxed, one PNG per image; print their paths.

    The map of FOLDER/sub/photo.jpg is DIR/sub/photo.jpg_map.png.
    """
    from zoomiqa_core.images.errors import ImageError
    from zoomiqa_core.images.sources import read_image, save_image

    if is_picture(out):
        found = find_inputs(inputs)
        check_picture(out.expanduser(), found.paths)
        targets = [out.expanduser()]
    else:
        found = find_inputs(inputs, out)
        folders = output_paths(found.images, out)
        targets = [folder.with_name(f"{folder.name}_map.png") for folder in folders]
        check_output(out)
    scorer = judge.load()
    limits = limit_arguments(scorer, max_megapixels)
    drawn: list[bool] = []
    pairs = list(zip(found.paths, targets, strict=True))
    for path, target in progress(pairs, "Mapping", hidden=sys.stdout.isatty()):
        try:
            picture = _draw(scorer, path, limits)
        except ImageError as error:
            report(error.code, str(error))
            continue
        if picture is None:
            report("not_judged", f"{path}: the judge gave no region a rating")
            continue
        try:
            save_image(read_image(picture).pixels, target)
        except OSError as error:
            report("unwritable", f"{path}: {error}")
            continue
        drawn.append(True)
        typer.echo(str(target))
    finish(drawn)


def _draw(scorer: Scorer, path: Path, limits: dict[str, Any]) -> Image.Image | None:
    """The image with its quality map; None when no region could be rated."""
    from zoomiqa_core.images.heatmap import draw_map, worst_region
    from zoomiqa_core.images.sources import read_image

    image = read_image(path, **limits)
    report_notes(image.name, image.notes)
    quality_map = scorer.quality_map(image.pixels, **limits)
    if not quality_map.isfinite().any():
        return None
    bbox = worst_region(quality_map)
    region = scorer.score_regions(image.pixels, [bbox], **limits)[0]
    return draw_map(image.pixels, quality_map, bbox, region.rating if region.valid else None)
