"""``zoomiqa`` as a user meets it: what is printed where, exit codes, one bad file among good."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.core.judges import CROP, GOOD, ScriptedBackend
from zoomiqa_core import __version__
from zoomiqa_core.assessment import Assessment, RegionScore
from zoomiqa_core.cli import main as cli
from zoomiqa_core.cli import options as command_line
from zoomiqa_core.cli.score import COLUMNS
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageError, read_image, save_png
from zoomiqa_core.scorer import load_scorer
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA


class MeanScorer:
    """Rates an image 1 + 4 · mean; its map is the mean over rows and columns of 4 × 4 cells."""

    name = "mean"

    def assess(self, images):
        if isinstance(images, list):
            return [self.assess(image) for image in images]
        try:
            image = read_image(images)
        except ImageError as error:
            return Assessment.failed(error.code, str(error), str(images))
        return Assessment(1 + 4 * float(image.pixels.mean()), 0.25, notes=image.notes)

    def quality_map(self, image):
        return 1 + 4 * torch.nn.functional.adaptive_avg_pool2d(read_image(image).pixels, 4).mean(
            0, keepdim=True
        )

    def score_regions(self, image, bboxes):
        return [RegionScore(bbox, 1.5, 0.1) for bbox in bboxes]


@pytest.fixture
def zoomiqa(tmp_path, monkeypatch):
    """Run the program in a folder with good.png (rating 3), bright.png (5), bad.png and void/."""
    monkeypatch.chdir(tmp_path)
    stripes = torch.tensor([127, 129]).repeat(3, 8, 4) / 255  # not one flat colour
    save_png(stripes, "good.png")
    save_png(torch.ones(3, 8, 8), "more/bright.png")
    (tmp_path / "bad.png").write_bytes(b"<svg/>")
    (tmp_path / "void").mkdir()
    loaded = []

    def load(name, *, device, **settings):
        loaded.append((name, device))
        if name == "absent":
            raise FileNotFoundError("no folder 'absent'; give \"proxy\"")
        return MeanScorer()

    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", load)

    def run(*arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    run.loaded = loaded
    return run


def test_score_prints_results_and_messages_apart(zoomiqa):
    result = zoomiqa("score", "good.png", "bad.png", "more", "void", "none.png")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "3.01 ± 0.25   50.2  good.png",  # 1 + 4 · 128 / 255 = 3.0078, (3.0078 − 1) · 25 = 50.20
        "5.00 ± 0.25  100.0  more/bright.png",
    ]
    messages = result.stderr.splitlines()
    assert [line.split(": ")[:3] for line in messages] == [
        ["error", "no_images", "no images found in void"],
        ["error", "missing", "none.png"],
        ["error", "unknown_format", "bad.png"],
    ]
    assert zoomiqa.loaded == [("proxy", "cpu")]


def test_json_is_one_document_with_null_for_nan(zoomiqa):
    result = zoomiqa("score", "*.png", "--json", "--scorer", "my-judge", "--device", "cuda")
    assert result.exit_code == 0
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert document["scorer"] == "my-judge" and zoomiqa.loaded == [("my-judge", "cuda")]
    bad, good = document["results"]
    assert (bad["name"], bad["valid"], bad["error"]) == ("bad.png", False, "unknown_format")
    assert bad["rating"] is None and bad["rating_std"] is None and bad["score"] is None
    assert "convert it to PNG or JPEG" in bad["message"]
    assert good["valid"] and math.isclose(good["rating"], 1 + 4 * 128 / 255, rel_tol=1e-6)


def test_csv_table(zoomiqa, tmp_path):
    result = zoomiqa("score", "good.png", "bad.png", "--csv", "tables/ratings.csv")
    assert result.exit_code == 0
    rows = list(csv.DictReader((tmp_path / "tables" / "ratings.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["name"] == "good.png" and float(rows[0]["score"]) == pytest.approx(50.196, 1e-4)
    assert (rows[1]["rating"], rows[1]["valid"], rows[1]["error"]) == (
        "",
        "False",
        "unknown_format",
    )


def test_nothing_valid_exits_with_2(zoomiqa):
    for command in (["score"], ["score", "--json"], ["map", "--out", "maps"]):
        result = zoomiqa(*command, "bad.png", "none.png")
        assert result.exit_code == command_line.NOTHING_VALID
        assert "unknown_format" in result.stderr
        assert "no input gave a valid result" in result.stderr
    assert json.loads(zoomiqa("score", "--json", "bad.png").stdout)["results"][0]["rating"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage"),
        (["score"], "Missing argument"),
        (["rate", "good.png"], "No such command"),
        (["score", "good.png", "--jason"], "No such option"),
        (["score", "good.png", "--scorer", "absent"], "cannot load the scorer 'absent': "),
        (["score", "good.png", "--csv", "bad.png/a.csv"], "cannot write"),
        (["map", "good.png", "--out", "bad.png"], "cannot write"),
    ],
)
def test_errors_exit_with_1(zoomiqa, arguments, message):
    result = zoomiqa(*arguments)
    assert result.exit_code == command_line.ERROR
    assert message in result.output


def test_map_draws_every_readable_image(zoomiqa, tmp_path):
    save_png(torch.zeros(3, 8, 8), "more/sub/good.png")
    result = zoomiqa("map", "good.png", "bad.png", "more", "--out", "maps")
    assert result.exit_code == 0
    names = ["good.png_map.png", "bright.png_map.png", "sub/good.png_map.png"]
    assert result.stdout.splitlines() == [f"maps/{name}" for name in names]
    assert "unknown_format" in result.stderr
    maps = [path.relative_to("maps").as_posix() for path in Path("maps").rglob("*.*")]
    assert sorted(maps) == sorted(names)
    for name in names:
        with Image.open(tmp_path / "maps" / name) as picture:
            assert picture.height >= 384  # a readable size, whatever the input's


def test_map_may_be_written_to_a_file_of_its_own(zoomiqa):
    assert zoomiqa("map", "good.png", "--out", "new/map.jpg").stdout == "new/map.jpg\n"
    with Image.open("new/map.jpg") as picture:
        assert picture.format == "JPEG"
    before = Path("more/bright.png").read_bytes()
    taken = zoomiqa("map", "good.png", "--out", "more/bright.png")
    assert taken.exit_code == 1 and "exists; give another name\n" in taken.stderr
    assert Path("more/bright.png").read_bytes() == before
    assert "not for 2" in zoomiqa("map", "good.png", "more", "--out", "x.png").stderr


def test_what_was_decided_while_reading_is_said(zoomiqa):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save("clear.png")
    for command in (["score"], ["score", "--json"], ["map", "--out", "maps"]):
        result = zoomiqa(*command, "clear.png")
        assert result.stderr == "note: clear.png: alpha composited over white\n"


def test_help_names_the_commands(zoomiqa):
    result = zoomiqa("--help")
    assert result.exit_code == 0 and "score" in result.stdout and "map" in result.stdout


class Words(ZoomIQA):
    """A Zoom-IQA judge whose reply has an escape sequence in it."""

    def __init__(self):
        thought = "Issues to Avoid: \x1b[31mNoise.\nDirections for Improvement: Clean sky."
        super().__init__(ScriptedBackend(lambda r: thought + (GOOD if len(r.images) > 1 else CROP)))


@pytest.fixture
def vlm_program(zoomiqa, monkeypatch):
    """The program with such a judge; ``asked`` holds what it was loaded with."""
    asked = {}

    def load(name, **settings):
        asked.update(settings)
        return Words()

    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", load)
    zoomiqa.asked = asked
    return zoomiqa


def test_settings_of_a_zoom_iqa_judge_reach_it(vlm_program):
    ended = vlm_program("score", "good.png", "--samples", 3, "--seed", 7, "--prompts", "builtin")
    assert ended.exit_code == 0, ended.output
    assert vlm_program.asked["prompts"] == "builtin"
    assert vlm_program.asked["config"] == JudgeConfig(samples=3, seed=7)
    # one chain: no spread is printed
    assert ended.stdout == " 4.75   93.8  good.png\n".lstrip()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samples", 2), "takes no settings, got config (--samples, --seed)"),
        (("--scorer", "http://127.0.0.1:1/v1"), "give the name of one, model=… (--model"),
    ],
)
def test_options_of_another_judge_are_refused_with_the_fix(tmp_path, options, says):
    save_png(torch.rand(3, 8, 8), tmp_path / "a.png")
    arguments = ["score", tmp_path / "a.png", *options]
    ended = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert ended.exit_code == 1 and says in ended.stderr
    assert "Traceback" not in ended.output and "positional" not in ended.output


def test_words_are_printed_as_data(vlm_program):
    ended = vlm_program("score", "good.png", "--words")
    assert "  improve: Clean sky.\n" in ended.stdout
    assert "  avoid: �[31mNoise.\n" in ended.stdout and "\x1b" not in ended.stdout


def test_regions_given_or_chosen(vlm_program):
    ended = vlm_program(
        "regions", "good.png", "bad.png", "--bbox", "0,0,0.5,1", "--bbox", "0,0,1,1"
    )
    assert ended.exit_code == 0
    assert ended.stdout.splitlines() == [
        "4.75  0.000,0.000,0.500,1.000  good.png",
        "4.75  0.000,0.000,1.000,1.000  good.png",
    ]
    assert "unknown_format" in ended.stderr
    chosen = json.loads(vlm_program("regions", "good.png", "--json").stdout)
    (region,) = chosen["results"][0]["regions"]
    assert region["rating"] == 4.75 and region["rating_std"] is None and region["error"] is None


def test_regions_of_the_proxy_must_be_given(zoomiqa):
    ended = zoomiqa("regions", "good.png")
    assert ended.exit_code == 1 and "give --bbox" in ended.stderr
    ended = zoomiqa("regions", "good.png", "--bbox", "0,0,2,1")
    assert ended.exit_code == 1 and "expected X0,Y0,X1,Y1" in ended.stderr
    ended = zoomiqa("regions", "good.png", "--bbox", "0,0,1,1")
    assert ended.stdout == "1.50 ± 0.10  0.000,0.000,1.000,1.000  good.png\n"


def test_expected_needs_a_zoom_iqa_judge(zoomiqa, vlm_program):
    assert vlm_program("score", "good.png", "--expected").stdout.startswith("3.00 ± 0.50")


def test_expected_of_the_proxy_is_refused(zoomiqa):
    ended = zoomiqa("score", "good.png", "--expected")
    assert ended.exit_code == 1 and "'proxy' is not one" in ended.stderr


def test_version_and_help_import_no_torch():
    code = "import sys; from zoomiqa_core.cli.main import app; app(['--help'], standalone_mode=0); "
    code += "assert not {'torch', 'numpy', 'timm'} & set(sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert ended.returncode == 0, ended.stderr
    assert CliRunner().invoke(cli.app, ["--version"]).stdout == f"{__version__}\n"


def test_paths_and_output_are_checked_before_a_judge_is_loaded(zoomiqa, tmp_path):
    for arguments in (
        ["score", "none.png", "void"],
        ["map", "good.png", "--out", "bad.png/maps"],
        ["score", "good.png", "--csv", "bad.png/a.csv"],
        ["map", "more/bright.png", "--out", "more"],
    ):
        assert zoomiqa(*arguments).exit_code in (1, 2)
    assert zoomiqa.loaded == []
    missing = zoomiqa("score", "none.png", "void").stderr
    assert "error: missing: none.png: no such file" in missing
    assert "error: no_images: no images found in void" in missing
    inside = zoomiqa("map", "more/bright.png", "--out", "more")
    assert "lies in the output folder more; choose another" in inside.stderr


def test_namesakes_change_no_other_path_and_a_clash_is_refused(zoomiqa):
    before = zoomiqa("map", "more", "--out", "maps").stdout
    save_png(torch.ones(3, 8, 8), "more/bright.jpg.png").rename("more/bright.jpg")
    save_png(torch.ones(3, 8, 8), "more/sub/bright.png")
    assert before in zoomiqa("map", "more", "--out", "maps").stdout
    clash = zoomiqa("map", "more/bright.png", "more/sub/bright.png", "--out", "maps")
    assert clash.exit_code == 1
    assert "more/bright.png and more/sub/bright.png would both be written to" in clash.stderr


def test_ctrl_c_leaves_whole_rows(zoomiqa, monkeypatch):
    save_png(torch.full((3, 8, 8), 0.25), "later.png")

    class Interrupted(MeanScorer):
        def assess(self, images):
            if images == [Path("later.png")]:
                raise KeyboardInterrupt
            return super().assess(images)

    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, **_: Interrupted())
    ended = zoomiqa("score", "good.png", "later.png", "--json", "--csv", "table.csv")
    assert ended.exit_code == 130
    (row,) = json.loads(ended.stdout)["results"]
    assert row["name"] == "good.png"
    (line,) = csv.DictReader(Path("table.csv").read_text(encoding="utf-8").splitlines())
    assert line["name"] == "good.png"


@pytest.mark.parametrize("charset", ["utf-8", "cp1252", "ascii"])
def test_any_name_is_printed_in_any_encoding(zoomiqa, charset):
    names = [os.fsdecode(b"caf\xe9.png"), "木.png", "\N{GRINNING FACE}.png"]
    for name in names:
        save_png(torch.full((3, 8, 8), 0.5), name)
    runner = CliRunner(charset=charset)
    text = runner.invoke(cli.app, ["score", *names, "--csv", "table.csv"])
    assert text.exit_code == 0 and text.stdout.count("50.") == 3
    document = runner.invoke(cli.app, ["score", *names, "--json"])
    assert [row["name"] for row in json.loads(document.stdout)["results"]] == names
    assert len(Path("table.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3


def test_the_pixel_limit_is_an_option(zoomiqa, monkeypatch):
    class Limited(MeanScorer):
        name = "limited"

        def assess(self, images, *, limits=DEFAULT_LIMITS):
            pixels = [read_image(image, limits=limits).pixels for image in images]
            return [MeanScorer().assess(each) for each in pixels]

    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, **_: Limited())
    assert zoomiqa("score", "good.png", "--max-megapixels", 0.000064).exit_code == 0
    with pytest.raises(ImageError, match="the limits are 63 pixels"):
        raise zoomiqa("score", "good.png", "--max-megapixels", 0.000063).exception
    assert "max_pixels >= 1" in zoomiqa("score", "good.png", "--max-megapixels", 0).stderr


def test_a_judge_without_a_pixel_limit_says_so(zoomiqa, monkeypatch):
    ended = zoomiqa("score", "good.png", "--max-megapixels", 100)
    assert ended.exit_code == 1 and "--max-megapixels: the judge" in ended.stderr


def test_a_map_takes_one_forward_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_png(torch.rand(3, 32, 32), "a.png")
    scorer = load_scorer("proxy")
    calls = []
    judged = type(scorer._folded).forward
    monkeypatch.setattr(
        type(scorer._folded), "forward", lambda *a, **k: calls.append(1) or judged(*a, **k)
    )
    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, **_: scorer)
    assert CliRunner().invoke(cli.app, ["map", "a.png"]).exit_code == 0
    assert len(calls) == 1
