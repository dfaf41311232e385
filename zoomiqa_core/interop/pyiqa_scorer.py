"""Metrics of an installed pyiqa as judges: ``load_scorer("pyiqa:musiq")``."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from zoomiqa_core.interop.metric_scorer import MetricScorer

OF_SETS = ("fid", "sfid", "fid_dinov2", "inception_score")
"""Metrics of pyiqa that compare sets of images: one image has no value."""


def pyiqa_scorer(
    name: str,
    *,
    device: str | torch.device = "cpu",
    lowest: float | None = None,
    highest: float | None = None,
    differentiable: bool = False,
) -> MetricScorer:
    """Judge with a no-reference metric of pyiqa, by its name there.

    Direction and range are pyiqa's (``lower_better``, ``score_range``). It calls its ranges rough
    estimates, and some are far wider than what photos get (``niqe``: 0 to 100), so that ratings
    bunch up at one end: give ``lowest`` and ``highest``, and calibrate thresholds for each metric.
    Most metrics download their weights when they are first loaded. pyiqa's licence excludes
    commercial use, so it is no dependency of this package.

    Args:
        name: e.g. ``"musiq"``; ``pyiqa.list_models(metric_mode="NR")`` prints all.
        device: where it judges; pyiqa's own default would be a GPU wherever there is one.
        lowest: smallest value; None for pyiqa's.
        highest: largest value; None for pyiqa's.
        differentiable: give values a gradient in the image (pyiqa's ``as_loss``). Costs memory. A
            few metrics have none even so (``entropy``), or one of zeros (``piqe``).

    Raises:
        ImportError: pyiqa, or a library it needs, is not installed.
        OSError: weights cannot be downloaded.
        ValueError: no no-reference metric of this name, or a range that pyiqa leaves open.

    Example, where pyiqa is installed::

        judge = load_scorer("pyiqa:musiq", device="cuda")
        judge.assess("photo.jpg")
    """
    try:
        import pyiqa  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f'"pyiqa:{name}" needs pyiqa ({error}): pip install pyiqa. Its licence (PolyForm '
            "Noncommercial) excludes commercial use."
        ) from error
    _check_name(pyiqa, name)
    # With as_loss the default is the mean of the batch.
    metric = pyiqa.create_metric(
        name, device=torch.device(device), as_loss=differentiable, loss_reduction="none"
    )
    low, high = _stated_range(metric.score_range)
    low, high = low if lowest is None else lowest, high if highest is None else highest
    if low is None or high is None:
        raise ValueError(
            f'pyiqa gives {name} the range "{metric.score_range}", which is open: name yours, '
            f'load_scorer("pyiqa:{name}", lowest=…, highest=…)'
        )
    return MetricScorer(
        metric,
        lowest=low,
        highest=high,
        lower_is_better=bool(metric.lower_better),
        differentiable=differentiable,
        device=device,
        name=f"pyiqa:{name}",
    )


def _check_name(pyiqa: Any, name: str) -> None:
    known = [each for each in pyiqa.list_models(metric_mode="NR") if each not in OF_SETS]
    if name in known:
        return
    if name in OF_SETS:
        raise ValueError(f"pyiqa's {name} compares sets of images and cannot rate one image")
    if name in pyiqa.list_models():
        raise ValueError(
            f"pyiqa's {name} compares an image with its clean original, which a restorer does not "
            "have. Against the degraded input it measures how little was changed: "
            f'MetricScorer(pyiqa.create_metric("{name}"), takes_degraded=True, …)'
        )
    near = difflib.get_close_matches(name, known, 3) or known[:5]
    raise ValueError(f"pyiqa has no metric {name!r}; it has e.g. {', '.join(near)}")


def _stated_range(text: str | None) -> tuple[float | None, float | None]:
    """Both ends of pyiqa's ``"~0, ~100"``; None for one that is left open, as in ``"0, ~"``.

    >>> _stated_range("~-1, ~0.1"), _stated_range("0, ~"), _stated_range(None)
    ((-1.0, 0.1), (0.0, None), (None, None))
    """
    ends = [end.strip().lstrip("~") for end in (text or ",").split(",")]
    if len(ends) != 2:
        return None, None
    low, high = (float(end) if end else None for end in ends)
    return low, high
