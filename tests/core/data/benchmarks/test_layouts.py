"""Every dataset's layout, on a miniature folder in the official format."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import openpyxl
import pytest
from scipy.io import savemat

from zoomiqa_core.data.benchmarks.sets import BENCHMARKS, read_benchmark

WRITERS = {}


def layout(write):
    WRITERS[write.__name__] = write
    return write


def put(folder, name, text=""):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def put_sheet(folder, name, rows, sheet="Sheet1"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.title = "other"
    page = book.create_sheet(sheet, 0)
    for row in rows:
        page.append(row)
    book.save(path)


@layout
def koniq10k(folder, mos="64.25"):
    (folder / "1024x768").mkdir()
    (folder / "512x384").mkdir()
    put(
        folder,
        "koniq10k_distributions_sets.csv",
        "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n"
        "10004473376.jpg,0,0,25,73,7,105,76.1,0.531,training\n"
        f"10007357496.jpg,2,8,33,60,2,105,{mos},0.7,validation\n"
        "10007903636.jpg,1,3,27,65,9,105,3.91,0.75,test\n",
    )


@layout
def spaq(folder, mos=37.5):
    header = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness"]
    rows = [header, ["00001.jpg", 35.2, 40, 50, 60, 70], ["00002.jpg", mos, 1, 2, 3, 4]]
    put_sheet(folder, "Annotations/MOS and Image attribute scores.xlsx", [*rows, [None] * 6])


@layout
def kadid10k(folder, mos="4.93"):
    lines = ["dist_img,ref_img,dmos,var", f"I01_01_01.png,I01.png,{mos},0.7"]
    lines += [f"I{n:02d}_25_05.png,I{n:02d}.png,1.{n},0.5" for n in range(2, 6)]
    put(folder, "dmos.csv", "\n".join(lines) + "\n")


@layout
def pipal(folder, elo="1499.5"):
    put(folder, "Train_Label/A0001.txt", f"A0001_00_00.bmp,{elo}\nA0001_03_07.bmp,1200.25\n")
    put(folder, "Val_Label/A0100.txt", "A0100_00_01.bmp,1350\n")
    put(folder, "Distortion_2/A0001_03_07.bmp")
    put(folder, "Train_Ref/A0001.bmp")


@layout
def livechallenge(folder, mos=42.5):
    names = [f"t{n}.bmp" for n in range(1, 8)] + ["3.bmp", "4.bmp", "1035.JPG"]
    cells = np.array([[name] for name in names], dtype=object)
    (folder / "Data").mkdir()
    for variable, value in (
        ("AllImages_release", cells),
        ("AllMOS_release", np.array([[90.0] * 7 + [63.96, mos, 3.42]])),
        ("AllStdDev_release", np.ones((1, 10))),
    ):
        savemat(folder / "Data" / f"{variable}.mat", {variable: value})


@layout
def agiqa3k(folder, mos="4.489"):
    put(
        folder,
        "data.csv",
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
        f'AttnGAN_normal_000.jpg,"a cat, sitting",,,,{mos},0.5,0.9,0.3\n'
        "midjourney_lowstep_012.jpg,a dog,sharp,,anime style,0,0.1,4.5,0.2\n",
    )


@layout
def csiq(folder, dmos=0.25):
    columns = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    blank = [None] * 3
    rows = [
        ["CSIQ"],
        [],
        [*blank, "notes"],
        [*blank, *columns],
        [*blank, 1600, 1, "noise", 1, 0.061, 0.062],
        [*blank, "boston", 3, "jpeg 2000", 5, 0.1, dmos],
        [*blank, "cactus", 5, "blur", 2, 0.1, 1],
    ]
    put_sheet(folder, "csiq.DMOS.xlsx", rows, "all_by_image")


@layout
def tid2013(folder, mos="5.51429"):
    put(folder, "mos_with_names.txt", f"{mos} I01_01_1.bmp\n0.2 i02_24_5.bmp\n9 I25_01_3.bmp\n")
    put(folder, "distorted_images/i01_01_1.bmp")
    put(folder, "distorted_images/I02_24_5.BMP")


@layout
def biq2021(folder, mos="0.25"):
    put(folder, "mos.csv", f"image_name,mos,set\nss01 (1).jpg,{mos},training\n")


def told(image, folder):
    path = image.path.relative_to(folder).as_posix()
    return (path, image.mos, image.rating, image.split, image.subset, image.reference)


def test_every_benchmark_has_a_miniature():
    assert set(WRITERS) == set(BENCHMARKS)


def test_koniq10k(tmp_path):
    koniq10k(tmp_path)
    first, second, third = read_benchmark("KonIQ-10k", tmp_path)
    # 1 + 4 · 76.1 / 100; the largest size is taken
    assert told(first, tmp_path)[:2] == ("1024x768/10004473376.jpg", 76.1)
    assert first.rating == pytest.approx(4.044)
    assert [i.split for i in (first, second, third)] == ["training", "validation", "test"]
    assert read_benchmark("koniq10k", tmp_path, "test") == [third]


def test_koniq10k_in_the_smaller_size(tmp_path):
    koniq10k(tmp_path)
    (tmp_path / "1024x768").rmdir()
    assert read_benchmark("koniq10k", tmp_path)[0].path.parent.name == "512x384"


def test_spaq(tmp_path):
    spaq(tmp_path)
    first, second = read_benchmark("SPAQ", tmp_path)  # the blank last row is none
    assert told(second, tmp_path) == ("TestImage/00002.jpg", 37.5, 2.5, "", "", "")
    assert first.mos == 35.2
    with pytest.raises(ValueError, match="no image of split 'test'; it has no split"):
        read_benchmark("SPAQ", tmp_path, "test")


def test_kadid10k_rises_with_quality_and_splits_by_reference(tmp_path):
    kadid10k(tmp_path)
    images = read_benchmark("kadid10k", tmp_path)
    first = ("images/I01_01_01.png", 4.93, 4.93, "training", "01", "I01.png")
    assert told(images[0], tmp_path) == first
    assert [image.split for image in images] == ["training"] * 3 + ["validation", "test"]


def test_pipal(tmp_path):
    pipal(tmp_path)
    first, second, third = read_benchmark("pipal", tmp_path)
    # found below Distortion_2; the absent one stays a path that will be reported
    assert told(second, tmp_path)[:2] == ("Distortion_2/A0001_03_07.bmp", 1200.25)
    assert (second.split, second.subset, second.reference) == ("training", "03", "A0001")
    assert math.isnan(second.rating)  # Elo has no range
    assert (first.mos, first.path.exists()) == (1499.5, False)
    assert (third.split, third.reference) == ("validation", "A0100")
    with pytest.raises(FileNotFoundError, match=r"Train_Label.*\.txt not found"):
        read_benchmark("pipal", tmp_path / "Train_Ref")


def test_live_challenge_drops_the_images_that_trained_the_observers(tmp_path):
    livechallenge(tmp_path)
    images = read_benchmark("LIVE-Challenge", tmp_path)
    paths = [image.path.relative_to(tmp_path).as_posix() for image in images]
    assert paths == ["Images/3.bmp", "Images/4.bmp", "Images/1035.JPG"]
    assert [image.mos for image in images] == [63.96, 42.5, 3.42]
    assert images[1].rating == pytest.approx(2.7)  # 1 + 4 · 42.5 / 100


def test_live_challenge_in_another_order_is_refused(tmp_path):
    livechallenge(tmp_path)
    names = np.array([[f"{n}.bmp"] for n in range(10)], dtype=object)
    savemat(tmp_path / "Data" / "AllImages_release.mat", {"AllImages_release": names})
    with pytest.raises(ValueError, match="expected t1–t7 first"):
        read_benchmark("livechallenge", tmp_path)
    savemat(tmp_path / "Data" / "AllImages_release.mat", {"AllImages_release": names[:9]})
    with pytest.raises(ValueError, match="has 10 values for the 9 images"):
        read_benchmark("livechallenge", tmp_path)


def test_agiqa3k_takes_quality_not_alignment(tmp_path):
    agiqa3k(tmp_path)
    first, second = read_benchmark("AGIQA-3K", tmp_path)
    assert told(first, tmp_path)[:2] == ("AttnGAN_normal_000.jpg", 4.489)
    assert told(second, tmp_path)[1:] == (0, 1, "", "midjourney", "")
    (tmp_path / "images").mkdir()
    assert read_benchmark("agiqa3k", tmp_path)[0].path.parent == tmp_path / "images"


def test_csiq_is_turned_and_its_names_are_made(tmp_path):
    csiq(tmp_path)
    first, second, third = read_benchmark("csiq", tmp_path)
    assert told(first, tmp_path)[:2] == ("dst_imgs/awgn/1600.AWGN.1.png", 1 - 0.062)
    name = "dst_imgs/jpeg2000/boston.jpeg2000.5.png"
    assert told(second, tmp_path) == (name, 0.75, 4.0, "training", "jpeg2000", "boston")
    assert told(third, tmp_path)[:3] == ("dst_imgs/blur/cactus.BLUR.2.png", 0, 1)  # the worst


def test_csiq_with_an_unknown_distortion_or_sheet(tmp_path):
    blank = [None] * 3
    columns = [*blank, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = [[], [], [], columns, [*blank, "boston", 3, "rain", 5, 0.1, 0.5]]
    put_sheet(tmp_path, "csiq.DMOS.xlsx", rows, "all_by_image")
    with pytest.raises(ValueError, match="xlsx, row 5: dst_type 'rain' is none of"):
        read_benchmark("csiq", tmp_path)
    put_sheet(tmp_path, "csiq.DMOS.xlsx", rows, "images")
    with pytest.raises(ValueError, match="has no sheet 'all_by_image'; it has"):
        read_benchmark("csiq", tmp_path)


def test_tid2013_matches_names_whatever_their_case(tmp_path):
    tid2013(tmp_path)
    first, second, third = read_benchmark("tid2013", tmp_path)
    assert told(first, tmp_path)[:2] == ("distorted_images/i01_01_1.bmp", 5.51429)
    assert told(second, tmp_path)[0] == "distorted_images/I02_24_5.BMP"
    assert (second.subset, second.reference) == ("24", "I02")
    assert told(third, tmp_path)[:3] == ("distorted_images/I25_01_3.bmp", 9, 5)


def test_a_name_of_another_form_is_named(tmp_path):
    put(tmp_path, "mos_with_names.txt", "5.5 photo.bmp\n")
    with pytest.raises(ValueError, match=r"line 1: name 'photo.bmp' is not of the form"):
        read_benchmark("tid2013", tmp_path)
    put(tmp_path, "mos_with_names.txt", "5.5 I01_01_1.bmp\n\n5.5\n")
    with pytest.raises(ValueError, match=r"line 3: expected 2 fields \(mos, name\), got '5.5'"):
        read_benchmark("tid2013", tmp_path)


def test_zoom_iqa_annotations(tmp_path):
    rows = [
        {"id": "a", "image": "KONIQ/images/a.jpg", "gt_score": 3.7, "conversations": []},
        {"img_path": "b.jpg", "gt_score": "2"},  # the older key; the evaluator takes float("2")
    ]
    file = put(tmp_path, "labels/test_koniq_2k.json", json.dumps(rows))
    first, second = read_benchmark(str(file), tmp_path)
    assert told(first, tmp_path)[:2] == ("KONIQ/images/a.jpg", 3.7)
    assert math.isnan(first.rating)  # the file does not say what range its scores have
    assert (second.path, second.mos) == (tmp_path / "b.jpg", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "labels.json is not JSON"),
        ("{}", "expected a JSON list of objects, got dict"),
        ('["a.jpg"]', "row 0: expected an object, got str"),
        ('[{"image": "a.jpg", "gt_score": 1}, {"gt_score": 1}]', "row 1: no value for 'img_path'"),
        ('[{"image": "a.jpg"}]', "row 0: no value for 'gt_score'"),
        ('[{"image": "a.jpg", "gt_score": true}]', "row 0: no value for 'gt_score'"),
        ('[{"image": "a.jpg", "gt_score": NaN}]', "row 0: gt_score 'nan' is not finite"),
        ('[{"image": "/a.jpg", "gt_score": 1}]', "row 0: image '/a.jpg' must be a relative path"),
    ],
)
def test_malformed_annotations_are_named(tmp_path, text, message):
    file = put(tmp_path, "labels.json", text)
    with pytest.raises(ValueError, match=message):
        read_benchmark(str(file), tmp_path)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("koniq10k", "high", "line 3: MOS 'high' is not a number"),
        ("spaq", 101, r"row 3: MOS 101 lies outside \[0, 100\]"),
        ("kadid10k", "0.9", r"line 2: dmos 0.9 lies outside \[1, 5\]"),
        ("pipal", "inf", "A0001.txt, line 1: elo 'inf' is not finite"),
        ("livechallenge", math.nan, "entry 9: MOS 'nan' is not finite"),
        ("agiqa3k", "", "line 2: no value for 'mos_quality'"),
        ("csiq", None, "row 6: no value for 'dmos'"),
        ("tid2013", "9.5", r"line 1: mos 9.5 lies outside \[0, 9\]"),
        ("biq2021", "1.5", r"line 2: mos 1.5 lies outside \[0, 1\]"),
    ],
)
def test_a_malformed_label_is_named_by_file_row_and_field(tmp_path, name, label, message):
    WRITERS[name](tmp_path, label)
    with pytest.raises(ValueError, match=message):
        read_benchmark(name, tmp_path)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder_names_the_label_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="not found; give the folder of"):
        read_benchmark(name, tmp_path)


def test_a_renamed_column_is_named(tmp_path):
    put(tmp_path, "dmos.csv", "image,ref_img,dmos\n")
    with pytest.raises(ValueError, match=r"dmos.csv, line 1: no column \['dist_img'\]; the header"):
        read_benchmark("kadid10k", tmp_path)
    put_sheet(tmp_path, "Annotations/MOS and Image attribute scores.xlsx", [["Image", "MOS"]])
    with pytest.raises(ValueError, match=r"row 1: no column \['Image name'\]"):
        read_benchmark("spaq", tmp_path)


def test_files_of_another_format_are_named(tmp_path):
    put(tmp_path, "csiq.DMOS.xlsx", "not a workbook")
    with pytest.raises(ValueError, match="xlsx is not a readable Excel workbook"):
        read_benchmark("csiq", tmp_path)
    put(tmp_path, "Data/AllImages_release.mat", "not MATLAB")
    with pytest.raises(ValueError, match="mat is not a readable MATLAB file"):
        read_benchmark("livechallenge", tmp_path)
    savemat(tmp_path / "Data" / "AllImages_release.mat", {"other": [1]})
    with pytest.raises(ValueError, match=r"no variable 'AllImages_release'; it has \['other'\]"):
        read_benchmark("livechallenge", tmp_path)


def test_without_openpyxl_the_extra_is_named(tmp_path, monkeypatch):
    spaq(tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"pip install 'zoomiqa-restoration-guide\[eval\]'"):
        read_benchmark("spaq", tmp_path)
