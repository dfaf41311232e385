"""The alarm's recipe: its loss by hand, what it learns, held-out photos, a resumed run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes import train_alarm as recipe
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.alarm.families import SIZE
from zoomiqa_core.alarm.statistics import COUNT
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.batches import VERSIONS

KINDS = ("damaged", "restored", "pool")
SMOKE = Path(recipe.__file__).parent / "configs" / "train_alarm" / "smoke.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three photos, of which the first is held out, their restored sets and families."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(3):
        generator = torch.Generator().manual_seed(index)
        photo = torch.rand(3, 72, 72, generator=generator)
        save_png(photo, folder / "photos" / f"a_{index}.png")
        save_png(photo.repeat(1, 1, len(VERSIONS)), folder / "sets" / f"{index:05d}_a_{index}.png")
        for kind in ("clean", "degraded", "input", *(f"kind-{n}" for n in range(SIZE))):
            candidate = torch.rand(3, 64, 64, generator=generator)
            save_png(candidate, folder / "pool" / f"{index:05d}_a_{index}" / f"{kind}.png")
    return [f"photos={folder}/photos", f"restored={folder}/sets", f"pool={folder}/pool"]


def run(data: list[str], out: Path) -> dict[str, torch.Tensor]:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}"])
    return load_file(out / "weights" / "model.safetensors")


def test_difference_loss_by_hand():
    rating, target = torch.tensor([[2.0, 3.0, 3.5]]), torch.tensor([[1.0, 2.0, 3.0]])
    # differences of 1, 1.5 and .5 that should be 1, 2 and 1: off by 0, .5 and .5; β / 2 less
    expected = (0 + 0.45 + 0.45) / 3
    assert recipe.difference_loss(rating, target).item() == pytest.approx(expected)
    assert recipe.difference_loss(rating + 7, target).item() == pytest.approx(expected)
    assert recipe.difference_loss(target, target).item() == 0


def test_fitting_finds_what_is_there():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(400, 4, COUNT, generator=generator)
    rating = 3 + found[..., 0].tanh()
    config = replace(recipe.Config("p", "r", "f"))
    torch.manual_seed(0)
    alarm = Alarm(members=2, hidden=16)
    recipe.fit(alarm, found[:380], rating[:380], config)
    unseen = recipe.agreement(alarm, found[380:], rating[380:])
    assert unseen["SRCC"] > 0.5 and unseen["family SRCC"] > 0.4
    assert all(not member.training for member in alarm.members)


def test_a_run_leaves_an_alarm_and_resumes_to_the_same(data, tmp_path):
    whole = run(data, tmp_path / "whole")
    names = {path.parent.name for path in (tmp_path / "whole" / "families").rglob("*.safetensors")}
    assert names == {f"{kind}{note}" for kind in KINDS for note in ("", "_held_out")}
    lines = (tmp_path / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["versions"] for line in lines] == ["taught", *KINDS]
    (tmp_path / "whole" / "families" / "damaged" / "00000.safetensors").unlink()
    again = run(data, tmp_path / "whole")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    Alarm.from_pretrained(tmp_path / "whole" / "weights")
