"""Judges behind one protocol: load one by name, ask it about images, regions and maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zoomiqa_core.alarm.scorer import AlarmScorer
    from zoomiqa_core.assessment import Assessment, BBox, RegionScore
    from zoomiqa_core.images.sources import ImageSource
    from zoomiqa_core.proxy.scorer import ProxyScorer
    from zoomiqa_core.restoration.scorer import RestorationScorer


@runtime_checkable
class Scorer(Protocol):
    """A judge of image quality: what :func:`load_scorer` returns and ``BestOfN`` takes.

    >>> isinstance(load_scorer("proxy"), Scorer)
    True
    """

    name: str
    """What reports and configurations call it; ``load_scorer(name)`` gives it again."""

    @overload
    def assess(self, images: ImageSource) -> Assessment: ...
    @overload
    def assess(self, images: Iterable[ImageSource]) -> list[Assessment]: ...

    def score_regions(self, image: ImageSource, bboxes: Sequence[BBox]) -> list[RegionScore]:
        """Rate regions of one image, each seen in the context of the whole."""
        ...

    def quality_map(self, image: ImageSource) -> Tensor:
        """(1, h, w) rating of every place of the image, 1–5."""
        ...


@overload
def load_scorer(
    name: Literal["proxy"] = ..., *, device: str | torch.device = ...
) -> ProxyScorer: ...
@overload
def load_scorer(name: Literal["alarm"], *, device: str | torch.device = ...) -> AlarmScorer: ...
@overload
def load_scorer(
    name: Literal["restoration"], *, device: str | torch.device = ...
) -> RestorationScorer: ...
@overload
def load_scorer(
    name: str | Path, *, device: str | torch.device = ..., **settings: Any
) -> Scorer: ...


def load_scorer(
    name: str | Path = "proxy", *, device: str | torch.device = "cpu", **settings: Any
) -> Scorer:
    """Load a judge.

    Args:
        name: ``"proxy"`` for the bundled weights; ``"alarm"`` for the bundled second judge, which
            checks what was tuned against the proxy; ``"restoration"`` for the bundled judge of
            restorations, which also takes the degraded input; ``"tiny"`` for the bundled small
            Zoom-IQA model; a folder or hub id holding a :class:`QualityProxy` or a vision-language
            judge (an image-text-to-text model of transformers, or a LoRA adapter of one), or a
            folder holding an ``Alarm`` (``~`` is expanded; a
            ``Path`` is always a folder); the address of an OpenAI-compatible server,
            ``"http://…/v1"``; or ``"pyiqa:NAME"``, a no-reference metric of an installed pyiqa. Any
            other metric: :class:`~zoomiqa_core.MetricScorer`.
        device: where it judges; a server judges where it is. ``"auto"`` spreads a
            vision-language judge over the accelerators.
        settings: of a Zoom-IQA judge, see :func:`zoomiqa_core.zoom_iqa.local.model.local_scorer`
            and, for a server (``model=…`` at least),
            :func:`zoomiqa_core.zoom_iqa.served.judge.served_scorer`; of a metric of pyiqa, see
            :func:`zoomiqa_core.interop.pyiqa_scorer.pyiqa_scorer`; the proxy takes none.

    Raises:
        ImportError: pyiqa is not installed.
        FileNotFoundError: a folder that does not exist or holds no judge.
        OSError: a hub id that cannot be downloaded.
        PromptsError: the model's prompts cannot be loaded; the message says how to get them.
        TypeError, ValueError: settings this judge does not take.

    >>> import torch
    >>> result = load_scorer("proxy").assess(torch.rand(3, 64, 64))
    >>> result.valid, 1 <= result.rating <= 5
    (True, True)
    """
    if str(name).startswith(("http://", "https://")):
        from zoomiqa_core.zoom_iqa.served.judge import served_scorer

        return served_scorer(str(name), **settings)
    if isinstance(name, str) and name.startswith("pyiqa:"):
        from zoomiqa_core.interop.pyiqa_scorer import pyiqa_scorer

        return pyiqa_scorer(name.removeprefix("pyiqa:"), device=device, **settings)
    if name == "tiny":
        from zoomiqa_core.zoom_iqa.local.model import TINY, TINY_SAMPLING

        name, settings = TINY, {"name": "tiny", "sampling": TINY_SAMPLING, **settings}
    bundled = name in ("proxy", "alarm", "restoration")  # Path("proxy") is a folder
    if not bundled:
        from zoomiqa_core.zoom_iqa.local.model_files import is_transformers_model

        if is_transformers_model(name, settings.get("revision")):
            from zoomiqa_core.zoom_iqa.local.model import local_scorer

            return local_scorer(name, device=device, **settings)
    if settings:
        options = {"config": "config (--samples, --seed)", "model": "model (--model)"}
        given = ", ".join(options.get(key, key) for key in sorted(settings))
        raise TypeError(
            f"the judge {name} takes no settings, got {given}; these are settings of Zoom-IQA "
            'judges, e.g. load_scorer("tiny", …)'
        )
    if name == "restoration":
        from zoomiqa_core.restoration.model import RestorationJudge
        from zoomiqa_core.restoration.scorer import RestorationScorer

        return RestorationScorer(RestorationJudge.from_pretrained(), device)
    from zoomiqa_core.alarm.model import Alarm

    folder = None if bundled else name
    if name == "alarm" or (folder is not None and Alarm.is_saved_in(folder)):
        from zoomiqa_core.alarm.scorer import AlarmScorer

        return AlarmScorer(Alarm.from_pretrained(folder), device, str(name))
    from zoomiqa_core.proxy.model import QualityProxy
    from zoomiqa_core.proxy.scorer import ProxyScorer

    return ProxyScorer(QualityProxy.from_pretrained(folder), device, str(name))
