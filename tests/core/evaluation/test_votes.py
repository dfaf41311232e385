"""Judging voted pairs: rows, inputs, failures, families with the teacher's labels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.benchmarks.votes import VotedPair
from zoomiqa_core.evaluation.vote_summary import summarise_votes, votes_table, write_votes_summary
from zoomiqa_core.evaluation.votes import (
    Sharpness,
    judge_pairs,
    label_families,
    read_pairs,
    votes_fingerprint,
)
from zoomiqa_core.images.errors import MissingImageError
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.restoration.labels import mixture_rating, teacher_distances
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import save_family

ROOT = Path("set")


class Reader:
    """Rates N.png N; with an input, 5 − N. Remembers what it was asked."""

    name = "reader"
    takes_degraded = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def assess(self, images: Any, *, degraded: Path | None = None) -> Any:
        if isinstance(images, list):
            return [self.assess(image) for image in images]
        self.asked.append((images.name, degraded.name if degraded else ""))
        if degraded is not None and degraded.name == "gone.png":
            raise MissingImageError("gone.png: no such file")
        if degraded is not None and degraded.name == "odd.png":
            raise ValueError("the degraded input must have the candidate's size")
        number = float(images.stem)
        if number == 4:
            return Assessment.failed("truncated", "cut short", str(images))
        if number == 11:
            return Assessment(float("nan"), 0.1)
        return Assessment(number if degraded is None else 5 - number, 0.1)


class Alone(Reader):
    takes_degraded = False


def pair(left: int, right: int, share: float, given: str | None = "low.png") -> VotedPair:
    degraded = None if given is None else ROOT / given
    return VotedPair(ROOT / f"{left}.png", ROOT / f"{right}.png", share, 1, f"p{left}", degraded)


def run(out: Path, pairs: list[VotedPair], scorer: Any, config: Any = None) -> Any:
    return judge_pairs(pairs, scorer, out, root=ROOT, config=config or {"scorer": "reader"})


def test_a_judge_that_takes_the_input_is_asked_with_and_without(tmp_path: Path) -> None:
    scorer, pairs = Reader(), [pair(1, 2, 1.0), pair(3, 2, 0.25)]
    judged = run(tmp_path, pairs, scorer)
    assert list(judged) == ["with input", "without input", "sharpness"]
    assert scorer.asked == [(f"{n}.png", given) for given in ("low.png", "") for n in (1, 2, 3)]
    assert [j["rating"] for j in judged["with input"]] == [4, 3, 2]
    assert [j["rating"] for j in judged["without input"]] == [1, 2, 3]
    assert [j["mos"] for j in judged["with input"]] == [0, (1 + 0.25) / 2, 0.75]
    assert {j["error"] for j in judged["sharpness"]} == {"missing"}
    summary = summarise_votes(pairs, judged, {"dataset": "set", "scorer": "reader"})
    rows = {row: figures["votes"]["value"] for row, figures in summary["agreement"].items()}
    assert rows == {
        "with input": 0.125,  # (0 + .25) / 2: without it 2 > 1 and 3 > 2, with it the reverse
        "without input": 0.875,
        "sharpness": None,
        "majority ceiling": 0.875,
        "chance": 0.5,
    }
    assert summary["invalid"]["sharpness"] == {"missing": 3}
    assert [summary[key] for key in ("photos", "images", "pairs", "votes")] == [2, 3, 2, 2]


def test_other_judges_and_votes_without_inputs_have_one_row(tmp_path: Path) -> None:
    assert list(run(tmp_path / "a", [pair(1, 2, 1)], Alone())) == ["judge", "sharpness"]
    without = [pair(1, 2, 1, None)]
    assert list(run(tmp_path / "b", without, Reader())) == ["without input", "sharpness"]


def test_failures_are_named_and_their_pairs_left_out(tmp_path: Path) -> None:
    pairs = [pair(1, 2, 1), pair(3, 4, 1), pair(5, 6, 1, "gone.png"), pair(7, 8, 1, "odd.png")]
    pairs += [pair(9, 10, 1, None)]
    judged = run(tmp_path, pairs, Reader())
    errors = [j["error"] for j in judged["with input"]]
    names = ["input_missing"] * 2 + ["input_wrong_size"] * 2 + ["no_input"] * 2
    assert errors == [None, None, None, "truncated", *names]
    summary = summarise_votes(pairs, judged, {"dataset": "set", "scorer": "reader"})
    assert summary["agreement"]["with input"]["judged"] == 1
    assert summary["agreement"]["without input"]["judged"] == 4
    assert summary["invalid"]["without input"] == {"truncated": 1}
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(votes_table(summary))
    words = "2 input_missing, 2 input_wrong_size, 2 no_input, 1 truncated"
    printed = console.export_text()
    assert f"with input: 7 of 10 images failed ({words}); their pairs are left out" in printed
    json_file, picture = write_votes_summary(summary, tmp_path)
    assert json.loads(json_file.read_text(), parse_constant=pytest.fail) == summary
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_rating_that_is_no_number_is_no_vote(tmp_path: Path) -> None:
    pairs = [pair(11, 12, 1), pair(1, 2, 1)]
    judged = run(tmp_path, pairs, Alone())
    summary = summarise_votes(pairs, judged, {"scorer": "reader"})
    assert summary["agreement"]["judge"]["judged"] == 1
    assert summary["invalid"]["judge"] == {"no_rating": 1}


def test_a_run_resumes_and_belongs_to_its_votes_and_judge(tmp_path: Path) -> None:
    pairs = [pair(1, 2, 1.0), pair(3, 2, 0.25)]
    first = run(tmp_path, pairs, Reader())
    lines = tmp_path / "with_input" / "judgements-000-000.jsonl"
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:2]) + b'{"ind')
    again = Reader()
    second = run(tmp_path, pairs, again)
    assert again.asked == [("3.png", "low.png")]
    assert [j["rating"] for j in second["with input"]] == [j["rating"] for j in first["with input"]]
    for other in (
        [pair(1, 2, 0.5), pairs[1]],
        [pair(1, 2, 1.0, "x.png"), pair(3, 2, 0.25, "x.png")],
    ):
        with pytest.raises(ValueError, match="another configuration"):
            run(tmp_path, other, Reader())

    class Weighted(Reader):
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="another configuration"):
        run(tmp_path, pairs, Weighted())


def test_the_fingerprint_knows_names_and_votes_and_no_folder() -> None:
    here = [pair(1, 2, 1.0), pair(3, 2, 0.25, None)]

    def there(path: Path | None) -> Any:
        return None if path is None else Path("elsewhere") / path.name

    moved = [VotedPair(there(p.left), there(p.right), p.share, 1, "", there(p.input)) for p in here]
    assert votes_fingerprint(here, ROOT) == votes_fingerprint(moved, Path("elsewhere"))
    assert votes_fingerprint(here, ROOT) != votes_fingerprint(here[::-1], ROOT)


def test_sharpness_by_hand(tmp_path: Path) -> None:
    image = torch.zeros(3, 3, 3)
    image[:, 1, 1] = 0.5  # the only response is −4 · .5
    assert Sharpness().assess([image])[0].rating == 3
    ramp = torch.linspace(0, 1, 9).expand(3, 9, 9)
    assert Sharpness().assess([ramp])[0].rating == pytest.approx(1, abs=1e-5)
    assert Sharpness().assess([tmp_path / "none.png"])[0].error == "missing"


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three families of two photos: candidates nearer and nearer to the clean photo."""
    folder = tmp_path_factory.mktemp("families")
    generator = torch.Generator().manual_seed(0)
    for number, photo in enumerate(("lake", "lake", "tree")):
        clean = torch.nn.functional.interpolate(
            torch.rand(1, 3, 12, 12, generator=generator), (96, 96), mode="bicubic"
        )[0].clamp(0, 1)
        noise = torch.randn(clean.shape, generator=generator)
        made = {f"n{n}": (clean + 0.05 * n * noise).clamp(0, 1) for n in (1, 3, 6)}
        save_family(folder / f"{number:05d}_{photo}", {"clean": clean, **made}, made["n6"])
    return folder


def test_families_are_labelled_by_the_teacher(families: Path) -> None:
    pairs = read_pairs(families)
    assert len(pairs) == 9 and {pair.photo for pair in pairs} == {"lake", "tree"}
    assert {image.stem for pair in pairs for image in (pair.left, pair.right)} == {"n1", "n3", "n6"}
    assert all(pair.share == 0 for pair in pairs)  # the left one has less noise
    assert all(pair.input == pair.left.parent / "degraded.png" for pair in pairs)
    assert len(read_pairs(families, limit=1)) == 3
    assert label_families([]) == []


def test_the_labels_are_those_the_judge_is_trained_on(families: Path) -> None:
    from zoomiqa_core.restoration.measured import measure
    from zoomiqa_core.restoration.pool import load_family

    folder = families / "00000_lake"
    family, judge = load_family(folder), RestorationJudge.from_pretrained()
    images, degraded = family.images.float() / 255, family.degraded.float() / 255
    with torch.no_grad():
        _, distances = measure(judge, images, degraded, images[family.kinds.index("clean")])
        clean = images[[0]]
        pyramids = judge.features(torch.cat([images, clean]))
        own = teacher_distances(images, clean, pyramids)
    assert family.kinds[0] == "clean" and torch.allclose(own, distances, atol=1e-5)
    ratings = mixture_rating(distances)
    assert ratings[1] > ratings[2] > ratings[3]


def test_a_table_of_votes_beside_families_is_preferred(families: Path, tmp_path: Path) -> None:
    (tmp_path / "family").mkdir()
    save_png(torch.rand(3, 16, 16), tmp_path / "family" / "degraded.png")
    (tmp_path / "people.csv").write_text("left,right,selected,photo\na,b,1,x\nc,d,1,y\n")
    assert [pair.photo for pair in read_pairs(tmp_path)] == ["x", "y"]
    assert len(read_pairs(tmp_path, limit=1)) == 1
