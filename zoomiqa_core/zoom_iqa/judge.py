"""ZoomIQA: a vision-language judge that looks, zooms in, and explains its rating."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from PIL import Image

from zoomiqa_core.assessment import Assessment, BBox, RegionScore, Round, check_bbox
from zoomiqa_core.images.inputs import (
    ImageInput,
    each_image,
    in_parts,
    is_single_image,
    read_or_fail,
    read_to_judge,
)
from zoomiqa_core.images.sources import DecodedImage, ImageSource, to_pil
from zoomiqa_core.zoom_iqa.chain import Chain, chosen_regions, combine_chains, region_score
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mode = Literal["rounds", "expected"]

IMAGES_AT_ONCE = 32
"""A longer list is read and judged in parts of this length."""


class Backend(Protocol):
    """What replies: a model on this machine, or a server."""

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What of it may change a reply, in plain values."""
        ...

    def run(self, chains: Sequence[Chain]) -> None:
        """Drive all chains to their end.

        What goes wrong with one chain ends that one alone (:meth:`Chain.fail`); only what is wrong
        with the program or its settings raises.
        """
        ...

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The rating each model expects to give at once (``mode="expected"``).

        Raises:
            ValueError: this backend has no such readout.
        """
        ...


@dataclass(frozen=True)
class JudgeConfig:
    """How a Zoom-IQA judge is asked."""

    samples: int = 1
    """Chains an image, K. One chain has no spread (``rating_std`` is NaN); four or more have."""
    max_rounds: int = MAX_ROUNDS
    """Looks at most; 1 never zooms."""
    retries: int = 1
    """How often a reply without a usable answer is asked for again."""
    seed: int = 0
    """Chain k of a seed is the same chain whatever K, the batch and the image's place in it."""
    question: str | None = None
    """What is asked; None takes the prompts' question of the seed."""
    repair: bool = False
    """Read answers that are almost JSON (needs ``json-repair``)."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_rounds < 1 or self.retries < 0 or self.seed < 0:
            raise ValueError(
                "expected samples ≥ 1, max_rounds ≥ 1, retries ≥ 0 and seed ≥ 0, got "
                f"{self.samples}, {self.max_rounds}, {self.retries}, {self.seed}"
            )


class ZoomIQA:
    """A Zoom-IQA judge as a :class:`~zoomiqa_core.scorer.Scorer`.

    Safe to call from several threads: a call keeps no state on the judge.

    Args:
        backend: what replies.
        prompts: the texts the model was trained on.
        config: how it is asked.
        name: what reports call it; the backend's name by default.
    """

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
    def settings(self) -> Mapping[str, Any]:
        """What may change a rating beside the model, in plain values."""
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
    ) -> list[Assessment]: ...

    def assess(
        self,
        images: ImageInput,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
        mode: Mode = "rounds",
        regions: Literal["model"] | None = None,
    ) -> Assessment | list[Assessment]:
        """Judge one image or a list of them.

        Args:
            images: a path, PIL image, array (H, W, C) or tensor (3, H, W); or several: a batch
                (B, 3, H, W) or (B, H, W, C), a list, or any other iterable of images.
            samples: chains an image; None for the configuration's.
            generator: gives each chain its seed by successive draws, the same for every image of
                the call; None for a fresh one of the configuration's seed. So K chains equal K
                calls of one chain with the same generator.
            mode: ``"rounds"`` lets the model think, zoom and answer. ``"expected"`` reads, in a
                single forward pass and without any words, which rating it would answer at once:
                cheaper, with a distribution, and without rounds.
            regions: ``"model"`` also rates the regions the model itself asked to see.

        Returns:
            One :class:`Assessment` per image, in a list unless ``images`` is a single image. An
            image that cannot be read or judged, or is one flat colour, gives ``valid=False`` with
            its error; the others go on.

        Raises:
            BadTypeError, BadShapeError, BadValuesError: ``images`` holds something that is no
                image, or an array or tensor with values outside [0, 1].
            ValueError: settings that do not go together.
        """
        if mode not in ("rounds", "expected") or regions not in (None, "model"):
            raise ValueError(
                f'expected mode "rounds" or "expected" and regions None or "model", got {mode!r} '
                f"and {regions!r}"
            )
        if mode == "expected" and (regions or samples):
            raise ValueError('mode="expected" takes one look: no samples and no regions')
        seeds = self._seeds(samples, generator)
        parts = in_parts(each_image(images), IMAGES_AT_ONCE)
        assessments = [said for part in parts for said in self._assess(part, seeds, mode, regions)]
        return assessments[0] if is_single_image(images) else assessments

    def score_regions(
        self,
        image: ImageSource,
        bboxes: Sequence[BBox],
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[RegionScore]:
        """Rate regions of one image, each enlarged and in the context of the whole.

        The model takes a first look at the image (once for all regions), then each region is shown
        as the closer look it might have asked for.

        Args:
            image: one image.
            bboxes: normalised (x0, y0, x1, y1) with 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1.
            samples: chains a region; None for the configuration's.
            generator: as in :meth:`assess`.

        Returns:
            One :class:`RegionScore` per box; one the judge failed on has an ``error``.

        Raises:
            ImageError: the image cannot be read.
            ValueError: a box is malformed.
        """
        for bbox in bboxes:
            check_bbox(bbox)
        picture = to_pil(read_to_judge(image).pixels)
        seeds = self._seeds(samples, generator)
        look = self._chain(picture, seeds[0], max_rounds=1)
        self.backend.run([look])
        return self._region_scores([(look, bboxes)], seeds)[0]

    def quality_map(
        self,
        image: ImageSource,
        grid: tuple[int, int] = (4, 4),
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Ratings on a grid of regions that tile the image.

        Args:
            image: one image.
            grid: rows and columns.
            samples: chains a region; None for the configuration's.
            generator: as in :meth:`assess`.

        Returns:
            (1, rows, columns) fp32, 1–5; NaN where the judge failed.

        Raises:
            ImageError: the image cannot be read.
            ValueError: no such grid.
        """
        import torch

        rows, columns = grid
        if rows < 1 or columns < 1:
            raise ValueError(f"expected a grid of at least 1×1 regions, got {rows}×{columns}")
        bboxes = [
            (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
            for y in range(rows)
            for x in range(columns)
        ]
        found = self.score_regions(image, bboxes, samples=samples, generator=generator)
        return torch.tensor([region.rating for region in found]).view(1, rows, columns)

    def _assess(
        self,
        sources: Sequence[ImageSource],
        seeds: Sequence[int],
        mode: Mode,
        regions: Literal["model"] | None,
    ) -> list[Assessment]:
        decoded = [read_or_fail(source) for source in sources]
        pictures = {
            i: to_pil(d.pixels) for i, d in enumerate(decoded) if isinstance(d, DecodedImage)
        }
        seeds = seeds if mode == "rounds" else seeds[:1]
        chains = {i: [self._chain(p, seed) for seed in seeds] for i, p in pictures.items()}
        every = [chain for group in chains.values() for chain in group]
        said: dict[int, Assessment] = {}
        if mode == "expected":
            said = dict(zip(chains, self.backend.expected(every), strict=True))
        else:
            self.backend.run(every)
            said = {i: combine_chains(group) for i, group in chains.items()}
        if regions == "model":
            wanted = [(_first_look(group), chosen_regions(group)) for group in chains.values()]
            for i, scores in zip(chains, self._region_scores(wanted, seeds), strict=True):
                said[i] = replace(said[i], regions=tuple(scores))
        return [
            replace(said[i], name=d.name, notes=d.notes) if isinstance(d, DecodedImage) else d
            for i, d in enumerate(decoded)
        ]

    def _chain(self, picture: Image.Image, seed: int, *, max_rounds: int | None = None) -> Chain:
        config = self.config
        return Chain(
            picture,
            self.prompts,
            self._question(),
            seed=seed,
            max_rounds=max_rounds or config.max_rounds,
            retries=config.retries,
            repair=config.repair,
        )

    def _question(self) -> str:
        return self.config.question or self.prompts.question(self.config.seed)

    def _region_scores(
        self, wanted: Sequence[tuple[Chain, Sequence[BBox]]], seeds: Sequence[int]
    ) -> list[list[RegionScore]]:
        """Scores for the boxes of several images, each with a chain that has taken a first look."""
        settings = {"retries": self.config.retries, "repair": self.config.repair}
        groups: list[list[tuple[BBox, list[Chain]]]] = []
        for look, bboxes in wanted:
            first = look.rounds[0]
            groups.append([])
            for bbox in bboxes:
                chains = [
                    Chain.of_region(
                        look.image, bbox, first, look.prompts, look.question, seed=seed, **settings
                    )
                    for seed in seeds
                    if first.valid
                ]
                groups[-1].append((bbox, chains))
        self.backend.run([chain for group in groups for _, chains in group for chain in chains])
        return [
            [
                region_score(bbox, chains) if chains else _unseen(bbox, look.rounds[0])
                for bbox, chains in group
            ]
            for group, (look, _) in zip(groups, wanted, strict=True)
        ]

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


def _unseen(bbox: BBox, look: Round) -> RegionScore:
    """A region that could not be judged, since the look at the whole image failed."""
    return RegionScore(bbox, math.nan, math.nan, look.error, look.message)


def _first_look(chains: Sequence[Chain]) -> Chain:
    """A chain whose round 1 is usable, if there is one."""
    return next((chain for chain in chains if chain.rounds[0].valid), chains[0])
