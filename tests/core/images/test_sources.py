"""The image boundary: right pixels by hand arithmetic, or the named error with its fix."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from zoomiqa_core.images.colour import srgb_profile
from zoomiqa_core.images.sources import (
    BadShapeError,
    BadTypeError,
    BadValuesError,
    EncodedImage,
    ImageError,
    ImageLimits,
    TooLargeError,
    TooSmallError,
    UnreadableImageError,
    read_image,
    save_png,
    to_batch,
    to_pil,
)
from zoomiqa_core.runs.files import atomic_path, write_text_atomic

RED, GREEN, BLUE, WHITE, BLACK = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0)


def levels(*rows):
    """Rows of RGB triples → (3, H, W)."""
    return torch.tensor(rows, dtype=torch.float32).permute(2, 0, 1)


def assert_pixels(source, expected, notes=()):
    image = read_image(source)
    assert image.pixels.dtype == torch.float32 and image.pixels.is_contiguous()
    torch.testing.assert_close(image.pixels, expected, rtol=0, atol=1e-7)
    assert image.notes == tuple(notes)


def png(width, height, depth, colour_type, raw, *extra):
    """A PNG made by hand: ``raw`` rows with their filter bytes, ``extra`` (tag, data) chunks."""

    def chunk(tag, data):
        crc = struct.pack(">I", zlib.crc32(tag + data))
        return struct.pack(">I", len(data)) + tag + data + crc

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(tag, data) for tag, data in chunks)


def u16(*values):
    return struct.pack(f">{len(values)}H", *values)


def encoded(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def solid(mode, colour, size=(16, 16)):
    return Image.new(mode, size, colour)


def noise_image(height=24, width=20):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, "PNG", transparency=bytes([255, 51]))


def animation():
    frames = [solid("RGB", colour, (2, 2)) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


# ---------------------------------------------------------------- files with right pixels

GREY_100 = 100 / 255
RIGHT = {
    "plain.png": (encoded(solid("RGB", (0, 51, 255), (1, 2)), "PNG"), [[(0, 0.2, 1)]] * 2, []),
    # 16-bit levels keep their depth: 1000 / 65535, not min(1000, 255) / 255.
    "grey16.png": (
        png(2, 1, 16, 0, b"\0" + u16(1000, 65535)),
        [[(1000 / 65535,) * 3, WHITE]],
        [],
    ),
    # The key 1000 marks transparent pixels: white shows through.
    "grey16_key.png": (
        png(2, 1, 16, 0, b"\0" + u16(1000, 0), (b"tRNS", u16(1000))),
        [[WHITE, BLACK]],
        ["alpha composited over white"],
    ),
    # 0x8040 keeps its depth.
    "rgb16.png": (
        png(1, 1, 16, 2, b"\0" + u16(0x8040, 0, 0xFFFF)),
        [[(0x8040 / 65535, 0, 1)]],
        [],
    ),
    "rgb16_key.png": (
        png(
            2,
            1,
            16,
            2,
            b"\0" + u16(0x1234, 0x5678, 0x9ABC, 0, 0, 0),
            (b"tRNS", u16(0x1234, 0x5678, 0x9ABC)),
        ),
        [[WHITE, BLACK]],
        ["16-bit colour read at 8 bits", "alpha composited over white"],
    ),
    "grey16.pgm": (b"P5 1 1 65535\n" + u16(32768), [[(32768 / 65535,) * 3]], []),
    "float.tiff": (
        encoded(Image.fromarray(np.array([[0.25, 1.0]], np.float32)), "TIFF"),
        [[(0.25,) * 3, WHITE]],
        [],
    ),
    # Adobe JPEGs store inverted inks; full cyan ink is (0, 1, 1) on screen.
    "cmyk.jpg": (
        encoded(solid("CMYK", (255, 0, 0, 0)), "JPEG", quality=100),
        [[(0, 1, 1)] * 16] * 16,
        ["CMYK converted without a colour profile"],
    ),
    "cmyk.tiff": (
        encoded(solid("CMYK", (0, 0, 0, 204), (1, 1)), "TIFF"),
        [[(0.2, 0.2, 0.2)]],
        ["CMYK converted without a colour profile"],
    ),
    # Blue at alpha 51/255 = 0.2 over white: 0 · 0.2 + 0.8 and 1 · 0.2 + 0.8.
    "palette_transparency.png": (
        palette_with_transparency(),
        [[RED, (0.8, 0.8, 1)]],
        ["alpha composited over white"],
    ),
    # Grey 100 at alpha 0.4: 100 / 255 · 0.4 + 0.6; hidden black at alpha 0 must not show.
    "la.png": (
        png(2, 1, 8, 4, b"\0" + bytes([100, 102, 0, 0])),
        [[(GREY_100 * 0.4 + 0.6,) * 3, WHITE]],
        ["alpha composited over white"],
    ),
    "rgba.png": (
        encoded(solid("RGBA", (255, 0, 0, 102), (1, 1)), "PNG"),
        [[(1, 0.6, 0.6)]],
        ["alpha composited over white"],
    ),
    "opaque_rgba.png": (
        encoded(solid("RGBA", (255, 0, 0, 255), (1, 1)), "PNG"),
        [[RED]],
        [],
    ),
    # Bits 1000 0000 and 0111 1111 of a one-bit image: 1 is white.
    "one_bit.png": (
        png(2, 2, 1, 0, bytes([0, 0b10000000, 0, 0b01111111])),
        [[WHITE, BLACK], [BLACK, WHITE]],
        [],
    ),
    "animated.gif": (animation(), [[RED, RED]] * 2, ["first of 3 frames"]),
    "one_pixel.png": (encoded(solid("L", 100, (1, 1)), "PNG"), [[(GREY_100,) * 3]], []),
    "thread.png": (encoded(solid("RGB", "blue", (1, 10_000)), "PNG"), [[BLUE]] * 10_000, []),
    "named_wrongly.jpg": (encoded(solid("RGB", "lime", (1, 1)), "BMP"), [[GREEN]], []),
}


@pytest.mark.parametrize("name", RIGHT)
def test_file_gives_the_right_pixels(tmp_path, name):
    data, rows, notes = RIGHT[name]
    (tmp_path / name).write_bytes(data)
    assert_pixels(tmp_path / name, levels(*rows), notes)
    assert_pixels(Image.open(tmp_path / name), levels(*rows), notes)


UPRIGHT = [[RED, GREEN, BLUE], [WHITE, BLACK, (1, 1, 0)]]
# The stored grids that each orientation tag makes upright (EXIF 2.3: where the stored first row
# and first column lie in the visible image).
(A, B, C), (D, E, F) = UPRIGHT
STORED = {
    1: [[A, B, C], [D, E, F]],
    2: [[C, B, A], [F, E, D]],  # row at the top, column at the right
    3: [[F, E, D], [C, B, A]],  # row at the bottom, column at the right
    4: [[D, E, F], [A, B, C]],  # row at the bottom, column at the left
    5: [[A, D], [B, E], [C, F]],  # row at the left, column at the top
    6: [[C, F], [B, E], [A, D]],  # row at the right, column at the top
    7: [[F, C], [E, B], [D, A]],  # row at the right, column at the bottom
    8: [[D, A], [E, B], [F, C]],  # row at the left, column at the bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(tmp_path, orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grid = np.array(STORED[orientation], np.uint8) * 255
    options = {"lossless": True} if fmt == "WEBP" else {}
    path = tmp_path / f"photo.{fmt.lower()}"
    path.write_bytes(encoded(Image.fromarray(grid), fmt, exif=exif, **options))
    assert_pixels(path, levels(*UPRIGHT))


def test_exif_orientation_of_a_jpeg_and_of_16_bit_grey(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    half = Image.new("L", (32, 16))
    half.paste(255, (0, 0, 16, 16))  # stored left half bright → visible upper half bright
    (tmp_path / "a.jpg").write_bytes(encoded(half, "JPEG", exif=exif, quality=95))
    pixels = read_image(tmp_path / "a.jpg").pixels
    assert pixels.shape == (3, 32, 16)
    assert pixels[:, :15].min() > 0.9 and pixels[:, 17:].max() < 0.1
    deep = Image.fromarray(np.array([[1000, 2000]], np.uint16))
    (tmp_path / "b.png").write_bytes(encoded(deep, "PNG", exif=exif))
    expected = torch.tensor([1000.0, 2000.0]).div(65535).reshape(1, 2, 1).expand(3, 2, 1)
    assert_pixels(tmp_path / "b.png", expected)


def test_damaged_exif_is_noted_and_pixels_kept(tmp_path):
    data = encoded(solid("RGB", "red", (1, 1)), "PNG", exif=b"Exif\0\0XX" + b"\0" * 20)
    (tmp_path / "a.png").write_bytes(data)
    assert_pixels(tmp_path / "a.png", levels([RED]), ["EXIF unreadable, orientation not applied"])


# ---------------------------------------------------------------- files with a named error


def bomb(side):
    """Some kilobytes that decode to side² pixels."""
    row = b"\0" + bytes((side + 7) // 8)
    return png(side, side, 1, 0, row * side)


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
JPEG = encoded(noise_image(64, 64), "JPEG")
WRONG = {
    "bomb_14000.png": (lambda: bomb(14_000), "too_large", "downscale"),
    "bomb_9000.png": (lambda: bomb(9_000), "too_large", "9000×9000 pixels; the limits"),
    "long.png": (lambda: png(40_000, 1, 1, 0, bytes(5001)), "too_large", "32,768 a side"),
    "truncated.jpg": (lambda: JPEG[: len(JPEG) // 2], "truncated", "fetch or export it again"),
    "truncated.png": (
        lambda: encoded(noise_image(), "PNG")[:-200],
        "truncated",
        "incomplete or damaged",
    ),
    "vector.png": (lambda: SVG, "unknown_format", "convert it to PNG or JPEG"),
    "runs_a_program.png": (lambda: EPS, "unknown_format", "convert it to PNG or JPEG"),
    "text.jpg": (lambda: b"not an image", "unknown_format", "not a raster image"),
    "empty.png": (lambda: b"", "empty", "the file is empty"),
    "int32.tiff": (
        lambda: encoded(Image.fromarray(np.array([[-1, 70_000]], np.int32)), "TIFF"),
        "bad_values",
        "integers from -1 to 70000",
    ),
    "float_255.tiff": (
        lambda: encoded(Image.fromarray(np.array([[0.0, 200.0]], np.float32)), "TIFF"),
        "bad_values",
        "divide by 255",
    ),
    # Linear light of an HDR scene: most of it below 1, highlights far above.
    "float_hdr.tiff": (
        lambda: encoded(Image.fromarray(np.array([[0.1, 0.3, 0.7, 41.5]], np.float32)), "TIFF"),
        "bad_values",
        "tone-map it to sRGB",
    ),
    "float_nan.tiff": (
        lambda: encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF"),
        "not_finite",
        "1 values are NaN or infinite",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_file_gives_a_named_error(tmp_path, name):
    make, code, message = WRONG[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ImageError, match=message) as caught:
        read_image(tmp_path / name)
    assert caught.value.code == code
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_a_cut_file_never_gives_other_pixels(tmp_path, fmt):
    data = encoded(noise_image(), fmt)
    path = tmp_path / "a"
    path.write_bytes(data)
    whole = read_image(path).pixels
    rejected = 0
    for end in [*range(1, len(data), len(data) // 40), *range(len(data) - 4, len(data))]:
        path.write_bytes(data[:end])
        try:
            assert torch.equal(read_image(path).pixels, whole)
        except ImageError as error:
            assert error.code in ("truncated", "unknown_format")
            rejected += 1
    assert rejected >= 40


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_bytes_give_pixels_or_a_named_error(tmp_path, seed, damage):
    data = bytearray(encoded(noise_image(8, 8), seed))
    for position, value in damage:
        data[position % len(data)] = value
    (tmp_path / "a").write_bytes(data)
    try:
        pixels = read_image(tmp_path / "a", limits=ImageLimits(max_pixels=10_000)).pixels
        assert pixels.min() >= 0 and pixels.max() <= 1
    except ImageError as error:
        assert error.code != ImageError.code


def test_paths_without_a_readable_file(tmp_path, monkeypatch):
    def code(path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        return caught.value.code

    assert code(tmp_path / "none.png") == "missing"
    assert code(str(tmp_path / "nul\0.png")) == "missing"
    assert code("~no-such-user/a.png") == "missing"
    assert code(tmp_path) == "directory"
    (tmp_path / "file").write_bytes(b"x")
    assert code(tmp_path / "file" / "a.png") == "missing"
    os.mkfifo(tmp_path / "pipe.png")
    assert code(tmp_path / "pipe.png") == "unreadable"

    def refuse(*_args, **_options):  # as for a user without permission; root is refused nothing
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(encoded(noise_image(), "PNG"))
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UnreadableImageError, match="Permission denied; check who may read it"):
        read_image(tmp_path / "a.png")


def test_home_is_expanded_and_the_name_is_kept_as_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_png(torch.ones(3, 1, 1), "~/a.png")
    assert read_image("~/a.png").name == "~/a.png"
    assert read_image(Path("~/a.png")).pixels.shape == (3, 1, 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_bad_files_do_not_grow_memory(tmp_path):
    for name in WRONG:
        (tmp_path / name).write_bytes(WRONG[name][0]())
    assert (tmp_path / "bomb_14000.png").stat().st_size < 150_000
    program = textwrap.dedent(
        """
        import pathlib, re, sys
        from zoomiqa_core.images.sources import ImageError, read_image

        def peak_mib():  # VmHWM belongs to this process alone; ru_maxrss inherits the parent's
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

        before, errors = peak_mib(), 0
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                read_image(path)
            except ImageError:
                errors += 1
        print(errors, peak_mib() - before)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    errors, growth_mib = run.stdout.split()
    assert int(errors) == len(WRONG)
    assert float(growth_mib) < 300


def test_threads_read_alike_and_leave_pillow_as_it_was(tmp_path):
    ceiling = Image.MAX_IMAGE_PIXELS
    for name, (data, _, _) in RIGHT.items():
        (tmp_path / name).write_bytes(data)
    expected = {name: read_image(tmp_path / name).pixels for name in RIGHT}
    wrong = []

    def work():
        for name, pixels in expected.items():
            if not torch.equal(read_image(tmp_path / name).pixels, pixels):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and ceiling == Image.MAX_IMAGE_PIXELS


# ---------------------------------------------------------------- objects


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 51, (0.2,) * 3),
        ("P", 0, BLACK),
        ("RGBX", (255, 0, 0, 0), RED),
        ("RGBa", (51, 0, 0, 51), (1, 0.8, 0.8)),  # premultiplied red at alpha 0.2
        ("LA", (0, 51), (0.8,) * 3),
        ("La", (0, 51), (0.8,) * 3),
        ("PA", (0, 0), WHITE),
        ("CMYK", (0, 255, 255, 0), RED),
        ("YCbCr", (255, 128, 128), WHITE),
        ("HSV", (0, 255, 255), RED),
        ("I", 65535, WHITE),
        ("I;16", 13107, (0.2,) * 3),
        ("I;16B", 13107, (0.2,) * 3),
        ("F", 0.25, (0.25,) * 3),
    ],
)
def test_pil_modes(mode, colour, expected):
    pixels = read_image(solid(mode, colour, (2, 1))).pixels
    torch.testing.assert_close(pixels, levels([expected] * 2), rtol=0, atol=1e-6)


def test_pil_image_gives_its_current_frame_and_its_name(tmp_path):
    (tmp_path / "a.gif").write_bytes(animation())
    with Image.open(tmp_path / "a.gif") as image:
        image.seek(1)
        decoded = read_image(image)
    assert decoded.notes == ("number 2 of 3 frames",)
    assert decoded.name == str(tmp_path / "a.gif")
    assert torch.equal(decoded.pixels, levels([GREEN] * 2, [GREEN] * 2))


def test_arrays_and_tensors():
    grey = np.array([[0, 51]], np.uint8)
    expected = levels([BLACK, (0.2,) * 3])
    assert_pixels(grey, expected)
    assert_pixels(grey[..., None], expected)
    assert_pixels(np.array([[0, 13107]], ">u2"), expected)
    assert_pixels(np.array([[0, 0.2]], np.float64), expected)
    assert_pixels(grey[:, ::-1], expected.flip(2))  # negative strides
    rgba = np.array([[[255, 0, 0, 51]]], np.uint8)
    assert_pixels(rgba, levels([(1, 0.8, 0.8)]), ["alpha composited over white"])
    tensor = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    assert_pixels(tensor, levels([(0, 0.2, 1)]))
    assert_pixels(tensor[None], levels([(0, 0.2, 1)]))
    assert_pixels(torch.full((3, 1, 1), 0.5, dtype=torch.bfloat16), levels([(0.5,) * 3]))
    assert to_batch(tensor).shape == (1, 3, 1, 1)
    for one_channel in (torch.tensor([[0, 0.2]]), torch.tensor([[[0, 0.2]]], dtype=torch.float64)):
        assert_pixels(one_channel, expected)
        assert_pixels(one_channel.view(1, 1, 1, 2), expected)


def test_an_overshoot_by_rounding_is_clamped():
    # antialiased resizing of ones overshoots 1 by 2.4e-7
    resized = torch.nn.functional.interpolate(
        torch.ones(1, 3, 100, 140), (37, 53), mode="bilinear", antialias=True
    )
    assert resized.max() > 1
    pixels = read_image(resized).pixels
    assert pixels.max() == 1 and pixels.min() > 1 - 1e-6
    assert_pixels(np.array([[-9e-4, 1 + 9e-4]]), levels([BLACK, WHITE]))


def test_the_result_shares_no_memory_with_its_source():
    for source in (torch.zeros(3, 2, 2, requires_grad=True), np.zeros((2, 2, 3), np.float32)):
        pixels = read_image(source).pixels
        assert not pixels.requires_grad
        pixels.fill_(1)
        assert source.sum() == 0


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), BadShapeError, r"use array.transpose\(1, 2, 0\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), BadShapeError, "pass images one by one"),
        (np.zeros((0, 8, 3), np.uint8), TooSmallError, "8×0 pixels"),
        (np.zeros((8, 8), np.int64), BadTypeError, "int64; expected uint8, uint16"),
        (np.array([["a"]]), BadTypeError, "expected uint8, uint16"),
        (np.array([[np.nan, np.inf]]), BadValuesError, "2 values are NaN or infinite"),
        (np.array([[0, 255.0]]), BadValuesError, "divide by 255"),
        (np.array([[-1, 1.0]]), BadValuesError, r"values from -1 to 1, expected.*use \(x \+ 1\)"),
        (np.array([[3.5, 254.2]]), BadValuesError, "divide by 255"),
        (np.array([[0, 1.0010001]]), BadValuesError, "from 0 to 1.0010001,"),
        (torch.zeros(8, 8, 3), BadShapeError, r"use .permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 8, 8), BadShapeError, r"got \(2, 3, 8, 8\); pass images one by one"),
        (torch.zeros(4, 8, 8), BadShapeError, r"tensor\[:3\] drops alpha"),
        (torch.zeros(3, 8, 0), TooSmallError, "0×8 pixels"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), BadTypeError, "torch.bool"),
        (torch.full((3, 8, 8), 1.5), BadValuesError, "rescale or clamp"),
        (Image.new("RGB", (0, 4)), TooSmallError, "PIL image: 0×4"),
        (b"bytes", BadTypeError, "PIL.Image.open first"),
        (None, BadTypeError, "got NoneType"),
    ],
)
def test_objects_rejected(source, error, message):
    with pytest.raises(error, match=message):
        read_image(source)


def test_limits():
    limits = ImageLimits(max_pixels=16, max_side=8, min_side=2)
    assert read_image(Image.new("L", (8, 2)), limits=limits).pixels.shape == (3, 2, 8)
    for width, height, error in [
        (9, 2, TooLargeError),
        (5, 4, TooLargeError),
        (1, 2, TooSmallError),
    ]:
        for source in (Image.new("L", (width, height)), torch.zeros(3, height, width)):
            with pytest.raises(error, match=f"{width}×{height}"):
                read_image(source, limits=limits)
    with pytest.raises(ValueError, match="1 <= min_side <= max_side"):
        ImageLimits(min_side=0)


IMAGE_SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, IMAGE_SHAPES.map(lambda hw: (*hw, 3))))
def test_8_bit_round_trips_are_exact(array):
    pixels = read_image(array).pixels
    assert np.array_equal(np.asarray(to_pil(pixels)), array)
    assert torch.equal(read_image(to_pil(pixels)).pixels, pixels)
    assert torch.equal(read_image(pixels).pixels, pixels)
    assert torch.equal(read_image(torch.from_numpy(array).permute(2, 0, 1)).pixels, pixels)


@settings(deadline=None)
@given(hnp.arrays(np.uint16, IMAGE_SHAPES))
def test_16_bit_grey_keeps_every_level(array):
    buffer = io.BytesIO(encoded(Image.fromarray(array), "PNG"))
    pixels = read_image(Image.open(buffer)).pixels
    assert np.array_equal(np.rint(pixels[0].double().numpy() * 65535), array)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, IMAGE_SHAPES.map(lambda hw: (*hw, 4))))
def test_compositing_stays_between_colour_and_white(array):
    pixels = read_image(array).pixels
    colour = read_image(np.ascontiguousarray(array[..., :3])).pixels
    assert (pixels >= colour - 1e-6).all() and (pixels <= 1).all()
    opaque = torch.from_numpy(array[..., 3] == 255)
    clear = torch.from_numpy(array[..., 3] == 0)
    assert torch.equal(pixels[:, opaque], colour[:, opaque])
    assert (pixels[:, clear] == 1).all()


# ---------------------------------------------------------------- writing and finding


def test_to_pil_rounds_and_clamps():
    # 0.5 / 255 is a tie → 0, 1.5 / 255 → 2, below 0 → 0, above 1 → 255.
    values = torch.tensor([0.5 / 255, 1.5 / 255, -1.0]).reshape(3, 1, 1)
    assert to_pil(values).getpixel((0, 0)) == (0, 2, 0)
    assert to_pil(torch.full((1, 3, 1, 1), 2.0)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(BadValuesError, match="NaN or infinite"):
        to_pil(torch.full((3, 1, 1), torch.nan))
    with pytest.raises(BadShapeError, match=r"\(1, 3, H, W\)"):
        to_pil(torch.zeros(1, 4, 4))


def test_save_png_gives_the_same_bytes_and_no_metadata_but_srgb(tmp_path):
    image = noise_image()
    image.info["comment"] = b"not to be kept"
    pixels = read_image(image).pixels
    first = save_png(pixels, tmp_path / "new" / "a.png").read_bytes()
    assert first == save_png(image, tmp_path / "b.png").read_bytes()
    assert Image.open(io.BytesIO(first)).info == {"icc_profile": srgb_profile()}
    assert torch.equal(read_image(tmp_path / "b.png").pixels, pixels)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = write_text_atomic(tmp_path / "a.txt", "old\r\nß")
    assert path.read_bytes() == "old\r\nß".encode()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        raise RuntimeError
    assert path.read_bytes() == "old\r\nß".encode()
    assert os.listdir(tmp_path) == ["a.txt"]
    write_text_atomic(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_bytes_in_memory_read_as_their_file(tmp_path: Path, fmt: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / f"a.{fmt.lower()}"
    Image.fromarray(pixels).save(path, fmt)
    encoded = EncodedImage(path.read_bytes(), str(path))
    from_file, from_memory = read_image(path), read_image(encoded)
    assert torch.equal(from_memory.pixels, from_file.pixels)
    assert (from_memory.name, from_memory.notes) == (from_file.name, from_file.notes)


@pytest.mark.parametrize(("data", "code"), [(b"", "empty"), (b"text", "unknown_format")])
def test_bytes_that_are_no_image_are_named(data: bytes, code: str) -> None:
    with pytest.raises(ImageError, match=r"shard\.tar/a\.png") as raised:
        read_image(EncodedImage(data, "shard.tar/a.png"))
    assert raised.value.code == code
