"""Figures, table and scatter plot of judgements."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from rich.console import Console

from zoomiqa_core.evaluation.correlation import plcc, srcc
from zoomiqa_core.evaluation.summary import (
    draw_scatter,
    heading,
    summarise,
    summary_table,
    write_summary,
)
from zoomiqa_core.runs.files import to_json

IDENTITY = {
    "dataset": "KonIQ-10k",
    "split": "test",
    "scorer": "proxy",
    "labels": "MOS, 0–100",
    "seed": 0,
}


def judgement(index, rating, mos, **more):
    base = {"index": index, "name": f"{index}.png", "mos": mos, "rating": rating}
    base |= {"rating_std": 0.1, "valid": True, "error": None, "chains": None, "seconds": 0.5}
    return base | more


def invalid(index, error):
    return judgement(index, None, 50.0, valid=False, error=error)


def judgements():
    rated = [judgement(n, 1 + 0.4 * n, 8.0 * n + 5 * (n % 3)) for n in range(10)]
    return [*rated, invalid(10, "missing"), invalid(11, "truncated"), invalid(12, "missing")]


def shown(summary, width=120):
    page = io.StringIO()
    Console(width=width, file=page).print(summary_table(summary))
    return page.getvalue()


def test_invalid_judgements_are_counted_by_name_and_kept_out():
    summary = summarise(judgements(), IDENTITY)
    assert (summary["images"], summary["valid"]) == (13, 10)
    assert summary["invalid"] == {"missing": 2, "truncated": 1}
    x, y = zip(*((j["rating"], j["mos"]) for j in judgements()[:10]), strict=True)
    raw = summary["agreement"]["raw"]
    assert raw["plcc"]["value"] == pytest.approx(plcc(x, y), abs=1e-6)
    assert raw["srcc"]["value"] == pytest.approx(srcc(x, y), abs=1e-6)
    assert raw["krcc"]["low"] <= raw["krcc"]["value"] <= raw["krcc"]["high"]
    assert set(summary["agreement"]) == {"raw", "logistic", "isotonic"}
    json.loads(to_json(summary), parse_constant=pytest.fail)


def test_costs_by_hand():
    said = [
        judgement(
            0, 2.0, 10.0, chains={"zoom_share": 1.0, "zoom_shift": 0.5, "tokens": 700, "retries": 1}
        ),
        judgement(
            1,
            3.0,
            20.0,
            chains={"zoom_share": 0.0, "zoom_shift": 0.0, "tokens": 300, "fallback": "round_1"},
        ),
        {
            **invalid(2, "missing_answer"),
            "chains": {"tokens": 200, "retries": 3, "zoom_share": 1.0},
        },
    ]
    summary = summarise(said, IDENTITY)
    assert (summary["zoom_rate"], summary["zoom_shift"]) == (0.5, 0.25)  # of the valid two
    assert summary["tokens"] == {"total": 1200, "per_image": 400}  # the invalid one cost as well
    assert (summary["retries"], summary["fallbacks"]) == (4, {"round_1": 1})
    assert summary["timing"]["judging_seconds"] == 1.5
    text = shown(summary)
    assert "zoom rate 50.0%" in text and "400 tokens an image" in text and "0.500 s" in text
    assert "fallbacks: 1 round_1" in text and "rating changed by +0.250" in text


def test_a_judge_that_neither_zooms_nor_writes_has_no_such_figures():
    said = [{**j, "chains": {"tokens": 0}} for j in judgements()]
    summary = summarise(said, IDENTITY)
    assert summary["zoom_rate"] is summary["zoom_shift"] is summary["tokens"] is None
    assert "zoom" not in shown(summary) and "tokens" not in shown(summary)


def test_only_the_timing_depends_on_the_clock():
    slow = [{**j, "seconds": 9.0} for j in judgements()]
    one, other = summarise(judgements(), IDENTITY), summarise(slow, IDENTITY)
    assert one.pop("timing") != other.pop("timing")
    assert to_json(one) == to_json(other)


def test_one_table_shows_fits_and_intervals():
    text = shown(summarise(judgements(), IDENTITY))
    assert "KonIQ-10k test · proxy · 13 images · invalid: 2 missing, 1 truncated" in text
    for fit in ("raw", "logistic", "isotonic"):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(fit)]
        assert line.count("[") == 3
    assert all(name in text for name in ("PLCC", "SRCC", "KRCC"))
    narrow = shown(summarise(judgements(), IDENTITY), 80)
    assert len(narrow.splitlines()) == len(text.splitlines())  # nothing folds


def test_nothing_valid_is_said_not_hidden():
    said = [invalid(0, "missing"), invalid(1, "missing")]
    summary = summarise(said, IDENTITY)
    assert summary["agreement"]["raw"]["plcc"] == {"value": None, "low": None, "high": None}
    assert "raw, logistic, isotonic: correlations need at least 3 images, got 0" in shown(summary)
    assert summary["mean_rating"] is None


@pytest.mark.parametrize("valid", [0, 1, 10])
def test_the_scatter_plot_is_drawn_from_any_number_of_points(tmp_path, valid):
    said = [*judgements()[:valid], invalid(10, "missing")]
    path = draw_scatter(said, summarise(said, IDENTITY), tmp_path / "runs" / "scatter.png")
    with Image.open(path) as picture:
        assert picture.width >= 900
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert ((209, 73, 91) in colours) == (valid == 10)  # the fitted curve


def test_the_same_judgements_give_the_same_files(tmp_path):
    said = judgements()
    paths = [write_summary(said, summarise(said, IDENTITY), tmp_path / name) for name in "ab"]
    assert [path.name for path in paths[0]] == ["summary.json", "scatter.png"]
    for one, other in zip(*paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_heading_without_split_or_faults():
    summary = summarise(judgements()[:10], {**IDENTITY, "split": ""})
    assert heading(summary) == "KonIQ-10k all · proxy · 10 images · invalid: none"
