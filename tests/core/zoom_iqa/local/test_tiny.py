"""The bundled small Zoom-IQA model: it answers, looks closer, and knows damage when it sees it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from typer.testing import CliRunner

from restoration_guide.cli.main import DEMO_PHOTO
from zoomiqa_core import JudgeConfig, load_scorer
from zoomiqa_core.cli.main import app
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.scorer import Scorer
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM


@pytest.fixture(scope="module")
def tiny() -> ZoomIQA:
    judge = load_scorer("tiny", config=JudgeConfig(samples=4))
    assert isinstance(judge, ZoomIQA)
    return judge


def test_it_is_a_scorer_that_names_itself(tiny: ZoomIQA):
    scorer: Scorer = tiny
    assert isinstance(scorer, Scorer)
    assert isinstance(tiny.backend, LocalVLM) and tiny.backend.name == "tiny"
    assert next(tiny.backend.model.parameters()).dtype == torch.float32


def test_it_rates_in_words_and_is_the_same_again(tiny):
    said, again = tiny.assess([DEMO_PHOTO, DEMO_PHOTO])
    assert said.valid and not said.chains.errors and said.chains.ratings == again.chains.ratings
    assert 1 <= said.rating <= 5 and said.rating_std > 0
    assert said.chains.rounds[0].text.startswith("<think>")
    assert said.directions or said.issues


def test_a_region_is_rated(tiny):
    (region,) = tiny.score_regions(DEMO_PHOTO, [(0.0, 0.0, 0.5, 0.5)])
    assert 1 <= region.rating <= 5


@pytest.mark.parametrize("name", ["impulse_noise", "gaussian_blur"])
def test_heavy_damage_is_rated_lower(tiny, name):
    demo = to_batch(DEMO_PHOTO)
    damaged = distort(demo, name, 5, generator=torch.Generator().manual_seed(0))
    before, after = tiny.assess([demo[0], damaged[0]], mode="expected")
    assert after.rating < before.rating - 0.3


def test_the_command_line_knows_it():
    words = ["score", str(DEMO_PHOTO), "--scorer", "tiny", "--words"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def test_it_is_copied_pickled_and_sent_to_a_spawned_process(tiny):
    rating = tiny.assess(DEMO_PHOTO, mode="expected").rating
    for judge in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert judge.assess(DEMO_PHOTO, mode="expected").rating == rating
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        there = workers.submit(tiny.assess, DEMO_PHOTO, mode="expected").result()
    assert there.rating == pytest.approx(rating, abs=1e-5)
