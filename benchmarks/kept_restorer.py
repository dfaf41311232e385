"""A restorer that keeps what it made: studying a choice again takes seconds instead of hours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from restoration_guide.restorers.base import Candidate, Observer, Restorer
from zoomiqa_core.runs.files import atomic_path


class KeptRestorer:
    """Candidates from a folder where they are, else from ``restorer`` and then kept there.

    One safetensors file per image, seed and n; a killed run goes on where it was. The folder
    belongs to one restorer: nothing in it says which.

    Args:
        restorer: makes what is not there.
        folder: made when missing.
    """

    def __init__(self, restorer: Restorer, folder: Path) -> None:
        self.restorer = restorer
        self.folder = folder
        self.name, self.plan, self.limits = restorer.name, restorer.plan, restorer.limits

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W), with the seconds they took when made.

        Raises:
            ValueError: an observer, who would have nothing to see.
        """
        if observer is not None:
            raise ValueError("candidates that are kept have no previews for an observer.")
        file = self.file(image, seed, n)
        if not file.exists():
            made = list(self.restorer.restore(image, n=n, seed=seed, batch_size=batch_size))
            made.sort(key=lambda candidate: candidate.index)
            kept = {
                "images": torch.stack([candidate.image for candidate in made]),
                "seconds": torch.tensor([candidate.seconds for candidate in made]),
            }
            with atomic_path(file) as temporary:
                save_file(kept, temporary)
        kept = load_file(file)
        pairs = zip(kept["images"], kept["seconds"].tolist(), strict=True)
        for index, (pixels, seconds) in enumerate(pairs):
            yield Candidate(index, seed, self.plan[index % len(self.plan)], pixels, seconds)

    def file(self, image: Tensor, seed: int, n: int) -> Path:
        """Where the candidates of an image are kept."""
        pixels = hashlib.sha256(image.float().contiguous().numpy().tobytes()).hexdigest()
        return self.folder / f"{pixels[:24]}-{seed}-{n}.safetensors"
