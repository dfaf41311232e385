"""Readers of image quality datasets, one per dataset: from its folder to rated images.

A reader defines files, columns and names; ``scale`` is the range and direction of the labels.
Images are not opened; a missing one is an error when it is judged. A malformed row raises a
:class:`ValueError` that names file, row and field; a missing label file a
:class:`FileNotFoundError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zoomiqa_core.data.benchmarks.rated_images import RatedImage, Scale
from zoomiqa_core.data.benchmarks.tables import (
    Row,
    csv_rows,
    json_rows,
    mat_column,
    plain_rows,
    sheet_rows,
)

CSIQ_FILES = {
    "noise": ("awgn", "AWGN"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
    "fnoise": ("fnoise", "fnoise"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
}
"""Distortion in CSIQ's table → its folder, and the word in its file names."""

LIVE_CHALLENGE_TRAINING = 7
"""Images t1–t7 were for the training of observers; they are not part of the dataset."""


def read_koniq10k(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    r"""KonIQ-10k (Hosu et al., TIP 2020): the official split; the largest images that are there.

    >>> table = "image_name,MOS,set\n826373.jpg,75.0,test\n"
    >>> _ = Path("koniq10k_distributions_sets.csv").write_text(table)
    >>> (image,) = read_koniq10k(Path("."), Scale("MOS", 0, 100))
    >>> image.path.name, image.rating, image.split
    ('826373.jpg', 4.0, 'test')
    """
    images = _first_folder(folder, "1024x768", "512x384", "images")
    table = folder / "koniq10k_distributions_sets.csv"
    for row in csv_rows(table, ("image_name", "MOS", "set")):
        label = row.label("MOS", scale)
        path = images / row.image("image_name")
        yield RatedImage.from_label(path, label, scale, split=row.text("set"))


def read_spaq(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """SPAQ (Fang et al., CVPR 2020): an Excel table, no official split."""
    table = folder / "Annotations" / "MOS and Image attribute scores.xlsx"
    for row in sheet_rows(table, ("Image name", "MOS")):
        path = folder / "TestImage" / row.image("Image name")
        yield RatedImage.from_label(path, row.label("MOS", scale), scale)


def read_kadid10k(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    r"""KADID-10k (Lin et al., QoMEX 2019): higher ``dmos`` is better, despite the name.

    >>> table = "dist_img,ref_img,dmos\nI01_10_03.png,I01.png,3.87\n"
    >>> _ = Path("dmos.csv").write_text(table)
    >>> (image,) = read_kadid10k(Path("."), Scale("DMOS", 1, 5))
    >>> image.mos, image.subset, image.reference
    (3.87, '10', 'I01.png')
    """
    for row in csv_rows(folder / "dmos.csv", ("dist_img", "ref_img", "dmos")):
        yield RatedImage.from_label(
            folder / "images" / row.image("dist_img"),
            row.label("dmos", scale),
            scale,
            subset=_distortion(row, "dist_img"),
            reference=row.text("ref_img"),
        )


def read_pipal(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """PIPAL (Gu et al., ECCV 2020): ``name,elo`` lines in one text file per reference.

    The folders ``Train_Label``, ``Val_Label`` and ``Test_Label``, if present, are the splits.
    Images are identified by name anywhere below the folder, since releases differ in the folders
    of the training images.

    >>> Path("Val_Label").mkdir()
    >>> _ = Path("Val_Label", "A0200.txt").write_text("A0200_00_00.bmp,1500.0")
    >>> (image,) = read_pipal(Path("."), Scale("Elo"))
    >>> image.mos, image.split, image.reference
    (1500.0, 'validation', 'A0200')
    """
    labels = {"training": "Train_Label", "validation": "Val_Label", "test": "Test_Label"}
    files = [(split, f) for split, name in labels.items() for f in _texts(folder / name)]
    if not files:
        raise FileNotFoundError(
            f"{folder / 'Train_Label'}/*.txt not found; give the folder of PIPAL as distributed"
        )
    images = {path.name.lower(): path for path in sorted(folder.rglob("*.bmp"))}
    for split, file in files:
        for row in plain_rows(file, ("name", "elo"), ","):
            name = row.image("name")
            yield RatedImage.from_label(
                images.get(name.lower(), folder / name),
                row.label("elo", scale),
                scale,
                split=split,
                subset=_distortion(row, "name"),
                reference=name.split("_")[0],
            )


def read_live_challenge(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """LIVE in the Wild Challenge (Ghadiyaram & Bovik, TIP 2016): MATLAB files, no split."""
    names_file = folder / "Data" / "AllImages_release.mat"
    labels_file = folder / "Data" / "AllMOS_release.mat"
    names = mat_column(names_file, "AllImages_release")
    labels = mat_column(labels_file, "AllMOS_release")
    if len(names) != len(labels):
        raise ValueError(
            f"{labels_file} has {len(labels)} values for the {len(names)} images of {names_file}"
        )
    training = [Path(str(name)).stem for name in names[:LIVE_CHALLENGE_TRAINING]]
    if training != [f"t{number}" for number in range(1, LIVE_CHALLENGE_TRAINING + 1)]:
        raise ValueError(f"{names_file}: expected t1–t7 first, got {training}")
    pairs = list(zip(names, labels, strict=True))
    for number, (name, label) in enumerate(pairs[LIVE_CHALLENGE_TRAINING:], start=8):
        row = Row({"image": name, "MOS": label}, f"{labels_file}, entry {number}")
        path = folder / "Images" / row.image("image")
        yield RatedImage.from_label(path, row.label("MOS", scale), scale)


def read_agiqa3k(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    r"""AGIQA-3K (Li et al., TCSVT 2023): perceptual quality (``mos_quality``), not alignment.

    >>> _ = Path("data.csv").write_text("name,mos_quality\nglide_normal_000.jpg,1.25\n")
    >>> (image,) = read_agiqa3k(Path("."), Scale("MOS", 0, 5))
    >>> image.rating, image.subset
    (2.0, 'glide')
    """
    images = _first_folder(folder, "images", "AGIQA-3K", ".")
    for row in csv_rows(folder / "data.csv", ("name", "mos_quality")):
        name = row.image("name")
        yield RatedImage.from_label(
            images / name, row.label("mos_quality", scale), scale, subset=name.split("_")[0]
        )


def read_csiq(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """CSIQ (Larson & Chandler, JEI 2010): DMOS in an Excel sheet whose header is row 4."""
    columns = ("image", "dst_type", "dst_lev", "dmos")
    table = folder / "csiq.DMOS.xlsx"
    for row in sheet_rows(table, columns, sheet="all_by_image", header=4):
        distortion, reference = row.text("dst_type"), row.image("image")
        if distortion not in CSIQ_FILES:
            raise ValueError(
                f"{row.where}: dst_type {distortion!r} is none of {sorted(CSIQ_FILES)}"
            )
        part, word = CSIQ_FILES[distortion]
        yield RatedImage.from_label(
            folder / "dst_imgs" / part / f"{reference}.{word}.{row.text('dst_lev')}.png",
            row.label("dmos", scale),
            scale,
            subset=part,
            reference=reference,
        )


def read_tid2013(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """TID2013 (Ponomarenko et al., SPIC 2015): ``mos name`` lines.

    Names are matched case-insensitively, since the list and the files differ in case.

    >>> _ = Path("mos_with_names.txt").write_text("4.5 I01_01_1.bmp")
    >>> (image,) = read_tid2013(Path("."), Scale("MOS", 0, 9))
    >>> image.rating, image.subset, image.reference
    (3.0, '01', 'I01')
    """
    images = {path.name.lower(): path for path in sorted(folder.glob("distorted_images/*"))}
    for row in plain_rows(folder / "mos_with_names.txt", ("mos", "name"), None):
        name = row.image("name")
        yield RatedImage.from_label(
            images.get(name.lower(), folder / "distorted_images" / name),
            row.label("mos", scale),
            scale,
            subset=_distortion(row, "name"),
            reference=name.split("_")[0].upper(),
        )


def read_biq2021(folder: Path, scale: Scale) -> Iterator[RatedImage]:
    r"""BIQ2021 (Ahmed & Asif, JEI 2022), as ``mos.csv`` with ``image_name, mos, set``.

    The subset is the name's first word: ``ss01`` gallery photos, ``ss02`` photos taken at qualities
    from bad to excellent, ``ss03`` from a photo site.

    >>> _ = Path("mos.csv").write_text("image_name,mos,set\nss01 (1).jpg,0.75,training\n")
    >>> (image,) = read_biq2021(Path("."), Scale("MOS", 0, 1))
    >>> image.rating, image.split, image.subset
    (4.0, 'training', 'ss01')
    """
    for row in csv_rows(folder / "mos.csv", ("image_name", "mos", "set")):
        name = row.image("image_name")
        yield RatedImage.from_label(
            folder / "images" / name,
            row.label("mos", scale),
            scale,
            split=row.text("set"),
            subset=name.split()[0],
        )


def read_annotations(file: Path, folder: Path, scale: Scale) -> Iterator[RatedImage]:
    """Zoom-IQA's annotation file: a JSON list of objects with ``image`` and ``gt_score``.

    After the "Data format" section of the official repository's README and its evaluator
    (EthanLiang99/Zoom-IQA): ``image``, or the older key ``img_path``, is a relative path below
    the image folder, and ``gt_score`` a finite number whose scale the file does not state. Unlike
    there, an absent image is no error here, and ``id`` and ``conversations`` are not used: the
    question is the judge's own.

    >>> _ = Path("test.json").write_text('[{"image": "a/1.jpg", "gt_score": 3.2}]')
    >>> [(image.path.as_posix(), image.mos) for image in read_annotations(
    ...     Path("test.json"), Path("images"), Scale("gt_score"))]
    [('images/a/1.jpg', 3.2)]
    """
    for row in json_rows(file):
        path = folder / row.image("image" if row.values.get("image") else "img_path")
        yield RatedImage.from_label(path, row.label("gt_score", scale), scale)


def _distortion(row: Row, field: str) -> str:
    """The middle of ``REFERENCE_DISTORTION_LEVEL.suffix``.

    Raises:
        ValueError: the name has not three parts.
    """
    parts = row.image(field).rsplit(".", 1)[0].split("_")
    if len(parts) != 3:
        raise ValueError(
            f"{row.where}: {field} {row.text(field)!r} is not of the form I01_01_1.bmp"
        )
    return parts[1]


def _first_folder(folder: Path, *names: str) -> Path:
    """The first of the sub-folders that exists; the first when none does."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def _texts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))
