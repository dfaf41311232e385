"""What the judge's speed is compared with, all as functions of one (1, 3, H, W) image in [0, 1].

Backbones carry random weights: their speed is the same. Peers that are not installed are left out
of the table by name.

BRISQUE comes from the package `brisque` (Apache-2.0); the SVM and its scaling are inside the wheel.
Its `score()` stops at NumPy 2.4 (it converts arrays of one element to floats), so its own steps
are called here in its order. No NIQE is timed: implementations with permissive licences use names
that NumPy and SciPy have removed (scikit-video) or come without the model of natural photos they
need (niqe), others are not permissive (pyiqa). NIQE computes the same locally normalised statistics
as BRISQUE.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Judge = Callable[[Tensor], Any]

BACKBONES = ("tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_atto")


def backbone(name: str) -> nn.Module:
    """A timm backbone up to its pooled features, without classifier, frozen."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0).eval().requires_grad_(False)


def laplacian_variance(image: Tensor) -> Tensor:
    """Variance of the Laplacian of the luma, the plainest measure of sharpness."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return functional.conv2d((image * weights).sum(1, keepdim=True), laplacian).var()


def ssim_with(reference: Tensor) -> Judge:
    """torchmetrics' SSIM with a reference image, for scale: a judge here has no reference."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    return lambda image: structural_similarity_index_measure(image, reference, data_range=1.0)


def brisque() -> Judge:
    """BRISQUE (Mittal et al., TIP 2012) of the package `brisque`.

    Raises:
        ImportError: the extra `eval` is not installed.
    """
    import cv2  # pyright: ignore[reportMissingImports]
    from brisque import BRISQUE  # pyright: ignore[reportMissingImports]
    from skimage.color import rgb2gray  # pyright: ignore[reportMissingImports]

    judge = BRISQUE(url=False)

    def score(image: Tensor) -> float:
        gray = rgb2gray(image[0].detach().permute(1, 2, 0).numpy())
        half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        scales = [judge.calculate_brisque_features(scale, 7, 7 / 6) for scale in (gray, half)]
        features = [float(np.ravel(feature)[0]) for scale in scales for feature in scale]
        return float(judge.calculate_image_quality_score(features))

    return score
