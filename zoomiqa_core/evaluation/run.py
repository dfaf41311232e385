"""Judge a dataset with any scorer: distributed over processes, resumable, one JSON line per image.

The run's folder holds ``config.yaml`` (dataset, judge, hash of its weights; another configuration
is refused) and ``judgements-LAUNCH-PROCESS.jsonl``, one file per process of every launch, so that
processes never write to the same file. A launch judges the images without a judgement, and again
those whose failure may pass (:data:`TRANSIENT`), distributed over the processes there are now.
:mod:`zoomiqa_core.evaluation.summary` computes figures from the lines.

On a CPU the number of threads (``OMP_NUM_THREADS``, which ``accelerate launch`` sets) changes a
rating in its seventh digit: keep it equal between runs that must agree exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.benchmarks.rated_images import RatedImage
from zoomiqa_core.images.errors import ImageLimits
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.launch import Process
from zoomiqa_core.scorer import Scorer

Item = TypeVar("Item")
Judgement = dict[str, Any]
"""One line: ``index``, ``name``, ``mos``, the fields of the assessment, ``seconds``."""

TRANSIENT = frozenset({"connection", "timeout", "server_busy", "server_error", "out_of_memory"})
"""Errors of a judgement that another launch may not meet: it judges these images again."""


def sample(images: Sequence[Item], limit: int | None, seed: int = 0) -> list[Item]:
    """At most ``limit`` of the images (or photos, or folders), drawn at random, in their order.

    Not the first ones, because a table often starts with images of one kind.
    """
    if limit is None or limit >= len(images):
        return list(images)
    chosen = np.random.default_rng(seed).choice(len(images), size=limit, replace=False)
    return [images[index] for index in sorted(chosen)]


def fingerprint(images: Sequence[RatedImage], root: Path) -> str:
    """SHA-256 of the images' names and labels, in their order."""
    lines = (f"{image_name(image, root)}\t{image.mos!r}\n" for image in images)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def default_folder(identity: dict[str, Any]) -> Path:
    """``runs/eval/DATASET-SPLIT-SCORER``, in lower case.

    >>> identity = {"dataset": "KonIQ-10k", "split": "", "scorer": "models/My-Judge"}
    >>> default_folder(identity).as_posix()
    'runs/eval/koniq-10k-all-my-judge'
    """
    scorer = Path(identity["scorer"]).name
    return (
        Path("runs/eval") / f"{identity['dataset']}-{identity['split'] or 'all'}-{scorer}".lower()
    )


def weights_digest(scorer: Scorer) -> str | None:
    """SHA-256 of the parameters and buffers of a judge's model; None for a judge without one here.

    >>> from zoomiqa_core.scorer import load_scorer
    >>> proxy, alarm = load_scorer("proxy"), load_scorer("alarm")
    >>> weights_digest(proxy) == weights_digest(alarm)
    False
    """
    model = getattr(scorer, "model", getattr(getattr(scorer, "backend", None), "model", None))
    if not isinstance(model, torch.nn.Module):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
    limits: ImageLimits | None = None,
    process: Process | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> list[Judgement]:
    """Judge the images that ``out`` has no judgement of, and return the judgements of all.

    Args:
        images: with their labels.
        scorer: the judge. A bad image must give an invalid assessment; an exception ends the
            launch, and the next launch resumes from the lines on disk.
        out: the run's folder.
        root: the dataset's folder, which names are relative to.
        config: plain values that identify the run; hashes of the images' names and labels and of
            the judge's weights are added.
        batch: images per call of the scorer.
        limits: sizes accepted, part of the run's identity; None for the scorer's default.
        process: this process of a launch; None for a single process.
        progress: wraps the chunks of this process, e.g. with a bar.

    Returns:
        One judgement per image in their order, the same in every process.

    Raises:
        ValueError: ``out`` holds another configuration or a malformed line.
        RuntimeError: an image has no judgement although every process ended.

    >>> from PIL import Image
    >>> from zoomiqa_core.scorer import load_scorer
    >>> Image.effect_noise((64, 64), 40).save("a.png")
    >>> images, root = [RatedImage(Path("a.png"), 31.0, 2.2)], Path(".")
    >>> (judgement,) = evaluate(images, load_scorer("proxy"), Path("run"), root=root, config={})
    >>> judgement["name"], judgement["mos"], judgement["valid"]
    ('a.png', 31.0, True)
    """
    process = process or Process()
    identity = {**config, "images": len(images), "fingerprint": fingerprint(images, root)}
    identity["weights"] = weights_digest(scorer)
    how = {} if limits is None else {"limits": limits}
    identity |= {name: asdict(value) for name, value in how.items()}
    RunFolder(out, yaml.safe_dump(identity, sort_keys=False, allow_unicode=True))
    done = read_judgements(out)
    file = out / f"judgements-{_launches(out):03d}-{process.index:03d}.jsonl"
    process.wait()  # all processes have read the same lines before one adds any
    todo = [index for index in range(len(images)) if _may_pass(done.get(index))]
    mine = process.share(todo)
    chunks = [mine[at : at + batch] for at in range(0, len(mine), batch)]
    if chunks:
        with file.open("x", encoding="utf-8") as lines:
            for chunk in progress(chunks):
                for judgement in _judge(scorer, images, chunk, root, how):
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
    """All judgements in a run's folder by index.

    Of several for one image the first counts that is not a transient failure. A last line without
    a line end was cut short by a kill and is left out.

    Raises:
        ValueError: any other line is malformed (file and line named).
    """
    found: dict[int, Judgement] = {}
    for file in sorted(out.glob("judgements-*.jsonl")):
        *lines, _torn = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                judgement = json.loads(line)
                index = int(judgement["index"])
                if _may_pass(found.get(index)):
                    found[index] = judgement
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{file}, line {number} is no judgement ({error!r}); delete the line to have "
                    "its image judged again"
                ) from error
    return found


def _may_pass(judgement: Judgement | None) -> bool:
    """Whether an image has no judgement, or a failure that another launch may not meet."""
    return judgement is None or judgement.get("error") in TRANSIENT


def to_judgement(
    index: int, image: RatedImage, assessment: Assessment, root: Path, seconds: float
) -> Judgement:
    """One assessment as plain JSON values, without the text of the replies."""
    fields = assessment.to_dict()
    judgement = {"index": index, "name": image_name(image, root), "mos": image.mos}
    keys = ("rating", "rating_std", "valid", "error", "message", "chains")
    judgement |= {key: fields[key] for key in keys}
    if judgement["chains"]:
        judgement["chains"].pop("rounds")  # their text would be most of the file
    return {**judgement, "seconds": round(seconds, 6)}


def _judge(
    scorer: Scorer,
    images: Sequence[RatedImage],
    chunk: list[int],
    root: Path,
    how: dict[str, Any],
) -> list[Judgement]:
    start = time.perf_counter()
    assessments = scorer.assess([images[index].path for index in chunk], **how)
    seconds = (time.perf_counter() - start) / len(chunk)
    return [
        to_judgement(index, images[index], assessment, root, seconds)
        for index, assessment in zip(chunk, assessments, strict=True)
    ]


def _launches(out: Path) -> int:
    """Number of launches that have left judgements."""
    return max((int(f.name.split("-")[1]) + 1 for f in out.glob("judgements-*.jsonl")), default=0)
