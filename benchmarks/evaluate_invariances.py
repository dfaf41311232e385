"""What moves a judge although the image is no better: copies, invisible patterns, attacks.

    python -m benchmarks.evaluate_invariances --photos PHOTOS [--judge proxy --judge FOLDER]

``PHOTOS`` holds clean photos the judges were not trained on. Each gives a clean 384 px crop and
damaged ones. A row is the mean change of the rating from an image to its copy, with a 95 %
bootstrap interval over photos, and the largest rise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import tables
from zoomiqa_core.data.damage.distortions.blur import gaussian_blur
from zoomiqa_core.data.damage.distortions.codec import jpeg
from zoomiqa_core.data.damage.restoration import degrade
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import Estimate, bootstrap
from zoomiqa_core.images.sources import find_images
from zoomiqa_core.proxy.model import QualityProxy

SIZE = 384


def grey(images: Tensor) -> Tensor:
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def grid(period: int) -> Callable[[Tensor], Tensor]:
    def add(images: Tensor) -> Tensor:
        half = torch.arange(SIZE) // (period // 2)
        return images + 4 / 255 * ((half[:, None] + half) % 2 * 2.0 - 1)

    return add


def chroma_noise(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return images + 0.02 * (noise - grey(noise)) / (noise - grey(noise)).std()


def letterbox(images: Tensor) -> Tensor:
    copy = images.clone()
    copy[..., : SIZE // 8, :], copy[..., -SIZE // 8 :, :] = 0, 0
    return copy


def resized(scale: float) -> Callable[[Tensor], Tensor]:
    def resize(images: Tensor) -> Tensor:
        return functional.interpolate(images, scale_factor=scale, mode="bicubic", antialias=True)

    return resize


def attacked(judge: QualityProxy) -> Callable[[Tensor], Tensor]:
    def attack(images: Tensor) -> Tensor:
        found = images.clone()
        for _ in range(8):
            found.requires_grad_()
            (slope,) = torch.autograd.grad(judge(found).rating.sum(), found)
            found = found.detach() + 0.5 / 255 * slope.sign()
            found = torch.min(torch.max(found, images - 2 / 255), images + 2 / 255).clamp(0, 1)
        return found

    return attack


def rows(judge: QualityProxy) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """Name of a row → which input, and the copy made of it."""
    return {
        "grid 2 px": ("soft", grid(2)),
        "grid 4 px": ("soft", grid(4)),
        "grid 8 px": ("soft", grid(8)),
        "chroma noise on greyscale": ("grey", chroma_noise),
        "greyscale copy": ("clean", grey),
        "JPEG q75 copy": ("clean", lambda images: jpeg(images, 75)),
        "JPEG q75 copy of damaged": ("damaged", lambda images: jpeg(images, 75)),
        "mirror": ("clean", lambda images: images.flip(-1)),
        "letterbox": ("clean", letterbox),
        "half size": ("clean", resized(0.5)),
        "double size": ("clean", resized(2.0)),
        "PGD 2/255 from damaged": ("damaged", attacked(judge)),
        "PGD 2/255 from soft": ("soft", attacked(judge)),
    }


def rate(judge: QualityProxy, images: Tensor) -> Tensor:
    """(N,) ratings, one image at a time."""
    with torch.no_grad():
        return torch.cat([judge(image[None]).rating for image in images])


def measure(judge: QualityProxy, inputs: dict[str, Tensor]) -> dict[str, Estimate | float]:
    """Each row's mean change of the rating, and the mean rating of each kind of input."""
    found: dict[str, Estimate | float] = {}
    for row, (source, copy) in rows(judge).items():
        images = inputs[source]
        copies = torch.cat([copy(image[None]) for image in images]).clamp(0, 1)
        change = (rate(judge, copies) - rate(judge, images)).tolist()
        found[row] = bootstrap(lambda x: float(x.mean()), change)
        found[f"{row}, largest"] = max(change)
    return found | {f"rating of {k}": float(rate(judge, v).mean()) for k, v in inputs.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print one table, a column per judge."""
    parser = tables.arguments(__doc__, out="runs/invariances.json", photos=None, count=24)
    parser.add_argument("--judge", action="append", help="'proxy' or a folder; may be repeated")
    options = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(options.seed)
    pool = PhotoPool(find_images([options.photos]), min_side=SIZE, skip_small=True)
    count = min(options.count, len(pool))
    clean = torch.stack([pool.crop(i, SIZE, generator=generator) for i in range(count)])
    damaged = [degrade(image[None], "mixed", generator=generator).images for image in clean]
    inputs = {
        "clean": clean,
        "soft": gaussian_blur(clean, 1.6),
        "grey": grey(gaussian_blur(clean, 1.0)),
        "damaged": torch.cat(damaged),
    }
    columns = {}
    for name in options.judge or ["proxy"]:
        folder = [] if name == "proxy" else [name]
        columns[name] = measure(QualityProxy.from_pretrained(*folder).eval(), inputs)
    tables.finish(options, f"{count} photos\n\n" + tables.side_by_side(columns, 2))


if __name__ == "__main__":
    main()
