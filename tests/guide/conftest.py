"""A scripted restorer and a tiny judge with exact, explainable figures."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from restoration_guide.restorers.base import Candidate, Settings, candidate_generator
from zoomiqa_core.assessment import Assessment, RegionScore
from zoomiqa_core.images.sources import ImageLimits, read_image, save_png

Step = Callable[[Tensor, torch.Generator], Tensor] | BaseException


def smooth(image: Tensor, generator: torch.Generator) -> Tensor:
    """A faithful candidate: a 3×3 mean with a trace of noise from its own generator."""
    mean = functional.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
    return (mean + 1e-3 * torch.randn(mean.shape, generator=generator)).clamp(0, 1)


class ScriptedRestorer:
    """Candidate i is ``script[i % len(script)]`` applied to the input, or raises it."""

    name = "scripted"
    plan = (Settings(1, 1.0, 0.0, False), Settings(4, 1.0, 0.5, True))
    limits = ImageLimits(max_pixels=4_000_000, min_side=8)

    def __init__(self, script: Sequence[Step] = (smooth,)) -> None:
        self.script = script

    def restore(
        self, image: Tensor, *, n: int, seed: int = 0, batch_size: int = 1
    ) -> Iterator[Candidate]:
        for index in range(n):
            step = self.script[index % len(self.script)]
            if isinstance(step, BaseException):
                raise step
            restored = step(image[0], candidate_generator(seed, index))
            yield Candidate(index, seed, self.plan[index % 2], restored, 0.25)


class NoiseScorer:
    """Rates smoothness: 5 − 40 · mean |horizontal difference|, at least 1; std is fixed."""

    name = "noise"

    def __init__(self, std: float = 0.1, fails_on: Callable[[Tensor], bool] | None = None) -> None:
        self.std = std
        self.fails_on = fails_on
        self.judged = 0

    def assess(self, images):
        if not isinstance(images, list):
            return self._assess(images)
        return [self._assess(image) for image in images]

    def _assess(self, source) -> Assessment:
        image = read_image(source).pixels
        self.judged += 1
        if self.fails_on is not None and self.fails_on(image):
            return Assessment.failed("scripted", "the script says so")
        return Assessment(float(self._rate(image).mean()), self.std)

    def _rate(self, image: Tensor) -> Tensor:
        return (5 - 40 * image.diff(dim=2).abs().mean(dim=0, keepdim=True)).clamp(1, 5)

    def score_regions(self, image, bboxes):
        rating = float(self._rate(read_image(image).pixels).mean())
        return [RegionScore(bbox, rating, self.std) for bbox in bboxes]

    def quality_map(self, image) -> Tensor:
        rate = self._rate(read_image(image).pixels)
        size = max(1, rate.shape[1] // 16), max(1, rate.shape[2] // 16)
        return functional.adaptive_avg_pool2d(rate[None], size)[0]


def make_photo(height: int = 64, width: int = 80, noise: float = 0.08) -> Tensor:
    """A colour gradient with noise on the 8-bit grid, (3, H, W)."""
    generator = torch.Generator().manual_seed(5)
    y = torch.linspace(0.2, 0.8, height)[:, None].expand(height, width)
    x = torch.linspace(0.3, 0.7, width)[None, :].expand(height, width)
    clean = torch.stack([y, x, 1 - y])
    noisy = (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    return (noisy * 255).round() / 255


@pytest.fixture
def photo() -> Tensor:
    return make_photo()


@pytest.fixture
def photo_file(tmp_path: Path, photo: Tensor) -> Path:
    return save_png(photo, tmp_path / "inputs" / "photo.png")


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch):
    """The stub classes, and ``install`` to let the command line load them."""

    class Stubs:
        Restorer = ScriptedRestorer
        Scorer = NoiseScorer
        smooth = staticmethod(smooth)
        make_photo = staticmethod(make_photo)

        @staticmethod
        def install(restorer=None, scorer=None) -> None:
            restorer = ScriptedRestorer() if restorer is None else restorer
            scorer = NoiseScorer() if scorer is None else scorer
            import restoration_guide.cli.config as module

            monkeypatch.setattr(module, "load_restorer", lambda name, **_: restorer)
            monkeypatch.setattr(module, "load_scorer", lambda name, **_: scorer)

    return Stubs
