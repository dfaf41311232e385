"""ZoomIQA: a vision-language judge that zooms in and explains its rating."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from PIL import Image

from zoomiqa_core.assessment import (
    MAX_RATING,
    MIN_RATING,
    Assessment,
    BBox,
    RegionScore,
    check_bbox,
)
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.images.inputs import ImageInput, each_image, is_single_image, read_to_judge
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource, to_pil
from zoomiqa_core.zoom_iqa.chain import Chain, combine_chains
from zoomiqa_core.zoom_iqa.photos import Photo, decoded_groups
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS
from zoomiqa_core.zoom_iqa.regions import (
    chosen_regions,
    grid_boxes,
    region_chains,
    region_score,
    with_round_1,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mode = Literal["rounds", "expected"]


class Backend(Protocol):
    """What answers the requests of chains: a model in this process, or a server."""

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that may change a reply, as plain values."""
        ...

    def run(self, chains: Sequence[Chain]) -> None:
        """Answer the requests of all chains to their end.

        A failure affects only its own chain (:meth:`Chain.fail`); errors of the program or its
        settings raise.
        """
        ...

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The expected rating of each chain's first request, without reasoning."""
        ...


@dataclass(frozen=True)
class JudgeConfig:
    """Settings of a Zoom-IQA judge.

    >>> JudgeConfig(samples=4, max_rounds=1).retries
    1
    >>> JudgeConfig(samples=0)
    Traceback (most recent call last):
    ValueError: expected samples ≥ 1, max_rounds ≥ 1, retries ≥ 0 and seed ≥ 0, got 0, 2, 1, 0
    """

    samples: int = 1
    """Number of chains per image, K. ``rating_std`` is NaN for one chain and rough below four. A
    single chain takes the likeliest token each time, unless the call passes a generator."""
    max_rounds: int = MAX_ROUNDS
    """Maximum number of rounds; 1 never zooms."""
    retries: int = 1
    """How often a reply without a usable answer is sampled again, in each round."""
    seed: int = 0
    """Seed of the sampling; chain k of a seed is the same for every K, batch and list."""
    question: str | None = None
    """Question of the first prompt; None takes one of the prompts' own, by seed."""
    repair: bool = False
    """Whether to read answers that are almost JSON (needs ``json-repair``)."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_rounds < 1 or self.retries < 0 or self.seed < 0:
            raise ValueError(
                "expected samples ≥ 1, max_rounds ≥ 1, retries ≥ 0 and seed ≥ 0, got "
                f"{self.samples}, {self.max_rounds}, {self.retries}, {self.seed}"
            )


class ZoomIQA:
    """A Zoom-IQA judge as a :class:`~zoomiqa_core.scorer.Scorer`.

    Thread-safe: a call keeps no state on the judge.

    Args:
        backend: answers the requests.
        prompts: the texts that the model was trained on.
        config: settings.
        name: for reports; the backend's name by default.

    >>> import torch
    >>> from zoomiqa_core.zoom_iqa.answer import format_answer
    >>> class Scripted:  # a backend that always replies the same
    ...     name, settings = "scripted", {}
    ...     def run(self, chains):
    ...         for chain in chains:
    ...             chain.read("Issues to Avoid: Noise in the sky.</think>" + format_answer(3.5))
    >>> judge = ZoomIQA(Scripted(), config=JudgeConfig(samples=2))
    >>> a = judge.assess(torch.rand(3, 64, 96))
    >>> print(a)
    3.50 ± 0.00
    >>> a.issues, a.chains.zoom_share
    (('Noise in the sky.',), 0.0)
    """

    lowest, highest = MIN_RATING, MAX_RATING
    """Range of the model's ratings; higher is better."""
    lower_is_better = False
    """Whether a lower value of the model is the better one."""
    differentiable = False
    """Whether ratings have a gradient in the image."""

    def __init__(
        self,
        backend: Backend,
        prompts: Prompts = BUILTIN,
        config: JudgeConfig | None = None,
        name: str | None = None,
    ) -> None:
        self.backend = backend
        self.prompts = prompts
        self.config = config or JudgeConfig()
        self.name = name or backend.name

    @property
    def deterministic(self) -> bool:
        """Whether an image and a seed always give the same rating; not promised by servers."""
        return getattr(self.backend, "deterministic", False)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that may change a rating, as plain values."""
        return {"prompts": self.prompts.name, **asdict(self.config), **self.backend.settings}

    @overload
    def assess(
        self,
        images: ImageSource,
        *,
        samples: int | None = ...,
        generator: torch.Generator | None = ...,
        mode: Mode = ...,
        regions: Literal["model"] | None = ...,
        limits: ImageLimits = ...,
    ) -> Assessment: ...
    @overload
    def assess(
        self,
        images: Iterable[ImageSource],
        *,
        samples: int | None = ...,
        generator: torch.Generator | None = ...,
        mode: Mode = ...,
        regions: Literal["model"] | None = ...,
        limits: ImageLimits = ...,
    ) -> list[Assessment]: ...

    def assess(
        self,
        images: ImageInput,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        mode: Mode = "rounds",
        regions: Literal["model"] | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Assessment | list[Assessment]:
        """Judge one image or several.

        Args:
            images: a path, PIL image, array (H, W, C) or tensor (3, H, W); or several: a batch
                (B, 3, H, W) or (B, H, W, C), a list, or any other iterable of images.
            samples: number of chains per image; None for the configuration's.
            generator: draws one seed per chain, the same seeds for every image of the call; None
                for a new one with the configuration's seed. So K chains equal K calls of one chain
                with the same generator. A single chain without a generator is decoded greedily.
            mode: ``"rounds"``: reason, zoom and answer. ``"expected"``: the mean of the rating's
                distribution in one forward pass, without reasoning or rounds; faster.
            regions: ``"model"`` also rates the regions that the chains requested.
            limits: sizes accepted, e.g. ``ImageLimits(max_pixels=200_000_000)``.

        Returns:
            One :class:`Assessment` per image, in a list unless ``images`` is a single image. An
            image that cannot be read or judged, or is one flat colour, gives ``valid=False`` with
            its error; the others are not affected.

        Raises:
            BadTypeError, BadShapeError, BadValuesError: ``images`` holds something that is no
                image, or an array or tensor with values outside [0, 1].
            ValueError: settings that exclude each other.
        """
        if mode not in ("rounds", "expected") or regions not in (None, "model"):
            raise ValueError(
                f'expected mode "rounds" or "expected" and regions None or "model", got {mode!r} '
                f"and {regions!r}"
            )
        if mode == "expected" and (regions or samples):
            raise ValueError('mode="expected" has no chains: leave out samples and regions')
        if mode == "expected" and self.prompts.answer is not None:
            raise ValueError(
                'mode="expected" starts a reply of Zoom-IQA, and the prompts '
                f'{self.prompts.name} have an answer of their own; use mode="rounds"'
            )
        seeds = self._seeds(samples, generator) if mode == "rounds" else [self.config.seed]
        greedy = len(seeds) == 1 and generator is None
        groups = decoded_groups(each_image(images), limits)
        assessments = [
            a for group in groups for a in self._assess(group, seeds, greedy, mode, regions)
        ]
        return assessments[0] if is_single_image(images) else assessments

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionScore]:
        """Rate regions of one image, each enlarged and in the context of the whole.

        The model answers round 1 about the image once; then each region is shown as if the model
        had requested it.

        Args:
            image: one image.
            bboxes: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
            samples: number of chains per region; None for the configuration's.
            generator: as in :meth:`assess`.
            limits: sizes accepted.

        Returns:
            One :class:`RegionScore` per box; a failed one has an ``error``.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
            ValueError: a box is malformed.
        """
        for bbox in bboxes:
            check_bbox(bbox)
        seeds = self._seeds(samples, generator)
        first = self._chain(
            to_pil(read_to_judge(image, limits=limits).pixels),
            seeds[0],
            greedy=len(seeds) == 1 and generator is None,
            max_rounds=1,
        )
        self.backend.run([first])
        return self._region_scores([(first, bboxes)], seeds)[0]

    def quality_map(
        self,
        image: ImageSource,
        grid: tuple[int, int] = (4, 4),
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Tensor:
        """Ratings on a grid of regions that tile the image.

        Args:
            image: one image.
            grid: rows and columns.
            samples: number of chains per region; None for the configuration's.
            generator: as in :meth:`assess`.
            limits: sizes accepted.

        Returns:
            (1, rows, columns) fp32, 1–5; NaN where the judge failed.

        Raises:
            ImageError: the image cannot be read, or is one flat colour.
            ValueError: no such grid.
        """
        import torch

        rows, columns = grid
        bboxes = grid_boxes(rows, columns)
        regions = self.score_regions(
            image, bboxes, samples=samples, generator=generator, limits=limits
        )
        return torch.tensor([region.rating for region in regions]).view(1, rows, columns)

    def _assess(
        self,
        group: Sequence[Photo | Assessment],
        seeds: Sequence[int],
        greedy: bool,
        mode: Mode,
        regions: Literal["model"] | None,
    ) -> list[Assessment]:
        """One assessment per photo; those that are failed already are passed on."""
        photos = [item for item in group if isinstance(item, Photo)]
        chains = [
            [self._chain(photo.image, seed, greedy=greedy) for seed in seeds] for photo in photos
        ]
        flat = [chain for of_photo in chains for chain in of_photo]
        if mode == "expected":
            assessments = self.backend.expected(flat)
        else:
            self.backend.run(flat)
            assessments = [combine_chains(of_photo) for of_photo in chains]
        if regions == "model":
            wanted = [(with_round_1(of_photo), chosen_regions(of_photo)) for of_photo in chains]
            scores = self._region_scores(wanted, seeds)
            assessments = [
                replace(a, regions=tuple(of_photo))
                for a, of_photo in zip(assessments, scores, strict=True)
            ]
        named = (
            replace(a, name=photo.name, notes=photo.notes)
            for a, photo in zip(assessments, photos, strict=True)
        )
        return [next(named) if isinstance(item, Photo) else item for item in group]

    def _region_scores(
        self, wanted: Sequence[tuple[Chain, Sequence[BBox]]], seeds: Sequence[int]
    ) -> list[list[RegionScore]]:
        """Scores of regions of several images, each image with a chain that finished round 1."""
        chains = [[region_chains(first, bbox, seeds) for bbox in boxes] for first, boxes in wanted]
        self.backend.run([chain for image in chains for region in image for chain in region])
        return [
            [region_score(b, region, first) for b, region in zip(boxes, image, strict=True)]
            for (first, boxes), image in zip(wanted, chains, strict=True)
        ]

    def _chain(
        self, image: Image.Image, seed: int, *, greedy: bool, max_rounds: int | None = None
    ) -> Chain:
        config = self.config
        return Chain(
            image,
            self.prompts,
            config.question or self.prompts.question(config.seed),
            seed=seed,
            max_rounds=max_rounds or config.max_rounds,
            retries=config.retries,
            repair=config.repair,
            greedy=greedy,
        )

    def _seeds(self, samples: int | None, generator: torch.Generator | None) -> list[int]:
        """One seed per chain, by successive draws."""
        import torch

        count = self.config.samples if samples is None else samples
        if count < 1:
            raise ValueError(f"samples counts chains, at least 1; got {count}")
        if generator is None:
            generator = torch.Generator().manual_seed(self.config.seed)
        draws = [
            torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
            for _ in range(count)
        ]
        return [int(draw) for draw in draws]
