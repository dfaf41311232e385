"""Gradients of a reward's terms in the image, normalised before they are weighted.

Units and slopes of the terms differ by orders of magnitude: the slope of one PSNR decibel says
nothing about that of one rating point. So the image gradient of each term is divided by its running
RMS first, and a term's weight is then the RMS of what it contributes to the total gradient.

Gradients are per pixel value *times the number of values*, so that those of a mean over pixels do
not depend on the crop's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

MOMENTUM = 0.98
"""Share of the running mean square that an update keeps."""


class RunningRms:
    """Running root mean square of each term's image gradient; the same on every process.

    >>> rms = RunningRms()
    >>> rms.update({"truth": torch.tensor([3.0, 4.0])})
    >>> round(rms["truth"], 3), rms["not seen yet"]
    (3.536, 1.0)

    Args:
        momentum: share of the old mean square that an update keeps.
    """

    def __init__(self, momentum: float = MOMENTUM) -> None:
        self.momentum = momentum
        self.mean_square: dict[str, float] = {}

    def __getitem__(self, term: str) -> float:
        """The term's RMS; 1 before its first update."""
        return math.sqrt(self.mean_square.get(term, 1.0))

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Update with (N,) RMS values of each term; zeros and non-finite ones are left out.

        A gradient of exactly zero says that a term does not apply yet (the distance to a reference
        that training has not left), not how steep it is.
        """
        for name, found in values.items():
            found = found.detach().double().flatten()
            found = found[found.isfinite() & (found > 0)]
            if not len(found):
                continue
            new = float(found.square().mean())
            old = self.mean_square.get(name, new)
            self.mean_square[name] = self.momentum * old + (1 - self.momentum) * new


def image_gradients(terms: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Gradient of each term with respect to the images, times the values of an image.

    >>> images = torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> gradients = image_gradients({"bright": images.mean((1, 2, 3))}, images)
    >>> gradients["bright"].unique()  # 1 / 48 a value, times 48 values
    tensor([1.])

    Args:
        terms: (B,) each, image by image functions of ``images``.
        images: (B, 3, H, W) that requires a gradient.
    """
    values = images[0].numel()
    return {
        name: values * torch.autograd.grad(term.sum(), images, retain_graph=True)[0]
        for name, term in terms.items()
    }


def gradient_rms(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RMS of each image's gradient, (B,) each; what :class:`RunningRms` is updated with.

    >>> gradient_rms({"bright": torch.full((2, 3, 4, 4), -2.0)})
    {'bright': tensor([2., 2.])}
    """
    return {name: each.square().flatten(1).mean(1).sqrt() for name, each in gradients.items()}


def contributions(
    gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], scale: RunningRms
) -> dict[str, Tensor]:
    """What each term adds to the total gradient: weight · gradient / running RMS.

    >>> gradients = {"steep": torch.full((1, 3, 4, 4), 100.0), "flat": torch.full((1, 3, 4, 4), .1)}
    >>> scale = RunningRms()
    >>> scale.update(gradient_rms(gradients))
    >>> weights = {"steep": torch.tensor([1.0]), "flat": torch.tensor([3.0])}
    >>> {k: round(v.mean().item(), 4) for k, v in contributions(gradients, weights, scale).items()}
    {'steep': 1.0, 'flat': 3.0}

    Args:
        gradients: (B, 3, H, W) each, of :func:`image_gradients`.
        weights: (B,) each.
        scale: of the recent steps.
    """
    return {
        name: (weights[name] / scale[name]).view(-1, 1, 1, 1) * each
        for name, each in gradients.items()
    }


def gradient_shares(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Share of each term in the total gradient of a batch, (1,) each; they sum to 1.

    The projection ⟨part, total⟩ / ⟨total, total⟩: negative for a term that the others outweigh.

    >>> x, y = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    >>> x[..., 0], y[..., 1] = 3.0, 1.0  # at a right angle: 9 to 1
    >>> gradient_shares({"x": x, "y": y})
    {'x': tensor([0.9000]), 'y': tensor([0.1000])}
    """
    total = torch.stack(list(parts.values())).sum(0)
    square = total.square().sum().clamp_min(1e-30)
    return {name: ((part * total).sum() / square).view(1) for name, part in parts.items()}
