"""The example workflows in a real ComfyUI server, where ``ZOOMIQA_TEST_COMFYUI`` names its folder.

``ZOOMIQA_TEST_COMFYUI_PYTHON`` is an interpreter with its requirements and ours.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from restoration_guide.integrations.comfyui.run_examples import (
    PHOTO,
    WORKFLOWS,
    make_inputs,
    run_prompt,
    running_server,
    save_outputs,
    to_prompt,
)

COMFYUI = os.environ.get("ZOOMIQA_TEST_COMFYUI", "")
ROOT = Path(__file__).parents[4]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not COMFYUI, reason="ZOOMIQA_TEST_COMFYUI names no ComfyUI"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    make_inputs(PHOTO, base / "input")
    python = os.environ.get("ZOOMIQA_TEST_COMFYUI_PYTHON", sys.executable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        with running_server(Path(COMFYUI), python, base) as running:
            yield running


def prompt(client, name: str) -> dict[str, Any]:
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return to_prompt(workflow, client.get("/object_info").json())


def run(client, name: str, folder: Path) -> str:
    return "\n".join(save_outputs(client, run_prompt(client, prompt(client, name)), folder))


def test_pick_and_gate(client, tmp_path) -> None:
    said = run(client, "pick_best", tmp_path)
    assert "candidate 0 is best" in said and "candidate 2: constant" in said
    said = run(client, "gate", tmp_path)
    assert "1 of 2 accepted (1 accept, 1 keep_input)" in said
    kept = sorted(path.name for path in tmp_path.glob("*_kept_*"))
    assert len(kept) == 2 and len([*tmp_path.glob("*_best_*")]) == 1


def test_ratings_maps_and_prompts(client, tmp_path) -> None:
    said = run(client, "rate_and_map", tmp_path)
    assert "2 of 2 judged by proxy" in said and len([*tmp_path.glob("*_quality_map_*")]) == 2
    assert "a photo, " in run(client, "prompts", tmp_path)


def test_an_unknown_judge_is_refused_and_the_server_goes_on(client, tmp_path) -> None:
    wrong = prompt(client, "gate")
    (node,) = (each for each in wrong.values() if each["class_type"] == "ZoomIQA_QualityGate")
    node["inputs"]["judge"] = "proxi"
    with pytest.raises(RuntimeError, match=r"ZoomIQA_QualityGate.*no judge is called 'proxi'"):
        run_prompt(client, wrong)
    node["inputs"] |= {"judge": "proxy", "min_rating": 7}
    with pytest.raises(RuntimeError, match=r"bigger than max of 5"):
        run_prompt(client, wrong)
    assert "accepted" in run(client, "gate", tmp_path)
