"""Check KADID's table of human means, and how strong each reproduced cell is on real photos.

    python -m benchmarks.check_kadid_strengths --mos kadid10k/mos.csv --photos pristine/val \
        --limit 20 --sheet kadid.png

Compares ``DISTORTIONS[...].mean_mos`` with the means of the published labels (columns
``dist_image`` as ``Irr_tt_ll.png`` and ``mos``), then prints PSNR and SSIM of every cell, averaged
over the photos' central 384×384 px, beside the human mean. A cell is *off* when within its type the
human means and the SSIMs order it differently from a neighbouring level by a clear margin.
Exit code 1 when the table differs from the labels.
"""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.damaged_photos import centre_crop
from restoration_guide.fidelity.full_reference import psnr
from zoomiqa_core.data.damage.kadid import DISTORTIONS, LEVELS, cell_rating, distort
from zoomiqa_core.images.sources import find_images, to_batch, to_pil

CROP = 384
PSNR_CAP_DB = 60.0
"""So that a photo a cell leaves unchanged does not decide the mean."""
TABLE_TOLERANCE = 0.005 + 1e-9
"""The table holds two decimals."""
CLEAR_MOS, CLEAR_SSIM = 0.1, 0.01
"""Differences between neighbouring levels below these count as ties."""


def read_cell_means(path: Path) -> dict[tuple[int, int], float]:
    """Mean MOS per (type number, level) of KADID's label file."""
    ratings = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            _, number, level = Path(row["dist_image"]).stem.split("_")
            ratings[int(number), int(level)].append(float(row["mos"]))
    return {cell: sum(values) / len(values) for cell, values in ratings.items()}


def differing_cells(means: dict[tuple[int, int], float]) -> list[str]:
    """Cells whose mean in the table is not the labels' mean rounded to two decimals."""
    lines = []
    for distortion in DISTORTIONS.values():
        for level in LEVELS:
            expected = means.get((distortion.number, level), float("nan"))
            stated = cell_rating(distortion.name, level)
            if not abs(stated - expected) <= TABLE_TOLERANCE:
                lines.append(f"{distortion.name} {level}: table {stated}, labels {expected:.3f}")
    return lines


def central_crop(photo: Tensor, side: int = CROP) -> Tensor:
    """Central (1, 3, side, side) of (1, 3, H, W), or all of a smaller side."""
    height, width = (min(size, side) for size in photo.shape[-2:])
    return centre_crop(photo, height, width)


def measure_cells(photos: list[Tensor]) -> dict[tuple[str, int], tuple[float, float]]:
    """Mean PSNR (dB, at most PSNR_CAP_DB) and SSIM per (name, level) over (1, 3, H, W) photos."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    cells = {}
    for name in DISTORTIONS:
        for level in LEVELS:
            generator = torch.Generator().manual_seed(level)
            distance, ssim = 0.0, 0.0
            for photo in photos:
                damaged = distort(photo, name, level, generator=generator)
                distance += min(psnr(damaged, photo), PSNR_CAP_DB) / len(photos)
                similarity = structural_similarity_index_measure(damaged, photo, data_range=1.0)
                ssim += float(similarity) / len(photos)  # type: ignore[arg-type]
            cells[name, level] = distance, ssim
    return cells


def off_levels(name: str, cells: dict[tuple[str, int], tuple[float, float]]) -> list[int]:
    """Levels whose step from the level below goes the other way in SSIM than for people."""
    found = []
    for level in LEVELS[1:]:
        human = cell_rating(name, level) - cell_rating(name, level - 1)
        measured = cells[name, level][1] - cells[name, level - 1][1]
        if abs(human) > CLEAR_MOS and abs(measured) > CLEAR_SSIM and human * measured < 0:
            found.append(level)
    return found


def contact_sheet(photo: Tensor, path: Path, *, side: int = 192) -> None:
    """Write the 25×5 cells of the centre of (1, 3, H, W), each with its human mean."""
    from PIL import Image, ImageDraw

    tile = central_crop(photo, side)
    label_width = 150
    sheet = Image.new("RGB", (label_width + side * len(LEVELS), side * len(DISTORTIONS)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, distortion) in enumerate(DISTORTIONS.items()):
        pen.text((6, row * side + side // 2), f"{distortion.number:02d} {name}", fill="black")
        for level in LEVELS:
            generator = torch.Generator().manual_seed(level)
            corner = label_width + (level - 1) * side, row * side
            sheet.paste(to_pil(distort(tile, name, level, generator=generator)), corner)
            pen.text((corner[0] + 4, corner[1] + 2), str(cell_rating(name, level)), fill="red")
    sheet.save(path)


def main(
    mos: Annotated[Path, typer.Option(help="KADID-10k labels: dist_image, mos.")],
    photos: Annotated[Path, typer.Option(help="Folder of clean photos.")],
    limit: Annotated[int, typer.Option(help="Photos to measure, spread over the folder.")] = 12,
    sheet: Annotated[Path | None, typer.Option(help="Where to write a 25×5 picture.")] = None,
) -> None:
    """Print the table, and say where it or a cell's strength is off."""
    console = Console()
    different = differing_cells(read_cell_means(mos))
    paths = find_images([photos])
    chosen = [central_crop(to_batch(path)) for path in paths[:: max(len(paths) // limit, 1)]]
    chosen = chosen[:limit]
    if not chosen:
        raise typer.BadParameter(f"no image in {photos}")
    cells = measure_cells(chosen)
    if sheet is not None:
        contact_sheet(chosen[0], sheet)

    table = Table(title=f"PSNR dB / SSIM (human mean), {len(chosen)} photos")
    for heading in ("type", *(f"level {level}" for level in LEVELS), "off"):
        table.add_column(heading)
    for name in DISTORTIONS:
        texts = [
            f"{cells[name, level][0]:.1f} / {cells[name, level][1]:.2f} "
            f"({cell_rating(name, level):.2f})"
            for level in LEVELS
        ]
        table.add_row(name, *texts, " ".join(map(str, off_levels(name, cells))))
    console.print(table)
    if different:
        console.print("The table differs from the labels:", *different, sep="\n  ")
        raise typer.Exit(1)
    console.print("All 125 human means equal the labels' to two decimals.")


if __name__ == "__main__":
    typer.run(main)
