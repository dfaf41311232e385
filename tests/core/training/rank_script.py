"""Rank rewards of a fixed batch, dealt to the processes of torchrun; prints them all."""

import json
import os
import random

from accelerate import PartialState
from accelerate.utils import gather_object

from tests.core.judges import picture
from zoomiqa_core.training.rewards import RewardConfig, reward_functions
from zoomiqa_core.zoom_iqa.answer import format_answer

if __name__ == "__main__":
    state = PartialState(cpu=True)
    assert state.num_processes == int(os.environ["EXPECTED_WORLD_SIZE"]), state
    draw = random.Random(0)
    rows = [(f"i{n // 4}", 1.0 + n // 4 // 2, draw.uniform(1, 5)) for n in range(24)]
    texts = [format_answer(rating) if n % 7 else "?" for n, (*_, rating) in enumerate(rows)]
    share = len(rows) // state.num_processes  # groups of four straddle the two processes
    here = slice(state.process_index * share, (state.process_index + 1) * share)
    image = picture()
    _, _, rank, _ = reward_functions(RewardConfig())
    local = rank(
        completions=[[{"role": "assistant", "content": text}] for text in texts[here]],
        images=[[image]] * share,
        mos=[mos for _, mos, _ in rows[here]],
        image_id=[name for name, *_ in rows[here]],
        label_source=["people"] * share,
    )
    everybody = gather_object(local)
    if state.is_main_process:
        print(json.dumps(everybody))
    state.destroy_process_group()
