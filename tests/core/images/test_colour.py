"""Colour of files: known colours of other spaces come out as their sRGB, with a note."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from tests.core.images.test_sources import encoded, png, u16
from zoomiqa_core.images.colour import srgb_profile
from zoomiqa_core.images.errors import UnsupportedColourError
from zoomiqa_core.images.sources import read_image

D50 = (0.9642, 1, 0.8249)
INKS = ((30, -20, -25), (35, 40, -5), (8, -5, 50), (95, 0, 0))
"""How much darker, greener and bluer cyan, magenta, yellow and black are, in Lab."""
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def fixed(*values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def text(tag, words):
    return tag + bytes(4) + struct.pack(">I", len(words) + 1) + words + b"\0" * 79


def matrix_profile(primaries=P3, gamma=2.2, space=b"RGB ", channels=3, extra=b"") -> bytes:
    """An ICC v2 display profile of a gamma and xy primaries (D65, adapted to D50 by Bradford)."""

    def xyz(x, y):
        return np.array([x / y, 1, (1 - x - y) / y])

    cone = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    d65, d50 = xyz(0.3127, 0.3290), np.array(D50)
    adapt = np.linalg.inv(cone) @ np.diag((cone @ d50) / (cone @ d65)) @ cone
    columns = np.stack([xyz(*primaries[i : i + 2]) for i in (0, 2, 4)], 1)
    columns = adapt @ (columns * np.linalg.solve(columns, d65))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"desc": text(b"desc", b"Test space"), b"wtpt": b"XYZ " + bytes(4) + fixed(*d50)}
    if channels == 3:
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True):
            tags[name] = b"XYZ " + bytes(4) + fixed(*column)
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    else:
        tags[b"kTRC"] = curve
    if extra:
        tags[b"cicp"] = b"cicp" + bytes(4) + extra
    return profile_file(tags, b"mntr", space, b"XYZ ")


def profile_file(tags, kind, space, connection) -> bytes:
    """The file of an ICC v2.4 profile."""
    offset, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return header + bytes(128 - len(header)) + table + body


def ink_profile() -> bytes:
    """A CMYK printer profile: each mixture of full inks has a Lab colour, others lie between."""
    nodes = []
    for inks in itertools.product((0, 1), repeat=4):  # the last varies fastest
        light, a, b = 95.0, 0.0, 0.0
        for ink, (darker, da, db) in zip(inks, INKS, strict=True):
            light, a, b = light - darker * ink, a + da * ink, b + db * ink
        dark = inks[3] or light < 0
        nodes += [0, 128, 128] if dark else [round(light * 2.55), round(a) + 128, round(b) + 128]
    line = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += line * 4 + bytes(nodes) + line * 3
    tags = {b"desc": text(b"desc", b"Test inks"), b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    return profile_file(tags | {b"A2B0": table}, b"prtr", b"CMYK", b"Lab ")


def by_hand(colour, primaries=P3, exponent=2.2):
    """sRGB of a colour: linear light, through XYZ, clipped, encoded."""

    def matrix(xy):
        columns = np.stack(
            [[xy[i] / xy[i + 1], 1, (1 - xy[i] - xy[i + 1]) / xy[i + 1]] for i in (0, 2, 4)], 1
        )
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        return columns * np.linalg.solve(columns, white)

    linear = np.array(colour) ** exponent
    srgb = np.linalg.inv(matrix((0.64, 0.33, 0.30, 0.60, 0.15, 0.06))) @ matrix(primaries) @ linear
    srgb = srgb.clip(0, 1)
    return np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)


COLOUR = (0.8, 0.4, 0.2)


@pytest.mark.parametrize(
    ("mode", "fmt"),
    [
        *((mode, fmt) for mode in ("RGB", "RGBA", "P") for fmt in ("PNG", "TIFF")),
        *(("RGB", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP")),
    ],
)
def test_a_profile_is_applied_and_noted(tmp_path, mode, fmt):
    image = Image.new("RGB", (16, 16), tuple(round(255 * c) for c in COLOUR)).convert(mode)
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(fmt, {})
    (tmp_path / "a").write_bytes(encoded(image, fmt, icc_profile=matrix_profile(), **options))
    decoded = read_image(tmp_path / "a")
    wanted = by_hand(COLOUR)
    assert np.abs(wanted - COLOUR).max() > 0.03
    found = decoded.pixels[:, 8, 8].numpy()
    np.testing.assert_allclose(found, wanted, atol=(3 if fmt == "JPEG" else 1.5) / 255)
    assert decoded.notes == ("colour converted from Test space to sRGB",)


def test_alpha_stays_where_a_profile_is_applied(tmp_path):
    image = Image.new("RGBA", (2, 1), (*(round(255 * c) for c in COLOUR), 51))
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG", icc_profile=matrix_profile()))
    decoded = read_image(tmp_path / "a.png")
    wanted = by_hand(COLOUR) * 0.2 + 0.8
    np.testing.assert_allclose(decoded.pixels[:, 0, 0].numpy(), wanted, atol=1 / 255)
    assert len(decoded.notes) == 2


def lab_by_hand(light, a, b):
    """sRGB of a Lab colour with a D50 white: through XYZ, adapted to D65 by Bradford."""
    y = (light + 16) / 116
    shares = [
        f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)
        for f in (y + a / 500, y, y - b / 200)
    ]
    xyz = np.array(shares) * D50
    to_linear = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]  # Lindbloom's matrix from XYZ of D50 to linear sRGB
    linear = (np.array(to_linear) @ xyz).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("inks", "lab"),
    [
        ((255, 0, 0, 0), (65, -20, -25)),
        ((0, 255, 0, 0), (60, 40, -5)),
        ((0, 0, 255, 0), (87, -5, 50)),
        ((255, 255, 0, 0), (30, 20, -30)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_inks_are_converted_by_their_profile(tmp_path, inks, lab, fmt):
    options = {"quality": 100} if fmt == "JPEG" else {}
    image = Image.new("CMYK", (16, 16), inks)
    (tmp_path / "a").write_bytes(encoded(image, fmt, icc_profile=ink_profile(), **options))
    decoded = read_image(tmp_path / "a")
    assert decoded.notes == ("colour converted from Test inks to sRGB",)
    np.testing.assert_allclose(decoded.pixels[:, 8, 8].numpy(), lab_by_hand(*lab), atol=3 / 255)
    plain = np.array(Image.new("CMYK", (1, 1), inks).convert("RGB"))[0, 0] / 255
    assert inks[3] or np.abs(plain - lab_by_hand(*lab)).max() > 0.1


def test_a_grey_profile_is_applied():
    profile = matrix_profile(space=b"GRAY", channels=1, gamma=1.0)
    image = Image.open(io.BytesIO(encoded(Image.new("L", (2, 2), 55), "PNG", icc_profile=profile)))
    wanted = 1.055 * (55 / 255) ** (1 / 2.4) - 0.055
    torch.testing.assert_close(
        read_image(image).pixels, torch.full((3, 2, 2), wanted), rtol=0, atol=1.5 / 255
    )


def test_an_srgb_profile_changes_no_bit_and_is_no_news():
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = encoded(Image.fromarray(values), "PNG", icc_profile=srgb_profile())
    decoded = read_image(Image.open(io.BytesIO(data)))
    assert torch.equal(decoded.pixels, read_image(values).pixels) and decoded.notes == ()


def test_a_profile_of_another_colour_space_is_ignored_and_noted():
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain = Image.open(io.BytesIO(encoded(image, "TIFF")))
    assert read_image(plain).notes == ("CMYK converted without a colour profile",)
    wrong = Image.open(io.BytesIO(encoded(image, "TIFF", icc_profile=matrix_profile())))
    assert read_image(wrong).notes[0] == "colour profile for RGB ignored on an image of mode CMYK"


def test_a_broken_profile_is_noted_and_the_values_taken():
    image = Image.new("RGB", (2, 2), (10, 20, 30))
    decoded = read_image(Image.open(io.BytesIO(encoded(image, "PNG", icc_profile=b"nonsense"))))
    assert decoded.notes == ("colour profile unreadable, values taken as sRGB",)
    assert torch.equal(decoded.pixels, read_image(image).pixels)


ROW = b"\0" + bytes(round(255 * c) for c in COLOUR)
LINEAR = (b"gAMA", struct.pack(">I", 100_000))
USUAL = (b"gAMA", struct.pack(">I", 45_455))
WIDE = (b"cHRM", struct.pack(">8I", 31270, 32900, *(round(100_000 * v) for v in P3)))
SRGB = (b"sRGB", b"\0")


@pytest.mark.parametrize(
    ("chunks", "wanted", "note"),
    [
        ([LINEAR], by_hand(COLOUR, (0.64, 0.33, 0.3, 0.6, 0.15, 0.06), 1), "gamma 1 to sRGB"),
        ([LINEAR, WIDE], by_hand(COLOUR, P3, 1), "gamma 1 and PNG chromaticities to sRGB"),
        ([USUAL], COLOUR, None),
        ([SRGB, LINEAR], COLOUR, None),
        ([(b"cICP", bytes([1, 13, 0, 1]))], COLOUR, None),
        ([(b"cICP", bytes([12, 8, 0, 1]))], by_hand(COLOUR, P3, 1), "Display P3 to sRGB"),
        ([(b"cICP", bytes([99, 13, 0, 1]))], COLOUR, "codes 99/13 unknown"),
    ],
)
def test_png_chunks(tmp_path, chunks, wanted, note):
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 2, ROW, *chunks))
    for source in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        decoded = read_image(source)
        np.testing.assert_allclose(decoded.pixels.flatten().numpy(), wanted, atol=1 / 255)
        assert decoded.notes == () if note is None else note in decoded.notes[0]


@pytest.mark.parametrize(("code", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_by_name(tmp_path, code, name):
    codes = bytes([9, code, 0, 1])
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + u16(1, 2, 3), (b"cICP", codes)))
    profile = matrix_profile(extra=codes)
    (tmp_path / "b.png").write_bytes(encoded(Image.new("RGB", (2, 2)), "PNG", icc_profile=profile))
    for file in ("a.png", "b.png"):
        with pytest.raises(UnsupportedColourError, match=f"{name}.*tone-map"):
            read_image(tmp_path / file)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_an_avif_of_an_hdr_camera_is_refused(tmp_path):
    data = encoded(Image.new("RGB", (16, 16), "red"), "AVIF")
    start = data.index(b"colrnclx")
    data = data[: start + 10] + struct.pack(">H", 16) + data[start + 12 :]
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(UnsupportedColourError, match="PQ"):
        read_image(tmp_path / "a.avif")


def test_the_matrix_of_display_p3_by_littlecms():
    """Profile and cICP codes of one space agree: ImageCms against our matrix."""
    colours = np.random.default_rng(1).integers(60, 200, (8, 8, 3), np.uint8)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(matrix_profile(P3, 1.0))),
        ImageCms.createProfile("sRGB"), "RGB", "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )  # fmt: skip
    wanted = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform)) / 255
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    tagged = png(8, 8, 8, 2, rows, (b"cICP", bytes([12, 8, 0, 1])))
    found = read_image(Image.open(io.BytesIO(tagged))).pixels.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, wanted, atol=2.5 / 255)
