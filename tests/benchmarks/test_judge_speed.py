"""The speed table: ratios by hand, its layout, and one tiny run."""

import pytest
import torch

from benchmarks import judge_speed, peers, timing
from benchmarks.judge_speed import JudgeTime, RestorationTime


def test_ratios_are_medians_of_the_rounds_ratios() -> None:
    # rounds: 2/1, 4/4, 9/3 → median of 2, 1, 3; the ratio of medians would be 4/3
    assert timing.ratios({"own": [2.0, 4.0, 9.0]}, [1.0, 4.0, 3.0]) == {"own": 2.0}


def test_runs_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    measured = timing.interleaved_seconds(runs, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in measured.items()} == {"a": 3, "b": 3}


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_share_of_judging() -> None:
    assert RestorationTime(1, 256, 8, 0.9, 0.1).judge_share == pytest.approx(0.1)


def test_table_has_a_line_a_judge_and_columns_a_thread_count() -> None:
    rows = [JudgeTime("fast", 1, 10.0, 1.0, 2.5), JudgeTime("plain", 1, 5.0, 0.5, None)]
    rows += [JudgeTime("fast", 2, 6.0, 1.0, 2.0), JudgeTime("plain", 2, 5.0, 0.8, None)]
    assert judge_speed.judges_table(rows, 64).splitlines() == [
        "| 64² | 1 thread: forward | 1 thread: + backward | 1 thread: ms "
        "| 2 threads: forward | 2 threads: + backward | 2 threads: ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| fast | 1.00 | 2.50 | 10.0 | 1.00 | 2.00 | 6.0 |",
        "| plain | 0.50 | – | 5.0 | 0.80 | – | 5.0 |",
    ]


def test_laplacian_variance_by_hand() -> None:
    # a grey line 0 0 1 0 0 across the image: rows of the response are 1, -2, 1 inside the border
    image = torch.zeros(1, 3, 5, 5)
    image[..., 2] = 1
    inside = torch.tensor([1.0, -2.0, 1.0]).repeat(3)
    assert peers.laplacian_variance(image) == pytest.approx(inside.var().item(), rel=1e-5)


def test_every_differentiable_judge_is_timed_in_both_directions() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    timed = {
        judge_speed.REFERENCE: peers.backbone(judge_speed.REFERENCE),
        "Laplacian variance": peers.laplacian_variance,
        "a number": lambda image: float(image.mean()),
    }
    rows = {row.name: row for row in judge_speed.time_judges(timed, image, rounds=1)}
    assert rows[judge_speed.REFERENCE].forward == 1.0
    assert (rows["Laplacian variance"].backward or 0) > 0
    assert rows["a number"].backward is None
