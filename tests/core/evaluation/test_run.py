"""Judging a dataset: shards, lines on disk, what a kill leaves, whose folder it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from zoomiqa_core.assessment import Assessment, Chains, Round
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.evaluation.run import (
    default_folder,
    evaluate,
    fingerprint,
    image_name,
    read_judgements,
    sample,
    to_judgement,
)
from zoomiqa_core.runs.launch import Process, launched_process

ROOT = Path("data")
CONFIG = {"dataset": "made up", "scorer": "stub"}


class StubScorer:
    """Rates image n.png 1 + n / 10; 4.png cannot be read. Remembers what it was asked."""

    name = "stub"

    def __init__(self):
        self.asked = []

    def assess(self, paths):
        self.asked.append([path.name for path in paths])
        return [
            Assessment.failed("truncated", "cut short", str(path))
            if path.stem == "4"
            else Assessment(1 + int(path.stem) / 10, 0.5)
            for path in paths
        ]


def images(count):
    return [RatedImage(ROOT / "images" / f"{n}.png", 0.1 * n, 1 + 0.4 * n) for n in range(count)]


def run(out, count=10, scorer: Any = None, config=CONFIG, **options):
    judge: Any = scorer or StubScorer()
    return evaluate(images(count), judge, out, root=ROOT, config=config, **options)


def without_seconds(judgements):
    return [{k: v for k, v in judgement.items() if k != "seconds"} for judgement in judgements]


def test_judgements_are_lines_in_the_images_order(tmp_path):
    judgements = run(tmp_path)
    assert [judgement["index"] for judgement in judgements] == list(range(10))
    assert without_seconds(judgements)[3] == {
        "index": 3,
        "name": "images/3.png",
        "mos": pytest.approx(0.3),
        "rating": 1.3,
        "rating_std": 0.5,
        "valid": True,
        "error": None,
        "message": "",
        "chains": None,
    }
    bad = judgements[4]
    assert (bad["valid"], bad["error"], bad["rating"]) == (False, "truncated", None)
    assert all(judgement["seconds"] >= 0 for judgement in judgements)
    (file,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == judgements


def test_chunks_go_to_the_scorer_as_lists(tmp_path):
    scorer = StubScorer()
    run(tmp_path, 5, scorer, batch=2)
    assert scorer.asked == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_size_of_chunks_changes_nothing(tmp_path, batch):
    assert without_seconds(run(tmp_path / "a", batch=batch)) == without_seconds(run(tmp_path / "b"))


def test_what_is_done_is_not_done_again(tmp_path):
    first = run(tmp_path)
    scorer = StubScorer()
    assert run(tmp_path, scorer=scorer) == first
    assert scorer.asked == [] and len(list(tmp_path.glob("*.jsonl"))) == 1


def cut(out, count, torn=b""):
    """Leave the first lines of a run, as a kill would."""
    (file,) = out.glob("*.jsonl")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:count]) + torn)


@pytest.mark.parametrize(
    "torn",
    [b"", b'{"index": 5, "name": "ima', b"\xc3", b'{"index": 5, "rating": 9}', b"\0\0\0"],
    ids=["clean", "half a line", "half a letter", "whole but for its end", "zeros"],
)
def test_a_killed_run_goes_on(tmp_path, torn):
    expected = without_seconds(run(tmp_path / "unbroken"))
    out = tmp_path / "killed"
    run(out)
    cut(out, 5, torn)
    scorer = StubScorer()
    assert without_seconds(run(out, scorer=scorer)) == expected
    assert [name for chunk in scorer.asked for name in chunk] == [f"{n}.png" for n in range(5, 10)]
    # the torn file is left as it was, and the next launch reads past it as well
    assert without_seconds(run(out)) == expected


class Stopped(Exception):
    """Ends a process of a launch where it would wait for the others."""


def as_process(index, count):
    """A process of a launch whose others have not judged yet: it stops at the last wait."""
    waits = []

    def wait():
        waits.append(None)
        if len(waits) == 2:
            raise Stopped

    return Process(index, count, wait)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_images(tmp_path, order):
    expected = without_seconds(run(tmp_path / "one"))
    out = tmp_path / "three"
    shares = {}
    for index in order:
        scorer = StubScorer()
        # the three look before the first one writes: hide what the others of this launch wrote
        hidden = [f.rename(f.with_suffix(".hidden")) for f in sorted(out.glob("*.jsonl"))]
        with pytest.raises(Stopped):
            run(out, scorer=scorer, process=as_process(index, 3))
        for file in hidden:
            file.rename(file.with_suffix(".jsonl"))
        shares[index] = [name for chunk in scorer.asked for name in chunk]
    assert shares[0] == ["0.png", "3.png", "6.png", "9.png"] and len(shares[1]) == 3
    assert without_seconds(run(out)) == expected
    assert len(list(out.glob("*.jsonl"))) == 3


def test_a_run_resumes_on_another_number_of_processes(tmp_path):
    expected = without_seconds(run(tmp_path / "unbroken"))
    out = tmp_path / "killed"
    run(out)
    cut(out, 3)
    scorer = StubScorer()
    with pytest.raises(Stopped):
        run(out, scorer=scorer, process=as_process(1, 2))
    assert [name for chunk in scorer.asked for name in chunk] == ["4.png", "6.png", "8.png"]
    assert without_seconds(run(out)) == expected


def test_a_missing_shard_is_an_error_not_a_smaller_set(tmp_path):
    with pytest.raises(RuntimeError, match="5 of 10 images have no judgement yet"):
        run(tmp_path, process=Process(0, 2))


def test_of_two_judgements_the_first_launch_counts(tmp_path):
    def write(launch, process, *records):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"judgements-{launch:03d}-{process:03d}.jsonl").write_text(lines)

    write(1, 0, {"index": 0, "rating": 4}, {"index": 2, "rating": 3})
    write(0, 1, {"index": 0, "rating": 1})
    write(0, 0, {"index": 1, "rating": 2}, {"index": 1, "rating": 5})
    found = read_judgements(tmp_path)
    assert {index: record["rating"] for index, record in found.items()} == {0: 1, 1: 2, 2: 3}


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"rating": 1}', b'{"index": "a"}', b"", b"\xff"])
def test_a_malformed_line_is_named(tmp_path, line):
    file = tmp_path / "judgements-000-000.jsonl"
    file.write_bytes(b'{"index": 0}\n' + line + b'\n{"index": 1}\n')
    with pytest.raises(ValueError, match=r"judgements-000-000.jsonl, line 2 is no judgement"):
        read_judgements(tmp_path)


def test_failures_that_may_pass_are_judged_again(tmp_path):
    class Flaky(StubScorer):
        def assess(self, paths):
            errors = {"1": "connection", "2": "timeout", "3": "server_error", "5": "out_of_memory"}
            return [
                Assessment.failed(errors[path.stem]) if path.stem in errors else said
                for path, said in zip(paths, super().assess(paths), strict=True)
            ]

    first = run(tmp_path, scorer=Flaky())
    assert [judgement["valid"] for judgement in first].count(False) == 5
    scorer = StubScorer()
    second = run(tmp_path, scorer=scorer)
    assert [name for chunk in scorer.asked for name in chunk] == [f"{n}.png" for n in (1, 2, 3, 5)]
    assert without_seconds(second) == without_seconds(run(tmp_path / "unbroken"))
    assert second[4]["error"] == "truncated"  # lasting: not judged again


def test_new_weights_under_the_same_name_are_another_run(tmp_path):
    class Model(StubScorer):
        def __init__(self, bias):
            super().__init__()
            self.model = torch.nn.Linear(1, 1)
            torch.nn.init.constant_(self.model.weight, 1)
            torch.nn.init.constant_(self.model.bias, bias)

    run(tmp_path, scorer=Model(0.0))
    assert run(tmp_path, scorer=Model(0.0)) == run(tmp_path, scorer=Model(0.0))
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(tmp_path, scorer=Model(0.5))


def test_another_configuration_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(tmp_path, config={**CONFIG, "scorer": "other"})
    with pytest.raises(ValueError, match="another configuration"):
        run(tmp_path, count=9)


def test_a_scorer_that_loses_an_image_is_an_error(tmp_path):
    class Forgetful(StubScorer):
        def assess(self, paths):
            return super().assess(paths)[1:]

    with pytest.raises(ValueError, match="zip"):
        run(tmp_path, scorer=Forgetful())


def test_a_scorer_that_raises_keeps_what_was_judged(tmp_path):
    class Failing(StubScorer):
        def assess(self, paths):
            if paths[0].stem == "6":
                raise RuntimeError("out of memory")
            return super().assess(paths)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, scorer=Failing())
    assert len(read_judgements(tmp_path)) == 6
    assert without_seconds(run(tmp_path)) == without_seconds(run(tmp_path / "unbroken"))


def test_what_a_judge_with_chains_says_is_kept():
    chains = Chains((Round(2.5, "final"),), ratings=(2.4, 2.6), zoom_share=0.5, tokens=900)
    said = Assessment(2.5, 0.1, chains=chains)
    kept = to_judgement(0, images(1)[0], said, ROOT, 1.0)["chains"]
    assert (kept["ratings"], kept["zoom_share"], kept["tokens"]) == ((2.4, 2.6), 0.5, 900)
    assert (kept["retries"], kept["zoom_shift"], kept["errors"]) == (0, None, ())
    plain = to_judgement(0, images(1)[0], Assessment(2.5, 0.1), ROOT, 1.0)
    assert "rounds" not in kept and plain["chains"] is None


def test_a_limited_sample_is_seeded_and_keeps_the_order():
    few, again, other = (sample(images(50), 10, seed) for seed in (0, 0, 1))
    assert few == again
    assert few != other
    assert len(few) == 10 and few == sorted(few, key=lambda image: image.mos)
    assert max(image.mos for image in few) > 1.0  # not the first ten
    assert sample(images(5), 10) == sample(images(5), None) == images(5)


def test_the_fingerprint_knows_names_and_labels_and_no_folder():
    one = images(3)
    moved = [RatedImage(Path("elsewhere/images") / i.path.name, i.mos, i.rating) for i in one]
    assert fingerprint(one, ROOT) == fingerprint(moved, Path("elsewhere"))
    assert fingerprint(one, ROOT) != fingerprint(one[::-1], ROOT)
    assert image_name(one[1], ROOT) == "images/1.png"
    home = RatedImage(Path.home() / "set" / "a.png", 0, 1)
    assert image_name(home, Path("~/set")) == "a.png"


def test_the_default_folder_is_named_after_the_run():
    identity = {"dataset": "KonIQ-10k", "split": "", "scorer": "models/My-Judge"}
    assert default_folder(identity) == Path("runs/eval/koniq-10k-all-my-judge")


def test_without_a_launcher_this_process_is_alone():
    with launched_process("cpu") as process:
        assert (process.index, process.count, process.is_main) == (0, 1, True)
        process.wait()


SLOW_RUN = """
import sys, time
from pathlib import Path
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.evaluation.run import evaluate

class SlowScorer:
    def assess(self, paths):
        time.sleep(0.05)
        return [Assessment(1 + int(path.stem) / 10, 0.5) for path in paths]

root = Path("data")
images = [RatedImage(root / "images" / f"{n}.png", 0.1 * n, 1 + 0.4 * n) for n in range(400)]
evaluate(images, SlowScorer(), Path(sys.argv[1]), root=root,
         config={"dataset": "made up", "scorer": "stub"})
"""


def test_a_run_ended_by_sigkill_goes_on(tmp_path):
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(out)])
    while len(read_judgements(out)) < 7:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_judgements(out)
    assert 7 <= len(before) < 400

    class Judge(StubScorer):
        def assess(self, paths):
            self.asked.append(paths)
            return [Assessment(1 + int(path.stem) / 10, 0.5) for path in paths]

    scorer = Judge()
    resumed = run(out, 400, scorer)
    assert len(scorer.asked) == 400 - len(before)
    unbroken = run(tmp_path / "unbroken", 400, Judge())
    assert without_seconds(resumed) == without_seconds(unbroken)
