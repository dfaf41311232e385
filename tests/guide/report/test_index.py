"""The index of a run: what came of each image, rebuilt from what lies in the folder."""

import html.parser
import json
import re
from pathlib import Path

import pytest

from restoration_guide.report.folder import PACKAGE, RECORD, ReportExistsError
from restoration_guide.report.index import (
    STATUSES,
    Failure,
    Job,
    check_index,
    image_row,
    record_outcome,
    totals,
    totals_in_words,
    write_index,
)
from restoration_guide.report.write import write_report
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core.runs.files import to_json

HOSTILE = "<img src=x onerror=alert(1)>.png"


def reported(folder: Path, **changes) -> Path:
    """A report as the index reads it: the input rated 3, candidate 0 rated 3.5 and chosen."""
    rows = [
        {"index": "input", "rating": 3.0, "low_pass_distance": None},
        {"index": 0, "rating": 3.5, "low_pass_distance": 0.01},
    ]
    record = {
        "image": {"name": f"{folder.name}.png"},
        "rows": rows,
        "choice": 0,
        "reason": "it is best",
        "error": None,
        "skipped": {},
        "fidelity_terms": {"low_pass_distance": {}},
        "timing": {"total_seconds": 10.0, "judging_seconds": 0.5},
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(to_json(record), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "status", "gain"),
    [
        ({}, "restored", 0.5),
        ({"choice": "input"}, "kept", 0.0),
        ({"error": "KeyboardInterrupt"}, "stopped", 0.5),
        ({"rows": [{"index": "input", "rating": 3.0}], "choice": "input"}, "unjudged", None),
        ({"rows": None}, "pending", None),  # no report of ours
    ],
)
def test_a_row_says_what_came_of_an_image(tmp_path, changes, status, gain) -> None:
    row = image_row(reported(tmp_path / "a", **{"fidelity_terms": {}, **changes}))
    assert (row["status"], row["gain"]) == (status, gain)
    assert status in STATUSES and row["folder"] == "a"


def test_a_failure_is_kept_until_the_image_succeeds(tmp_path) -> None:
    job = Job(Path("photos/a.png"), tmp_path / "a")
    assert image_row(job.folder, "a.png")["status"] == "pending"
    record_outcome(job, Failure("unreadable", "truncated", "a.png: cut short"))
    row = image_row(job.folder)
    assert (row["status"], row["detail"]) == ("unreadable", "truncated: a.png: cut short")
    reported(tmp_path / "a")  # of an earlier run: the failed attempt does not hide it
    row = image_row(job.folder)
    assert (row["status"], row["last_attempt"]) == ("restored", "unreadable")
    assert row["detail"].endswith("the last attempt failed: truncated: a.png: cut short")
    record_outcome(job, None)
    assert image_row(job.folder)["status"] == "restored"


def test_totals_by_hand(tmp_path) -> None:
    reported(tmp_path / "a")
    reported(tmp_path / "b", choice="input", timing={"total_seconds": 30.0, "judging_seconds": 3.5})
    jobs = [Job(Path(name), tmp_path / name[0]) for name in ("a.png", "b.png", "c.png", "d.png")]
    record_outcome(jobs[2], Failure("failed", "OSError", "disk full"))
    sums = totals(write_index(tmp_path, jobs))
    # ratings (3 + 3) / 2 → (3.5 + 3) / 2; judging (0.5 + 3.5) / (10 + 30)
    assert (sums["rating_before"], sums["rating_after"], sums["gain"]) == (3.0, 3.25, 0.25)
    assert (sums["seconds"], sums["judging_share"]) == (40.0, 0.1)
    assert totals_in_words(sums) == (
        "4 images: 1 restored, 1 kept, 1 failed, 1 pending; rating 3.00 → 3.25 on average; "
        "40 s, judging 10.0 %"
    )
    assert totals_in_words(totals([])) == "0 images: "


def test_the_index_remembers_earlier_commands(tmp_path) -> None:
    reported(tmp_path / "a")
    record_outcome(Job(Path("b.png"), tmp_path / "b"), Failure("failed", "OSError", "full"))
    reported(tmp_path / "theirs", rows=None)
    (tmp_path / "other.error.json").write_text('{"theirs": 1}', encoding="utf-8")
    rows = write_index(tmp_path, [Job(Path("c.png"), tmp_path / "c")])
    assert [row["name"] for row in rows] == ["c.png"]  # of this command
    index = json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))
    statuses = {row["folder"]: row["status"] for row in index["images"]}
    assert statuses == {"a": "restored", "b": "failed", "c": "pending"}


def test_the_page_is_escaped_and_links_to_the_reports(photo, stubs, tmp_path) -> None:
    selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)(photo)
    folder = write_report(selection, tmp_path / "50 % ü")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["image"]["name"] = HOSTILE
    (folder / RECORD).write_text(to_json(record), encoding="utf-8")
    write_index(tmp_path, [Job(Path("late.png"), tmp_path / "late")])
    source = (tmp_path / "index.html").read_text(encoding="utf-8")
    tags: list[tuple[str, dict]] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(source)
    assert "onerror" not in {name for _, attributes in tags for name in attributes}
    assert not re.search(r"(?i)https?://|url\(", source)
    (link,) = [attributes["href"] for tag, attributes in tags if tag == "a"]
    (image,) = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert (link, image) == ("50%20%25%20%C3%BC/report.html", "50%20%25%20%C3%BC/preview.jpg")
    assert (folder / "preview.jpg").is_file()
    heads = sum(tag == "th" for tag, _ in tags)
    assert sum(tag == "td" for tag, _ in tags) == 2 * heads
    assert "degraded PSNR: dB, at most 100, higher is better" in source


def test_a_foreign_page_is_not_overwritten(tmp_path) -> None:
    check_index(tmp_path)
    (tmp_path / "index.html").write_text("my home page", encoding="utf-8")
    with pytest.raises(ReportExistsError, match="no index of a run"):
        check_index(tmp_path)
    (tmp_path / "index.json").write_text(to_json({PACKAGE: "0"}), encoding="utf-8")
    check_index(tmp_path)
