"""Weights in one file, of real spandrel architectures with random numbers."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from restoration_guide import BestOfN, load_restorer
from restoration_guide.restorers.network import NetworkRestorer

spandrel: Any = pytest.importorskip("spandrel", reason="the extra `spandrel` is not installed")


def image(height: int = 30, width: int = 44) -> Tensor:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def build(architecture: str, **sizes: Any) -> torch.nn.Module:
    module = importlib.import_module(f"spandrel.architectures.{architecture}")
    return getattr(module, architecture)(**sizes).eval()


def compact(scale: int = 2, channels: int = 3) -> torch.nn.Module:
    return build("Compact", num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=1,
                 upscale=scale)  # fmt: skip


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_enlarger_works_on_the_inputs_grid(suffix: str, tmp_path: Path, stubs: Any) -> None:
    model, file = compact(scale=2), tmp_path / f"x2{suffix}"
    if suffix == ".pth":
        torch.save({"params_ema": model.state_dict()}, file)  # as BasicSR saves it
    else:
        save_file(model.state_dict(), file)
    restorer: Any = load_restorer(file)
    assert isinstance(restorer, NetworkRestorer) and restorer.name == str(file)
    assert {entry["reduce"] for entry in restorer.plan} == {1, 2} and len(restorer.plan) == 8
    with torch.no_grad():
        raw = model(image()).clamp(0, 1)
    reference = F.interpolate(raw, (30, 44), mode="bicubic", antialias=True).clamp(0, 1)[0]
    (first, *_) = restorer.restore(image(), n=8)
    torch.testing.assert_close(first.image, reference, atol=1e-6, rtol=0)
    assert not first.image.requires_grad and not first.image.is_inference()
    result = BestOfN(restorer, stubs.Scorer(), n=8)(image()[0])
    assert len(result.candidates) == 8 and result.error is None


def test_a_model_of_scale_1_runs_as_it_is_on_padded_sizes(tmp_path: Path) -> None:
    model = build("DRUNet", in_nc=4, out_nc=3, nc=[4, 4, 8, 8], nb=2)  # sides are multiples of 8
    save_file(model.state_dict(), tmp_path / "x1.safetensors")
    restorer: Any = load_restorer(tmp_path / "x1.safetensors")
    assert restorer.plan == tuple({"reduce": 1, "strength": s} for s in (1.0, 0.5, 0.75, 0.25))
    (made,) = restorer.restore(image(), n=1)
    padded = F.pad(image(), (0, 4, 0, 2), mode="reflect")
    with torch.no_grad():
        reference = model(torch.cat([padded, torch.full((1, 1, 32, 48), 15 / 255)], 1))
    torch.testing.assert_close(made.image, reference[0, :, :30, :44].clamp(0, 1), atol=1e-6, rtol=0)


def test_large_images_in_tiles(tmp_path: Path) -> None:
    save_file(compact(scale=2).state_dict(), tmp_path / "x2.safetensors")
    plan = [{"reduce": 1}]
    photo = image(100, 150)
    (whole,) = load_restorer(tmp_path / "x2.safetensors", plan=plan).restore(photo, n=1)
    tiled: Any = load_restorer(tmp_path / "x2.safetensors", plan=plan, tile=64)
    (made,) = tiled.restore(photo, n=1)
    assert (whole.nfe, made.nfe) == (1, 6)
    torch.testing.assert_close(made.image, whole.image, atol=2e-6, rtol=0)


def test_a_greyscale_model_keeps_the_colour(tmp_path: Path) -> None:
    save_file(compact(scale=1, channels=1).state_dict(), tmp_path / "grey.safetensors")
    (made,) = load_restorer(tmp_path / "grey.safetensors").restore(image(), n=1)
    change = made.image - image()[0]
    inside = ((made.image > 0) & (made.image < 1)).all(0)  # elsewhere it was clamped
    assert int(inside.sum()) > 100
    torch.testing.assert_close(change[0][inside], change[1][inside], atol=1e-6, rtol=0)


def test_dtype(tmp_path: Path) -> None:
    save_file(compact().state_dict(), tmp_path / "x2.safetensors")
    (half,) = load_restorer(tmp_path / "x2.safetensors", dtype=torch.bfloat16).restore(image(), n=1)
    (full,) = load_restorer(tmp_path / "x2.safetensors").restore(image(), n=1)
    assert half.image.dtype == torch.float32 and not torch.equal(half.image, full.image)
    torch.testing.assert_close(half.image, full.image, atol=0.02, rtol=0)
    unet = build("DRUNet", in_nc=4, out_nc=3, nc=[4, 4, 8, 8], nb=2)
    save_file(unet.state_dict(), tmp_path / "x1.safetensors")
    with pytest.raises(ValueError, match=r"holds DRUNet: no torch\.float16 for it"):
        load_restorer(tmp_path / "x1.safetensors", dtype=torch.float16)


class Harmful:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(
        {"params": compact().state_dict(), "x": Harmful(tmp_path / "made")}, tmp_path / "a.pth"
    )
    with pytest.raises(ValueError, match=r"a\.pth cannot be read .*mkdir.* could run code"):
        load_restorer(tmp_path / "a.pth")
    torch.save(compact(), tmp_path / "whole.pth")  # the model instead of its weights
    with pytest.raises(ValueError, match=r"Compact.*forbidden"):
        load_restorer(tmp_path / "whole.pth")
    assert not (tmp_path / "made").exists()


def test_what_is_no_image_model_is_named(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "words.safetensors")
    with pytest.raises(ValueError, match=r"words\.safetensors holds no image model"):
        load_restorer(tmp_path / "words.safetensors")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as the weights"):
        load_restorer(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.safetensors cannot be read as the weights"):
        load_restorer(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth is missing"):
        load_restorer(tmp_path / "absent.pth")
    (tmp_path / "script.pt").write_bytes(b"TorchScript")
    with pytest.raises(ValueError, match=r"script\.pt .*expected \.safetensors, \.pth"):
        load_restorer(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purpose": "FaceSR"}, "holds RealESRGAN Compact, which restores aligned faces"),
        ({"input_channels": 4}, "which turns 4 channels into 3: expected 3 or 1 of each"),
    ],
)
def test_models_for_something_else(
    change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = compact(), tmp_path / "x2.pth"
    torch.save(model.state_dict(), file)
    arguments = {"purpose": "SR", "tags": [], "supports_half": True, "supports_bfloat16": True,
                 "scale": 2, "input_channels": 3, "output_channels": 3} | change  # fmt: skip
    architecture = importlib.import_module("spandrel.architectures.Compact").CompactArch()
    found = spandrel.ImageModelDescriptor(model, model.state_dict(), architecture, **arguments)
    monkeypatch.setattr(spandrel.ModelLoader, "load_from_file", lambda self, path: found)
    with pytest.raises(ValueError, match=words):
        load_restorer(file)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ImportError, match=r"pip install '.*\[spandrel\]'"):
        load_restorer(tmp_path / "x2.pth")
