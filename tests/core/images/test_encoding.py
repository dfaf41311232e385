"""What an output keeps of its input: EXIF, alpha, depth, and the format that its name asks for."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from zoomiqa_core.images.colour import srgb_profile
from zoomiqa_core.images.encoding import encode
from zoomiqa_core.images.errors import BadShapeError, BadValuesError
from zoomiqa_core.images.sources import read_image, save_image

BASE, IFD = ExifTags.Base, ExifTags.IFD
SUFFIXES = (".png", ".jpg", ".webp", ".tiff")


def photo_exif() -> Image.Exif:
    """As a phone writes it: turned, its own size and colour space, a place."""
    exif = Image.Exif()
    exif[BASE.Artist] = "A. Dürer".encode()
    exif[BASE.Make], exif[BASE.Orientation], exif[BASE.XResolution] = "Leica", 6, 72.0
    exif[IFD.Exif] = {
        BASE.DateTimeOriginal: "2024:05:01 10:00:00",
        BASE.ColorSpace: 65535,
        BASE.ExifImageWidth: 12,
        BASE.ExifImageHeight: 8,
    }
    exif[IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    return exif


def steps(mode: str = "RGB", size: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture whose left edge is black and whose right is white."""
    ramp = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(size)
    return ramp.convert(mode)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_is_kept_for_the_upright_image(tmp_path, source, suffix) -> None:
    steps().save(tmp_path / f"in{source}", exif=photo_exif().tobytes())
    decoded = read_image(tmp_path / f"in{source}")
    assert decoded.pixels.shape == (3, 12, 8) and decoded.pixels[0, 0].max() < 0.2  # upright
    written = save_image(decoded.pixels, tmp_path / f"out{suffix}", like=decoded)
    again = read_image(written)
    assert again.pixels.shape == (3, 12, 8) and again.pixels[0, 0].max() < 0.2  # turned once
    with Image.open(written) as image:
        exif = image.getexif()
        assert exif[BASE.Make] == "Leica" and BASE.Orientation not in exif
        artist = exif[BASE.Artist].encode("latin-1").decode()
        # Pillow, which wrote the TIFF file here, knows ASCII alone
        assert artist == ("A. D??rer" if source == ".tiff" else "A. Dürer")
        assert dict(exif.get_ifd(IFD.Exif)) == {
            BASE.DateTimeOriginal: "2024:05:01 10:00:00",
            BASE.ColorSpace: 1,  # the pixels are sRGB now
            BASE.ExifImageWidth: 8,
            BASE.ExifImageHeight: 12,
        }
        assert dict(exif.get_ifd(IFD.GPSInfo)) == {ExifTags.GPS.GPSLatitudeRef: "N"}
        assert image.info["icc_profile"] == srgb_profile()


def test_how_a_tiff_stores_its_pixels_is_no_exif_of_a_jpeg(tmp_path) -> None:
    steps().save(tmp_path / "in.tiff", exif=photo_exif().tobytes())
    decoded = read_image(tmp_path / "in.tiff")
    with Image.open(save_image(decoded.pixels, tmp_path / "a.jpg", like=decoded)) as image:
        assert set(image.getexif()) == {
            BASE.Artist, BASE.Make, BASE.XResolution, IFD.Exif, IFD.GPSInfo,
        }  # fmt: skip


def test_exif_that_no_jpeg_holds_loses_the_cameras_notes(tmp_path) -> None:
    exif = photo_exif()
    exif[IFD.Exif][BASE.MakerNote] = bytes(70_000)
    steps().save(tmp_path / "in.png", exif=exif)
    decoded = read_image(tmp_path / "in.png")
    with Image.open(save_image(decoded.pixels, tmp_path / "a.jpg", like=decoded)) as image:
        kept = image.getexif().get_ifd(IFD.Exif)
    assert BASE.DateTimeOriginal in kept and BASE.MakerNote not in kept


def test_damaged_exif_costs_only_itself(tmp_path) -> None:
    steps().save(tmp_path / "in.png", exif=b"Exif\0\0II*\0broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own words on the damage
        decoded = read_image(tmp_path / "in.png")
    assert decoded.exif == b""
    assert read_image(save_image(decoded.pixels, tmp_path / "a.jpg", like=decoded)).exif == b""


def test_alpha_comes_back_beside_the_colour_by_hand(tmp_path) -> None:
    # red at 51/255 = .2 over white is (1, .8, .8); nothing at 0 is white
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 51))
    image.putpixel((1, 0), (0, 255, 0, 0))
    image.save(tmp_path / "in.png")
    decoded = read_image(tmp_path / "in.png")
    torch.testing.assert_close(decoded.pixels[:, 0, 0], torch.tensor([1, 0.8, 0.8]))
    for suffix in (".png", ".tiff"):
        with Image.open(save_image(decoded.pixels, tmp_path / f"a{suffix}", like=decoded)) as again:
            assert [again.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0, 51), (255, 255, 255, 0)]
    with Image.open(save_image(decoded.pixels, tmp_path / "a.jpg", like=decoded)) as opaque:
        assert opaque.mode == "RGB"  # as it looks over white


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_saved_copy_is_what_was_read(tmp_path, mode) -> None:
    image = steps("RGBA")
    image.putalpha(steps("L").rotate(180))
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "in.png")
    decoded = read_image(tmp_path / "in.png")
    again = read_image(save_image(decoded.pixels, tmp_path / "a.png", like=decoded))
    assert again.alpha is not None and decoded.alpha is not None
    assert torch.equal(again.alpha, decoded.alpha)
    torch.testing.assert_close(again.pixels, decoded.pixels, rtol=0, atol=0.51 / 255)


def test_an_opaque_image_has_no_alpha(tmp_path) -> None:
    steps("RGBA").save(tmp_path / "in.png")
    decoded = read_image(tmp_path / "in.png")
    assert decoded.alpha is None
    with Image.open(save_image(decoded.pixels, tmp_path / "a.png", like=decoded)) as image:
        assert image.mode == "RGB"


@pytest.mark.filterwarnings("ignore:.*TorchVision are deprecated:DeprecationWarning")
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_by_libpng(channels) -> None:
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (4, 7, 5)))
    pixels, alpha = levels[:3] / 65535, None
    if channels == 4:
        alpha = (levels[3:] / 65535).float().clamp(min=0.1)
        pixels = pixels * alpha + 1 - alpha
    data = encode(pixels, "PNG", alpha=alpha, bits=16, exif=photo_exif().tobytes())
    from torchvision.io import decode_image  # deprecated, and an independent reader

    decoded = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    assert decoded.dtype == torch.uint16 and len(decoded) == channels
    # a transparent colour is known as precisely as it shows
    difference = decoded[:3].int() - levels[:3].int()
    assert difference.abs().max() <= (0 if channels == 3 else 1)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.info["icc_profile"] == srgb_profile()
        assert image.getexif()[BASE.Make] == "Leica"


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_in_and_out_are_the_same(tmp_path, channels) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (7, 5, 4), np.uint16)
    levels[..., 3] = np.arange(35).reshape(7, 5) + 65_501  # the last is opaque
    wanted = levels[..., :3] / 65535
    alpha = None
    if channels == 4:
        alpha = torch.from_numpy(levels[..., 3] / 65535)[None].float()
        wanted = wanted * levels[..., 3:] / 65535 + 1 - levels[..., 3:] / 65535
    pixels = torch.from_numpy(wanted).permute(2, 0, 1)
    (tmp_path / "a.png").write_bytes(encode(pixels, "PNG", alpha=alpha, bits=16))
    decoded = read_image(tmp_path / "a.png")
    torch.testing.assert_close(decoded.pixels, pixels.float(), rtol=0, atol=1 / 65535)
    again = save_image(decoded.pixels, tmp_path / "b.png", like=decoded, bits=16)
    torch.testing.assert_close(read_image(again).pixels, decoded.pixels, rtol=0, atol=1 / 65535)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", "<>")
def test_16_bit_colours_of_a_tiff_keep_their_depth(tmp_path, order, compression) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (3, 4, 3), np.uint16)
    data = levels.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = [
        (256, 4), (257, 3), (258, 16), (259, compression), (262, 2), (273, 8), (274, 6), (277, 3),
        (278, 3), (279, len(data)),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    tail = struct.pack(order + "H", len(tags))
    bits = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in tags:
        count, value = (3, bits) if tag == 258 else (1, value)
        packed = struct.pack(order + "I", value)
        if tag != 258 and value < 65536:
            packed = struct.pack(order + "HH", value, 0)
        tail += struct.pack(order + "HHI", tag, 3, count) + packed
    tail += bytes(4) + struct.pack(order + "HHH", 16, 16, 16)
    (tmp_path / "a.tiff").write_bytes(head + data + tail)
    wanted = torch.from_numpy(np.rot90(levels, -1).astype(np.float32) / 65535).permute(2, 0, 1)
    decoded = read_image(tmp_path / "a.tiff")
    torch.testing.assert_close(decoded.pixels, wanted, rtol=0, atol=1e-6)
    with Image.open(tmp_path / "a.tiff") as image:  # which is left as it was
        torch.testing.assert_close(read_image(image).pixels, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_pixels_give_the_same_bytes(tmp_path, suffix) -> None:
    pixels = read_image(steps("RGB", (24, 16))).pixels
    one, two = (save_image(pixels, tmp_path / f"{name}{suffix}") for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert (read_image(one).pixels - pixels).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("a.gif", {}, ValueError, "a.gif: expected a name that ends in .png, .jpg"),
        ("a", {}, ValueError, "got 'no suffix'"),
        ("a.jpg", {"bits": 16}, ValueError, "name a .png file"),
        ("a.png", {"bits": 12}, ValueError, "expected 8 bits"),
        ("a.png", {"like": "small"}, BadShapeError, r"alpha: expected \(1, 8, 8\)"),
        ("a.png", {"image": torch.full((3, 8, 8), torch.nan)}, BadValuesError, "NaN"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, options, error, message) -> None:
    given: dict[str, Any] = {"image": torch.rand(3, 8, 8), **options}
    if "like" in given:
        given["like"] = read_image(np.full((4, 4, 4), 0.5))
    with pytest.raises(error, match=message):
        save_image(path=tmp_path / name, **given)
    assert not any(tmp_path.iterdir())


def test_what_is_in_memory_already_has_no_default_limit() -> None:
    assert read_image(torch.rand(3, 40_000, 2)).pixels.shape == (3, 40_000, 2)
    assert read_image(np.zeros((2, 40_000), np.uint8)).pixels.shape == (3, 2, 40_000)
