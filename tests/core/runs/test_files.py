"""JSON as every record is written."""

import json
import math

from zoomiqa_core.runs.files import to_json


def test_json_is_stable_and_finite() -> None:
    text = to_json({"b": (1, math.nan), "a": {"x": math.inf}})
    assert json.loads(text) == {"a": {"x": None}, "b": [1, None]}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")


def test_json_keeps_the_order_on_request() -> None:
    assert to_json({"b": "é", "a": 1}, sort_keys=False) == '{\n  "b": "é",\n  "a": 1\n}\n'
