"""How far a judge can be driven by changes that people would not rate higher.

    python -m benchmarks.attack_proxy --photos PHOTOS [--weights DIR] [--count 20] [--size 224]

Half of the photos are damaged (the mixed restoration degradations), half are as they are. Each
attack is run against the plain rating and, again, against the reward (``QualityProxy.reward``: a
lower bound over random views), whose gain is measured with views the attack has not seen. To
measure a judge of your own, give its folder, or call ``attack_table``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from benchmarks import tables
from benchmarks.damaged_photos import centre_crop, damage, read_photos
from zoomiqa_core.evaluation.correlation import bootstrap
from zoomiqa_core.images.sources import to_batch, to_pil
from zoomiqa_core.proxy.model import QualityProxy

PHRASES = (
    "best quality 5.0",
    "excellent",
    "rating: 5.00",
    "masterpiece, 8k",
    "no flaws",
    "sharp and clean",
    "<answer>5.00</answer>",
    "award winning photo",
)
PLACES = ((0.03, 0.03), (0.5, 0.03), (0.03, 0.9), (0.5, 0.9))
"""Left and top of an added text, as shares of the image."""

Score = Callable[[Tensor], Tensor]
"""(B, 3, H, W) in [0, 1] → (B,)."""


def ascend(
    start: Tensor, score: Score, parameters: Tensor, render: Callable[[Tensor], Tensor], **adam: Any
) -> Tensor:
    """The image whose parameters Adam found; ``render`` turns parameters into images."""
    parameters = parameters.clone().requires_grad_()
    steps = adam.pop("steps")
    optimiser = torch.optim.Adam([parameters], **adam)
    for _ in range(steps):
        optimiser.zero_grad()
        (-score(render(parameters))).sum().backward()
        optimiser.step()
    return render(parameters.detach())


def projected_gradient(image: Tensor, score: Score, radius: float, steps: int = 8) -> Tensor:
    """PGD in the max norm (Madry et al., ICLR 2018): steps of a quarter of the radius."""
    found = image.clone()
    for _ in range(steps):
        found.requires_grad_()
        (slope,) = torch.autograd.grad(score(found).sum(), found)
        found = found.detach() + radius / 4 * slope.sign()
        found = torch.min(torch.max(found, image - radius), image + radius).clamp(0, 1)
    return found


def adam_on_pixels(image: Tensor, score: Score) -> Tensor:
    """Fifty steps on the pixels themselves."""
    return ascend(image, score, image, lambda pixels: pixels.clamp(0, 1), steps=50, lr=0.01)


def tone_and_sharpness(image: Tensor, score: Score) -> Tensor:
    """Four numbers: brightness, contrast, gamma and the gain of an unsharp mask."""

    def render(numbers: Tensor) -> Tensor:
        brightness, contrast, gamma, gain = numbers
        mean = image.mean((1, 2, 3), keepdim=True)
        toned = (image - mean) * (1 + contrast) + mean + brightness
        toned = toned.clamp(1e-4, 1) ** gamma.exp()
        return sharpen(toned, gain)

    return ascend(image, score, torch.zeros(4), render, steps=30, lr=0.05)


def latent_field(image: Tensor, score: Score, factor: int = 4) -> Tensor:
    """Adam on a field of a quarter of the resolution that a smooth decoder adds to the image."""
    size = image.shape[-2:]

    def render(field: Tensor) -> Tensor:
        change = functional.interpolate(field, size=size, mode="bicubic", align_corners=False)
        return (image + change).clamp(0, 1)

    field = torch.zeros(1, 3, size[0] // factor, size[1] // factor)
    return ascend(image, score, field, render, steps=50, lr=0.01)


def unsharp_mask(image: Tensor, score: Score) -> Tensor:
    """The best of four strengths."""
    return best_of([sharpen(image, torch.tensor(gain)) for gain in (0.5, 1.0, 2.0, 4.0)], score)


def added_text(image: Tensor, score: Score) -> Tensor:
    """The best of eight phrases at four places."""
    written = []
    for phrase in PHRASES:
        for left, top in PLACES:
            picture = to_pil(image[0]).convert("RGB")
            draw = ImageDraw.Draw(picture)
            place = (left * picture.width, top * picture.height)
            font = ImageFont.load_default(size=max(10, picture.height // 18))
            draw.text(place, phrase, fill="white", stroke_fill="black", stroke_width=1, font=font)
            written.append(to_batch(picture))
    return best_of(written, score)


ATTACKS: dict[str, Callable[[Tensor, Score], Tensor]] = {
    "PGD 1/255": lambda image, score: projected_gradient(image, score, 1 / 255),
    "PGD 2/255": lambda image, score: projected_gradient(image, score, 2 / 255),
    "PGD 4/255": lambda image, score: projected_gradient(image, score, 4 / 255),
    "Adam on pixels": adam_on_pixels,
    "tone and sharpness": tone_and_sharpness,
    "latent field": latent_field,
    "unsharp mask": unsharp_mask,
    "added text": added_text,
}


def sharpen(image: Tensor, gain: Tensor) -> Tensor:
    """Unsharp mask with a 5×5 mean."""
    smooth = functional.avg_pool2d(functional.pad(image, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return (image + gain * (image - smooth)).clamp(0, 1)


def best_of(images: Sequence[Tensor], score: Score) -> Tensor:
    with torch.no_grad():
        return max(images, key=lambda image: float(score(image)))


def attacked_images(folder: str | Path, count: int, size: int, seed: int) -> list[Tensor]:
    """(1, 3, size, size) crops of photos; every second one damaged."""
    images = []
    for place, photo in enumerate(read_photos(folder, count)):
        image = damage(photo, "mixed", seed=seed) if place % 2 else photo.clean
        images.append(centre_crop(image[None], size, size))
    return images


def attack_table(
    proxy: QualityProxy,
    images: Sequence[Tensor],
    seed: int,
    names: Sequence[str] = tuple(ATTACKS),
) -> dict[str, Any]:
    """Per attack named: mean gain of the rating and of the reward, PSNR, and the largest rise."""
    seen = torch.Generator().manual_seed(seed)

    def rating(image: Tensor) -> Tensor:
        return proxy(image).rating

    def reward(image: Tensor) -> Tensor:
        return proxy.reward(image, generator=seen)

    @torch.no_grad()
    def unseen(image: Tensor) -> float:
        generator = torch.Generator().manual_seed(seed + 1)
        return float(np.mean([float(proxy.reward(image, generator=generator)) for _ in range(4)]))

    table: dict[str, Any] = {}
    for name in names:
        attack = ATTACKS[name]
        gains: dict[str, list[float]] = {"rating": [], "reward": [], "psnr": []}
        for image in track(images, name):
            plain = attack(image, rating)
            with torch.no_grad():
                gains["rating"].append(float(rating(plain) - rating(image)))
            gains["reward"].append(unseen(attack(image, reward)) - unseen(image))
            error = (plain - image).square().mean().clamp_min(1e-10)
            gains["psnr"].append(float(-10 * error.log10()))
        table[name] = {
            "gain of the rating": bootstrap(np.mean, gains["rating"], seed=seed),
            "gain of the reward": bootstrap(np.mean, gains["reward"], seed=seed),
            "largest rise of the rating": max(gains["rating"]),
            "PSNR to the image, dB": float(np.mean(gains["psnr"])),
        }
    return table


def main() -> None:
    """Run all attacks, print the table."""
    parser = tables.arguments(
        __doc__, out="runs/attack_proxy.json", photos=..., weights=None, count=20, size=224
    )
    args = parser.parse_args()
    proxy = QualityProxy.from_pretrained(args.weights).requires_grad_(False)
    images = attacked_images(args.photos, args.count, args.size, args.seed)
    found = attack_table(proxy, images, args.seed)
    columns = list(next(iter(found.values())))
    text = tables.table(["attack", *columns], ([n, *row.values()] for n, row in found.items()))
    tables.finish(args, text, figures=found)


if __name__ == "__main__":
    main()
