"""Feature maps of a frozen vision tower, computed once per view and kept on disk.

For FastVLM with an EfficientNet of timm. The map kept is that of the last block, before the tower's
1 × 1 head, so the head can still be trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoomiqa_core.runs.files import atomic_path
from zoomiqa_core.zoom_iqa.crop import CropBox, crop_image
from zoomiqa_core.zoom_iqa.local.families.registry import family_of

WHOLE = "whole"


def accept_maps(model: Any) -> None:
    """Let a model take maps of :func:`block_map` in place of pixels; the blocks are frozen.

    Args:
        model: a FastVLM with an EfficientNet of timm; changed in place, its weights are not.

    Raises:
        ValueError: another vision tower.
    """
    tower = _tower(model)
    for part in (tower.conv_stem, tower.bn1, tower.blocks):
        part.requires_grad_(False)

    def forward_features(maps: Tensor) -> Tensor:
        maps = maps if maps.shape[1] != 3 else _blocks(tower, maps)
        head: Tensor = tower.bn2.eval()(tower.conv_head(maps))  # its statistics stay those stored
        return head

    tower.forward_features = forward_features


@torch.no_grad()
def block_map(model: Any, pixels: Tensor) -> Tensor:
    """The last block's map (B, C, h, w) of images (B, 3, H, W) from the model's processor.

    >>> from zoomiqa_core.training.small_vlm import SmallSize, build_small_vlm
    >>> model, _ = build_small_vlm(SmallSize(hidden=32, layers=1, heads=2, side=64))
    >>> pixels = torch.randn(1, 3, 64, 64)
    >>> maps = block_map(model, pixels)
    >>> whole = model.model.get_image_features(pixels).pooler_output
    >>> accept_maps(model)
    >>> tuple(maps.shape), torch.equal(model.model.get_image_features(maps).pooler_output, whole)
    ((1, 320, 2, 2), True)
    """
    tower = _tower(model)
    return _blocks(tower, pixels.to(model.device, model.dtype))


class MapCache:
    """Maps of pictures and of crops of them, in fp16; one file a picture.

    Args:
        folder: of the files; created when needed.
        model: a FastVLM with an EfficientNet of timm.
        processor: its processor.
    """

    def __init__(self, folder: str | Path, model: Any, processor: Any) -> None:
        self.folder, self.model = Path(folder), model
        self._family = family_of(model, processor)
        self._known: dict[str, tuple[tuple[int, int], dict[str, Tensor]]] = {}

    def size(self, name: str, picture: Callable[[], Image.Image]) -> tuple[int, int]:
        """(width, height) of a picture.

        Args:
            name: of the picture, unique.
            picture: reads it; called if nothing is known of it yet.
        """
        return self._of(name, picture)[0]

    def maps(
        self, name: str, picture: Callable[[], Image.Image], crops: Sequence[CropBox | None]
    ) -> list[Tensor]:
        """Maps (C, h, w) of views of a picture; what is missing is computed and stored.

        Args:
            name: of the picture, unique.
            picture: reads it.
            crops: the views; None is the whole.
        """
        size, known = self._of(name, picture)
        names = [WHOLE if crop is None else ",".join(map(str, crop.bbox_px)) for crop in crops]
        missing = [pair for pair in zip(names, crops, strict=True) if pair[0] not in known]
        if missing:
            image = picture()
            for view, crop in missing:
                known[view] = self._map(image if crop is None else crop_image(image, crop))
            self._save(name, size, known)
        return [known[view].float() for view in names]

    def _of(
        self, name: str, picture: Callable[[], Image.Image]
    ) -> tuple[tuple[int, int], dict[str, Tensor]]:
        if name not in self._known:
            path = self._path(name)
            if path.is_file():
                with safe_open(path, "pt") as file:
                    width, height = json.loads(file.metadata()["size"])
                    maps = {view: file.get_tensor(view) for view in sorted(file.keys())}
            else:
                image = picture()
                (width, height), maps = image.size, {WHOLE: self._map(image)}
                self._save(name, (width, height), maps)
            self._known[name] = (width, height), maps
        return self._known[name]

    def _map(self, image: Image.Image) -> Tensor:
        pixels = self._family.prepare(image).tensors["pixel_values"]
        return block_map(self.model, pixels)[0].half()

    def _save(self, name: str, size: tuple[int, int], maps: dict[str, Tensor]) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            save_file(maps, partial, {"size": json.dumps(size)})

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"


def _tower(model: Any) -> Any:
    tower = getattr(getattr(model.model, "vision_tower", None), "timm_model", None)
    if not all(hasattr(tower, part) for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2")):
        raise ValueError(
            f"expected a FastVLM with an EfficientNet of timm, got {type(model).__name__} with "
            f"{type(tower).__name__}: its maps cannot be stored; use map_cache=false"
        )
    return tower


def _blocks(tower: Any, pixels: Tensor) -> Tensor:
    return tower.blocks(tower.bn1.eval()(tower.conv_stem(pixels)))
