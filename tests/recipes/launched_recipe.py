"""A recipe as torchrun starts it: ``torchrun … launched_recipe.py NAME key=value …``.

The policy of ``train_grpo`` is a random model taught to answer, so that rewards differ. A time
limit is read from a clock that advances by one second a call on the main process and not at all on
the others. At the end each process prints its steps and a hash of its weights.
"""

import hashlib
import itertools
import json
import os
import sys
from functools import partial
from importlib import import_module
from typing import Any

from accelerate import PartialState

from tests.core.judges import BROKEN, CROP, FINAL, GOOD
from zoomiqa_core.training import trainer_run
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies


def taught_policy(*_, **__):
    model, processor = build_tiny_vlm()
    teach_replies(model, processor, {FINAL: 8.0, CROP: 8.9, GOOD: 8.0, BROKEN: 7.0}, end=8.5)
    return model, processor


def report(trainer: Any) -> None:
    digest = hashlib.sha256()
    for parameter in trainer.accelerator.unwrap_model(trainer.model).parameters():
        digest.update(parameter.detach().numpy().tobytes())
    process = trainer.accelerator.process_index
    line = {"process": process, "steps": trainer.state.global_step, "weights": digest.hexdigest()}
    print(json.dumps(line) + "\n", end="", flush=True)  # one write: two processes share the pipe


if __name__ == "__main__":
    state = PartialState(cpu=True)
    assert state.num_processes == int(os.environ["EXPECTED_WORLD_SIZE"]), state
    clock = partial(next, itertools.count() if state.is_main_process else itertools.repeat(0))
    trainer_run.time_limit = partial(trainer_run.time_limit, clock=clock)
    recipe: Any = import_module(f"recipes.{sys.argv[1]}")
    if sys.argv[1] == "train_grpo":
        recipe.load_policy = taught_policy
    train = recipe.train_to_judge

    def train_and_report(trainer: Any, *arguments: Any, **settings: Any) -> Any:
        folder = train(trainer, *arguments, **settings)
        report(trainer)
        return folder

    recipe.train_to_judge = train_and_report
    recipe.main(sys.argv[2:])
