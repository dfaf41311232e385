"""Progressive re-sampling over bins of the mean opinion score (Zoom-IQA, arXiv 2601.02918).

Most ratings lie in the middle of the scale, and a model trained on them predicts the middle.
Training starts with the natural shares of the bins and moves to equal shares, so that the ends of
the scale are seen often. The paper's schedule was not available to us; here image i of a bin with
n_bin of the N images is drawn with probability

    w_i(t) = (1 − t) / N + t / (n_bins · n_bin)          n_bins counts the bins that are not empty

where t rises linearly from 0 to 1 over the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from zoomiqa_core.runs.random import numbered_generator

Base: Any = object  # stands for GRPOTrainer, which is imported where the trainer is made

EDGES = (1.8, 2.6, 3.4, 4.2)
"""Inner edges of the bins, rating units; an edge belongs to the bin above it."""


def bins_of(ratings: Sequence[float]) -> Tensor:
    """(N,) bin of each rating between :data:`EDGES`, from 0.

    >>> bins_of([1.0, 1.8, 3.0, 5.0])
    tensor([0, 1, 2, 4])

    Raises:
        ValueError: a rating is not finite.
    """
    values = torch.tensor(ratings, dtype=torch.float64)
    if not values.isfinite().all():
        place = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"MOS of sample {place} is {float(values[place])}: leave it out")
    return torch.bucketize(values, torch.tensor(EDGES, dtype=torch.float64), right=True)


def bin_shares(bins: Tensor, t: float) -> Tensor:
    """(bins,) share of the draws that the schedule gives each bin at t."""
    weights = sample_weights(bins, t)
    return torch.zeros(int(bins.max()) + 1, dtype=weights.dtype).index_add(0, bins, weights)


def sample_weights(bins: Tensor, t: float) -> Tensor:
    """(N,) fp64 probability of each sample at t; they sum to 1.

    >>> bins = torch.tensor([0, 0, 0, 1])
    >>> sample_weights(bins, 0.0).tolist()
    [0.25, 0.25, 0.25, 0.25]
    >>> sample_weights(bins, 1.0).tolist()
    [0.1666..., 0.1666..., 0.1666..., 0.5]

    Args:
        bins: (N,) from :func:`bins_of`; empty bins are ignored.
        t: 0 natural shares … 1 equal shares.
    """
    counts = torch.bincount(bins).double()
    filled = int((counts > 0).sum())
    return (1 - t) / len(bins) + t / (filled * counts[bins])


class ProgressiveSampler(Sampler[int]):
    """TRL's ``RepeatSampler`` with re-sampling: distinct images a chunk, each repeated in a row.

    The images of a chunk depend on its number and the seed alone, so a resumed run sees the same
    images. t follows the sampler's own count of chunks, because data loading runs ahead of the
    trainer's step.

    Args:
        ratings: MOS of each sample, 1–5.
        enabled: False keeps the natural shares throughout.
        mini_repeat_count: roll-outs an image.
        batch_size: distinct images a chunk.
        repeat_count: how often a chunk is yielded, for the steps that share its roll-outs.
        total_chunks: of the training; t reaches 1 at the last.
        seed: of the draws.
    """

    def __init__(
        self,
        ratings: Sequence[float],
        *,
        enabled: bool = True,
        mini_repeat_count: int,
        batch_size: int,
        repeat_count: int,
        total_chunks: int,
        seed: int,
    ) -> None:
        if not 1 <= batch_size <= len(ratings):
            raise ValueError(
                f"a chunk draws {batch_size} distinct images of {len(ratings)}: "
                "give more images, or a smaller generation batch"
            )
        self.bins = bins_of(ratings)
        self.enabled = enabled
        self.mini_repeat_count = mini_repeat_count
        self.batch_size = batch_size
        self.repeat_count = repeat_count
        self.chunks_an_epoch = len(ratings) // batch_size
        self.total_chunks = total_chunks
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at this epoch's first chunk."""
        self.epoch = epoch

    def __len__(self) -> int:
        per_chunk = self.batch_size * self.mini_repeat_count * self.repeat_count
        return self.chunks_an_epoch * per_chunk

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.chunks_an_epoch
        for chunk in range(first, first + self.chunks_an_epoch):
            images = self.chunk(chunk)
            for _ in range(self.repeat_count):
                for image in images:
                    yield from [image] * self.mini_repeat_count

    def progress(self, chunk: int) -> float:
        """t of a chunk; 0 throughout where re-sampling is off."""
        return chunk / max(1, self.total_chunks - 1) if self.enabled else 0.0

    def chunk(self, number: int) -> list[int]:
        """The distinct images of a chunk."""
        weights = sample_weights(self.bins, self.progress(number))
        generator = numbered_generator(self.seed, number)
        return torch.multinomial(weights, self.batch_size, generator=generator).tolist()

    def drawn_shares(self, windows: int = 20) -> tuple[Tensor, Tensor]:
        """(windows, bins) shares of the bins over the training: as drawn, and as scheduled."""
        count = int(self.bins.max()) + 1
        drawn, planned = [], []
        for part in torch.arange(self.total_chunks).tensor_split(min(windows, self.total_chunks)):
            chunks = part.tolist()
            images = torch.tensor([image for chunk in chunks for image in self.chunk(chunk)])
            drawn.append(torch.bincount(self.bins[images], minlength=count) / len(images))
            shares = [bin_shares(self.bins, self.progress(chunk)) for chunk in chunks]
            planned.append(torch.stack(shares).mean(0))
        return torch.stack(drawn), torch.stack(planned).float()


def plot_shares(sampler: ProgressiveSampler, path: str | Path) -> Path:
    """Picture of the bin shares over the training: drawn (lines) and scheduled (dashes)."""
    from matplotlib.figure import Figure

    drawn, planned = sampler.drawn_shares()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    x = torch.linspace(0, 1, len(drawn)).tolist()
    edges = ["1", *(f"{edge:g}" for edge in EDGES), "5"]
    for place in range(drawn.shape[1]):
        label = f"MOS {edges[place]}–{edges[place + 1]}"
        (line,) = axes.plot(x, drawn[:, place].tolist(), label=label)
        axes.plot(x, planned[:, place].tolist(), "--", color=line.get_color())
    axes.set(xlabel="share of the training", ylabel="share of the images drawn", ylim=(0, None))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return Path(path)


class ResamplingMixin(Base):
    """Draws a ``GRPOTrainer``'s images with :class:`ProgressiveSampler`, by the column ``mos``."""

    resampling: bool = False
    """Balance the ratings over the training; False keeps their natural shares."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return self.progressive_sampler(dataset)

    def progressive_sampler(self, dataset: Any = None) -> ProgressiveSampler:
        """The sampler of this training."""
        dataset = self.train_dataset if dataset is None else dataset
        args = self.args
        images = args.generation_batch_size // self.num_generations
        repeats = self.num_iterations * args.steps_per_generation
        if args.max_steps > 0:
            total = math.ceil(args.max_steps * args.gradient_accumulation_steps / repeats)
        else:
            total = math.ceil(args.num_train_epochs * (len(dataset) // images))
        return ProgressiveSampler(
            [float(mos) for mos in dataset.with_format(None)["mos"]],
            enabled=self.resampling,
            mini_repeat_count=self.num_generations,
            batch_size=images,
            repeat_count=repeats,
            total_chunks=total,
            seed=args.seed,
        )
