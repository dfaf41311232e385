"""Pillow's global settings and plugins: half files, huge files, closed files, HEIC."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from PIL import ExifTags, Image, ImageFile

from tests.core.images.test_sources import JPEG, bomb, encoded, noise_image
from zoomiqa_core.images.errors import (
    ClosedImageError,
    ImageError,
    ImageLimits,
    TruncatedImageError,
    UnknownFormatError,
)
from zoomiqa_core.images.folders import search_images
from zoomiqa_core.images.inputs import each_image, read_or_fail
from zoomiqa_core.images.pillow import pillow_settings
from zoomiqa_core.images.sources import read_image


def test_half_a_file_is_truncated_whatever_other_libraries_have_set(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "half.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    for source in (tmp_path / "half.jpg", Image.open(tmp_path / "half.jpg")):
        with pytest.raises(TruncatedImageError, match="fetch or export it again"):
            read_image(source)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    Image.open(tmp_path / "half.jpg").load()  # the other library's reading is as it was


def test_many_threads_read_strictly_and_restore_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    ceiling = Image.MAX_IMAGE_PIXELS
    (tmp_path / "half.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    codes: list[str] = []

    def work():
        for _ in range(20):
            try:
                read_image(tmp_path / "half.jpg", limits=ImageLimits(max_pixels=10**9))
            except ImageError as error:
                codes.append(error.code)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ["truncated"] * 160
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True and ceiling == Image.MAX_IMAGE_PIXELS


def test_limits_above_pillows_ceiling_are_the_callers(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses 2000 pixels and more
    (tmp_path / "a.png").write_bytes(bomb(100))
    said = read_or_fail(tmp_path / "a.png", limits=ImageLimits(max_pixels=900))
    assert said.error == "too_large"  # pyright: ignore[reportAttributeAccessIssue]
    assert read_image(tmp_path / "a.png", limits=ImageLimits(max_pixels=10_000)).pixels.shape
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_settings_come_back_after_an_error():
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(RuntimeError), pillow_settings(ImageLimits()):
        raise RuntimeError
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES


def closed_before_reading():
    with Image.open(io.BytesIO(encoded(noise_image(), "PNG"))) as image:
        pass
    return image


def closed_after_reading():
    image = Image.open(io.BytesIO(encoded(noise_image(), "PNG")))
    image.load()
    image.close()
    return image


@pytest.mark.parametrize("make", [closed_before_reading, closed_after_reading])
def test_a_closed_image_is_a_mistake_with_its_fix(make):
    with pytest.raises(ClosedImageError, match=r"call image\.load\(\) before closing"):
        read_image(make())
    with pytest.raises(ClosedImageError):
        [read_or_fail(image) for image in each_image([make()])]


def test_an_image_read_before_its_file_was_closed_is_fine():
    with Image.open(io.BytesIO(encoded(noise_image(), "PNG"))) as image:
        image.load()
    assert read_image(image).pixels.shape == (3, 24, 20)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


class HeifFile(ImageFile.ImageFile):
    """What a plugin registers: reads every file as one red pixel beside a blue one."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size = "RGB", (2, 1)

    def load(self):
        if self._im is None:
            self.im = Image.frombytes("RGB", (2, 1), bytes([255, 0, 0, 0, 0, 255])).im
        return Image.Image.load(self)


def test_heic_without_a_plugin_is_named_and_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    assert "HEIF" not in Image.OPEN
    for name in ("a.heic", "really_heic.jpg"):
        (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(UnknownFormatError, match="pip install pillow-heif"):
            read_image(tmp_path / name)
    found = search_images([tmp_path])
    assert [path.name for path in found.paths] == ["really_heic.jpg"]
    assert found.passed_over == {".heic": 1}


def test_heic_with_a_plugin_is_an_image_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("HEIF", HeifFile, lambda head: head[4:8] == b"ftyp")
    (tmp_path / "a.heic").write_bytes(HEIC)
    (tmp_path / "b.HIF").write_bytes(HEIC)
    found = search_images([tmp_path])
    assert [path.name for path in found.paths] == ["a.heic", "b.HIF"] and not found.passed_over
    assert read_image(tmp_path / "a.heic").pixels[:, 0].tolist() == [[1, 0], [0, 0], [0, 1]]


def test_a_real_heic_where_the_plugin_is_installed(tmp_path, monkeypatch):
    plugin = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Apple"
    plugin.from_pillow(picture).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    assert [path.name for path in search_images([tmp_path]).paths] == ["a.heic"]
    decoded = read_image(tmp_path / "a.heic")
    wanted = read_image(picture.transpose(Image.Transpose.ROTATE_270)).pixels  # turned once
    assert decoded.pixels.shape == wanted.shape
    assert (decoded.pixels - wanted).abs().mean() < 0.02
    kept = Image.Exif()
    kept.load(decoded.exif)
    assert dict(kept) == {ExifTags.Base.Make: "Apple"}
