"""Compare the protocol with cases computed by the released code: crops, answers, correlations.

    python -m benchmarks.check_golden --golden zoomiqa_protocol.json

Prints how many are identical and lists every difference with its reason. Exit code 1 when a
difference has none. A reason is a strictness that :mod:`zoomiqa_core.zoom_iqa.answer` declares; it
counts only where the text calls for it and our outcome is the one that strictness leads to.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from zoomiqa_core.assessment import rating_to_score
from zoomiqa_core.evaluation.correlation import isotonic_plcc, isotonic_srcc
from zoomiqa_core.zoom_iqa.answer import (
    AnswerError,
    answer_fields,
    parse_answer,
    read_bbox,
    read_route,
)
from zoomiqa_core.zoom_iqa.crop import crop_box, crop_image

TOLERANCE = 1e-6
Case = dict[str, Any]
LAST_WINS = "which answer wins: ours reads the last, the released code the first"
BOOLEAN = "a boolean is no rating"
RELAXED = "relaxed JSON is read only with repair=True"


def crop_difference(case: Case) -> str | None:
    """Box, fallback and the size of a crop really cut; None when all are identical."""
    width, height = case["width"], case["height"]
    try:
        bbox = read_bbox(case["bbox_2d"])
    except AnswerError:  # the released policy is asked directly here, before any parser
        bbox = None
    crop = crop_box(bbox, width, height)
    cut = crop_image(Image.new("L", (width, height)), crop)
    got = [list(crop.bbox_px), crop.central_fallback, list(cut.size)]
    expected = [case["pixel_box"], case["central_fallback"], case["crop_size"]]
    return None if got == expected else f"expected {expected}, got {got}"


def judge(text: str, *, repair: bool = False) -> Case:
    """What the released functions report for a reply, from ours."""
    result: Case = {"rating": None, "requests_crop": None}
    try:
        result["rating"] = parse_answer(text, last_round=True, repair=repair).rating
        result["score_0_100"] = rating_to_score(result["rating"])
    except AnswerError as error:
        result["rating_error"] = error.code
    try:
        fields, _ = answer_fields(text, repair=repair)
        result["requests_crop"] = read_route(fields).tool == "crop"
    except AnswerError as error:
        result["route_error"] = error.code
    return result


def answer_difference(case: Case) -> str | None:
    """None when rating, score, route and both error names are identical."""
    got = judge(case["text"])
    return None if got == expected_of(case) else f"expected {expected_of(case)}, got {got}"


def expected_of(case: Case) -> Case:
    return {key: value for key, value in case.items() if key != "text"}


def answer_reason(case: Case) -> str | None:
    """The declared strictness that led from the released outcome to ours."""
    text, got = case["text"], judge(case["text"])
    if len(re.findall("<answer>\\s*[{]", text)) > 1:
        return LAST_WINS if got == judge(text[text.rfind("<answer>") :]) else None
    body = text[text.rfind("<answer>") + len("<answer>") : text.rfind("</answer>")]
    try:
        fields = json.loads(body)
    except ValueError:
        refused = got["rating_error"] == got["route_error"] == "malformed_json"
        return RELAXED if refused else None
    if isinstance(fields.get("rating"), bool):
        same_route = all(got.get(k) == case.get(k) for k in ("requests_crop", "route_error"))
        return BOOLEAN if same_route and got["rating_error"] == "invalid_rating" else None
    return None


def report_repair(relaxed: list[Case]) -> None:
    """How the relaxed answers fare with ``repair=True``; needs json-repair."""
    if importlib.util.find_spec("json_repair") is None:
        print("  repair=True: not tried, json-repair is not installed")
        return
    outcomes: Counter[str] = Counter()
    for case in relaxed:
        got = judge(case["text"], repair=True)
        boolean = re.search("rating\\W*true", case["text"])
        outcomes[
            "identical"
            if got == expected_of(case)
            else BOOLEAN
            if boolean and got.get("rating_error") == "invalid_rating"
            else "not repaired, as another <answer> stands before it"
            if case["text"].count("<answer>") > 1
            else f"other: expected {expected_of(case)}, got {got}, {case['text']!r}"
        ] += 1
    for outcome, count in outcomes.most_common():
        print(f"  repair=True on the relaxed ones: {count} × {outcome}")


def correlation_difference(case: Case) -> str | None:
    """None when both agree to 1e-6 (or both are undefined)."""
    values = case["predictions"], case["targets"]
    got = isotonic_plcc(*values), isotonic_srcc(*values)
    expected = [math.nan if case[k] is None else case[k] for k in ("fit_plcc", "fit_srcc")]
    same = all(
        abs(a - b) <= TOLERANCE or (math.isnan(a) and math.isnan(b))
        for a, b in zip(got, expected, strict=True)
    )
    return None if same else f"expected {expected}, got {list(got)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the protocol with golden cases.")
    parser.add_argument("--golden", type=Path, required=True, help="zoomiqa_protocol.json")
    golden = json.loads(parser.parse_args(arguments).golden.read_text(encoding="utf-8"))
    unexplained = 0
    checks = (
        ("crops", crop_difference),
        ("answers", answer_difference),
        ("correlations", correlation_difference),
    )
    for name, difference in checks:
        cases = golden[name]
        found = [(i, case, difference(case)) for i, case in enumerate(cases)]
        found = [(i, case, what) for i, case, what in found if what]
        print(f"{name}: {len(cases) - len(found)} of {len(cases)} identical")
        reasons: Counter[str] = Counter()
        for i, case, what in found:
            reason = answer_reason(case) if name == "answers" else None
            unexplained += reason is None
            reasons[reason or "UNEXPLAINED"] += 1
            print(f"  {name[:-1]} {i}: {reason or 'UNEXPLAINED'}; {what}")
            if name == "answers":
                print(f"    {case['text']!r}")
        for reason, count in reasons.most_common():
            print(f"  {count} × {reason}")
        if reasons[RELAXED]:
            report_repair([case for _, case, _ in found if answer_reason(case) == RELAXED])
    print(f"unexplained: {unexplained}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
