"""Crops of the wanted number and size; the rate leaves the start out."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.ray_speed import rate_of, write_crops


def test_crops_are_different_places_of_the_photos(tmp_path: Path) -> None:
    for index in range(2):
        photo = Image.linear_gradient("L").resize((130, 70)).convert("RGB")
        photo.putpixel((0, 0), (index, 0, 0))
        (tmp_path / "photos").mkdir(exist_ok=True)
        photo.save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "crops").mkdir()
    paths = write_crops(tmp_path / "photos", tmp_path / "crops", 3, 64)
    assert [Image.open(path).size for path in paths] == [(64, 64)] * 3
    with pytest.raises(ValueError, match="gives 4 crops of 64², not 9"):
        write_crops(tmp_path / "photos", tmp_path / "crops", 9, 64)


def test_a_rate_leaves_the_start_out() -> None:
    # 40 images in the 4 seconds after the first ten came
    assert rate_of([(60.0, 10), (62.0, 20), (64.0, 50)]) == (60.0, 10.0)
