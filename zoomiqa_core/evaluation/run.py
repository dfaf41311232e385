"""Judge a dataset with any scorer: sharded over processes, resumable, one JSON line per image.

The run's folder holds ``config.yaml`` (what was judged by whom; another configuration is refused)
and ``judgements-LAUNCH-PROCESS.jsonl``, one file per process of every launch, so that no process
ever writes where another has. A launch judges what no file has yet, shared out anew over however
many processes there are now. :mod:`zoomiqa_core.evaluation.summary` makes figures of the lines.

On a CPU the number of threads (``OMP_NUM_THREADS``, which ``accelerate launch`` sets) moves a
rating in its seventh digit: keep it equal where two runs are to agree to the last.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.launch import Process
from zoomiqa_core.scorer import Scorer

Judgement = dict[str, Any]
"""One line: ``index``, ``name``, ``mos``, what the judge said, ``seconds``."""


def sample(images: Sequence[RatedImage], limit: int | None, seed: int = 0) -> list[RatedImage]:
    """At most ``limit`` of the images, drawn without regard to their order, which they keep.

    (The first images of a table are often of one kind.)
    """
    if limit is None or limit >= len(images):
        return list(images)
    chosen = np.random.default_rng(seed).choice(len(images), size=limit, replace=False)
    return [images[index] for index in sorted(chosen)]


def fingerprint(images: Sequence[RatedImage], root: Path) -> str:
    """A digest of names and labels in their order: the same list, the same digest."""
    lines = (f"{image_name(image, root)}\t{image.mos!r}\n" for image in images)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def default_folder(identity: dict[str, Any]) -> Path:
    """``runs/eval/DATASET-SPLIT-SCORER``, in lower case."""
    scorer = Path(identity["scorer"]).name
    return (
        Path("runs/eval") / f"{identity['dataset']}-{identity['split'] or 'all'}-{scorer}".lower()
    )


def image_name(image: RatedImage, root: Path) -> str:
    """The image's path below the dataset's folder, with forward slashes."""
    return Path(os.path.relpath(image.path, root.expanduser())).as_posix()


def evaluate(
    images: Sequence[RatedImage],
    scorer: Scorer,
    out: Path,
    *,
    root: Path,
    config: dict[str, Any],
    batch: int = 1,
    process: Process | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> list[Judgement]:
    """Judge what ``out`` does not hold yet, and return every image's judgement.

    Args:
        images: what to judge.
        scorer: the judge. It must turn a bad image into an invalid assessment; an exception
            ends the launch, and the next one goes on from the lines on disk.
        out: the run's folder.
        root: the dataset's folder, which names are relative to.
        config: plain values that identify the run; the images' digest is added.
        batch: images per call of the scorer.
        process: this process; None is a process of its own.
        progress: wraps the chunks of this process, e.g. with a bar.

    Returns:
        One judgement per image in their order, the same in every process.

    Raises:
        ValueError: ``out`` holds another configuration or a malformed line.
        RuntimeError: an image has no judgement though every process ended.
    """
    process = process or Process()
    identity = {**config, "images": len(images), "fingerprint": fingerprint(images, root)}
    RunFolder(out, yaml.safe_dump(identity, sort_keys=False, allow_unicode=True))
    done = read_judgements(out)
    file = out / f"judgements-{_launches(out):03d}-{process.index:03d}.jsonl"
    process.wait()  # everybody has seen the same lines before anybody adds one
    todo = [index for index in range(len(images)) if index not in done]
    mine = process.share(todo)
    chunks = [mine[at : at + batch] for at in range(0, len(mine), batch)]
    if chunks:
        with file.open("x", encoding="utf-8") as lines:
            for chunk in progress(chunks):
                for judgement in _judge(scorer, images, chunk, root):
                    lines.write(json.dumps(judgement, ensure_ascii=False, allow_nan=False) + "\n")
                lines.flush()
                os.fsync(lines.fileno())
    process.wait()
    done = read_judgements(out)
    missing = [index for index in range(len(images)) if index not in done]
    if missing:
        raise RuntimeError(
            f"{out}: {len(missing)} of {len(images)} images have no judgement yet; "
            "give the same command again"
        )
    return [done[index] for index in range(len(images))]


def read_judgements(out: Path) -> dict[int, Judgement]:
    """All judgements in a run's folder by index; of two for one image the first launch's.

    A line counts once its line end is written: a last line without one was cut short by a kill
    and is left out.

    Raises:
        ValueError: any other line is malformed (file and line named).
    """
    found: dict[int, Judgement] = {}
    for file in sorted(out.glob("judgements-*.jsonl")):
        *lines, _torn = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                judgement = json.loads(line)
                found.setdefault(int(judgement["index"]), judgement)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{file}, line {number} is no judgement ({error!r}); delete the line to have "
                    "its image judged again"
                ) from error
    return found


def to_judgement(
    index: int, image: RatedImage, assessment: Assessment, root: Path, seconds: float
) -> Judgement:
    """What is kept of one assessment, in plain JSON values."""
    said = assessment.to_dict()
    judgement = {"index": index, "name": image_name(image, root), "mos": image.mos}
    keys = ("rating", "rating_std", "valid", "error", "message", "chains")
    judgement |= {key: said[key] for key in keys}
    if judgement["chains"]:
        judgement["chains"].pop("rounds")  # the words would be most of the file
    return {**judgement, "seconds": round(seconds, 6)}


def _judge(
    scorer: Scorer, images: Sequence[RatedImage], chunk: list[int], root: Path
) -> list[Judgement]:
    start = time.perf_counter()
    assessments = scorer.assess([images[index].path for index in chunk])
    seconds = (time.perf_counter() - start) / len(chunk)
    return [
        to_judgement(index, images[index], assessment, root, seconds)
        for index, assessment in zip(chunk, assessments, strict=True)
    ]


def _launches(out: Path) -> int:
    """How many launches have left judgements: the number of the next one."""
    return max((int(f.name.split("-")[1]) + 1 for f in out.glob("judgements-*.jsonl")), default=0)
