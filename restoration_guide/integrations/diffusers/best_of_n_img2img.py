"""Best of N for Stable Diffusion's image-to-image pipeline, as a community pipeline in one file.

For example::

    pipe = DiffusionPipeline.from_pretrained(
        MODEL, custom_pipeline="best_of_n_img2img.py", trust_remote_code=True
    )
    result = pipe(image=photo, prompt="a sharp photo", n=4, strength=0.3)
    result.images[0].save("best.png")
    print(result.selection.reason)

For another pipeline change the base class. :class:`restoration_guide.BestOfN` does the same for any
pipeline, with pruning, a deadline and reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from restoration_guide.search.pick import pick_best
from restoration_guide.search.selection import Selection
from zoomiqa_core.images.sources import ImageSource, read_image, to_pil
from zoomiqa_core.scorer import Scorer


@dataclass
class BestOfNOutput(BaseOutput):
    """The best image and how it was chosen."""

    images: list[Image.Image]
    """The best one alone; the input when no result is better."""
    selection: Selection
    """All candidates, with their ratings and the reason of the choice."""


class BestOfNImg2ImgPipeline(StableDiffusionImg2ImgPipeline):
    """Runs image-to-image N times with seeds of their own, and returns the best result."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        image: ImageSource,
        prompt: str = "",
        *,
        n: int = 4,
        judge: Scorer | str = "restoration",
        seed: int = 0,
        **call: Any,
    ) -> BestOfNOutput:
        """Restore and pick.

        Args:
            image: the degraded image; sides that are multiples of 8, because results of another
                size cannot be compared with it.
            prompt: what the pipeline is told.
            n: number of results.
            judge: a judge, or its name for ``zoomiqa_core.load_scorer``.
            seed: result i draws from ``seed + i``.
            call: other arguments of the pipeline, e.g. ``strength`` and ``num_inference_steps``.

        Raises:
            ImageError: the image cannot be read.
            ValueError: n < 1.
        """
        source = read_image(image).pixels
        results = []
        for index in range(n):
            generator = torch.Generator().manual_seed(seed + index)
            made = super().__call__(
                prompt, source[None], generator=generator, output_type="pt", **call
            )
            results.append(made.images[0].float().cpu())  # pyright: ignore
        selection = pick_best(source, results, judge)
        return BestOfNOutput(images=[to_pil(selection.best)], selection=selection)
