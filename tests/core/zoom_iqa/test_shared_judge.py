"""Threads that share one judge get what a single thread gets."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch

from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.sampling import Sampling


class Counts(NamedTuple):
    calls: int
    equal: int
    different_results: int
    threads_left: int


def judge_in_threads(judge: ZoomIQA, threads: int, calls: int) -> Counts:
    """Judge ``calls`` images one after the other, then all of them at once in every thread."""
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand(3, 64, 64, generator=generator) for _ in range(min(10, calls))]

    def call(number: int) -> str:
        draws = torch.Generator().manual_seed(number)
        said: Any = judge.assess(photos[number % len(photos)], generator=draws)
        return json.dumps(said.to_dict(), sort_keys=True)  # as text, in which NaN equals NaN

    def all_calls(thread: int) -> list[bool]:
        order = random.Random(thread).sample(range(calls), calls)
        return [call(number) == serial[number] for number in order]

    before = threading.active_count()
    serial = [call(number) for number in range(calls)]
    with ThreadPoolExecutor(threads) as pool:
        equal = [same for part in pool.map(all_calls, range(threads)) for same in part]
    for _ in range(500):  # the server's threads need a moment to end
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    return Counts(len(equal), sum(equal), len(set(serial)), threading.active_count() - before)


@pytest.mark.slow
def test_threads_share_a_model_in_this_process() -> None:
    backend = LocalVLM(*build_tiny_vlm(), sampling=Sampling(max_new_tokens=8))
    judge = ZoomIQA(backend, config=JudgeConfig(retries=0))
    assert judge_in_threads(judge, threads=16, calls=20) == (320, 320, 20, 0)
