"""A recipe as several processes run it: `accelerate launch launched_recipe.py NAME key=value …`.

The policy of `train_grpo` is a random model taught to answer, so that rewards differ.
"""

import sys
from importlib import import_module
from typing import Any

from tests.core.judges import BROKEN, CROP, FINAL, GOOD
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies


def taught_policy(*_, **__):
    model, processor = build_tiny_vlm()
    teach_replies(model, processor, {FINAL: 8.0, CROP: 8.9, GOOD: 8.0, BROKEN: 7.0}, end=8.5)
    return model, processor


if __name__ == "__main__":
    recipe: Any = import_module(f"recipes.{sys.argv[1]}")
    if sys.argv[1] == "train_grpo":
        recipe.load_policy = taught_policy
    recipe.main(sys.argv[2:])
