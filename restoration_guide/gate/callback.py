"""Stop a diffusers run whose predicted image is rated too low."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from restoration_guide.restorers.diffusers.previews import decode_latents, predicted_clean
from restoration_guide.search.judging import judge_image
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.scorer import Scorer

LatentDecoder = Callable[[Any, Tensor], Tensor]
"""``(pipeline, latents) → images (B, 3, H, W) in [0, 1]``."""


class StopHopeless(PipelineCallback):
    """Judges the predicted image at one step of a run, and stops the run if it is rated too low.

    At that step the clean latents x0 the sampler predicts are decoded and judged. When every image
    of the batch is rated below ``below`` or is not finite, the pipeline's ``_interrupt`` is set: it
    skips the steps that are left and returns what it has, which must not be used (``stopped``). A
    failed judgement stops nothing. A pipeline that cannot be interrupted (InstructPix2Pix) runs to
    its end; ``note`` says so. Pipelines with the older ``callback`` only (upscalers) take none.

    Give it to a pipeline as ``callback_on_step_end``. One object serves one call after the other:
    what it found is about the last one.

    Previews are softer than results, so that ``below`` belongs well under a gate's ``min_rating``.

    Args:
        scorer: the judge.
        below: the rating, 1–5, below which a preview has no hope.
        at: share of the steps after which to look, in (0, 1); the second step at the earliest. Of
            runs of one or two steps the result is judged, and nothing is stopped.
        size: (height, width) of the result in pixels, which packed latents (Flux) need.
        preview: decodes latents; the pipeline's autoencoder by default.

    Raises:
        ValueError: ``below`` or ``at`` is out of range.
    """

    def __init__(
        self,
        scorer: Scorer,
        below: float = 2.0,
        *,
        at: float = 0.5,
        size: tuple[int, int] | None = None,
        preview: LatentDecoder | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= below <= 5 or not 0 < at < 1:
            raise ValueError(
                f"below is a rating in [1, 5] and at a share in (0, 1); got {below} and {at}."
            )
        self.scorer, self.below, self.at, self.size = scorer, below, at, size
        self.preview = preview
        self._tap: _Tap | None = None
        self._forget()

    @property
    def tensor_inputs(self) -> list[str]:
        """Names of the tensors that the pipeline passes to the callback."""
        return ["latents"]

    def _forget(self) -> None:
        """Begin a run."""
        if self._tap is not None:  # the last run failed between two steps
            self._tap.remove()
        self._tap = None
        self.assessments: tuple[Assessment, ...] = ()
        """What the judge says of the previews; empty until they are seen."""
        self.hopeless = False
        """Whether no preview had any hope."""
        self.stopped = False
        """Whether the run was stopped: its images are unfinished."""
        self.note = "not looked at yet"
        """What was seen and what followed, with figures."""

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Called by the pipeline after every step."""
        latents = callback_kwargs["latents"]
        steps = getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps)
        look = max(1, math.ceil(self.at * steps) - 1)  # x0 of the first step cannot be tapped
        look = look if look < steps - 1 else steps - 1
        last = look == steps - 1  # of a run this short only the result can be judged
        if step_index == 0:
            self._forget()
            self._check(pipeline, latents)
        if step_index == look - 1 and not last:
            self._tap = _Tap(pipeline.scheduler)
        elif step_index == look:
            clean = self._tap.remove() if self._tap else None
            self._tap = None
            self._look(pipeline, latents if clean is None else clean, last)
            what = "results" if last else "latents" if clean is None else "predicted images"
            self.note = f"step {look + 1} of {steps}, {what}: {self.note}"
        return callback_kwargs

    def _check(self, pipeline: Any, latents: Tensor) -> None:
        if latents.ndim == 3 and self.size is None and self.preview is None:
            raise ValueError(
                f"{type(pipeline).__name__} packs its latents: give StopHopeless the result's "
                "size=(height, width) in pixels."
            )

    @torch.no_grad()
    def _look(self, pipeline: Any, latents: Tensor, last: bool) -> None:
        if self.preview is not None:
            decoded = self.preview(pipeline, latents)
        else:
            decoded = decode_latents(pipeline, latents, self.size or (0, 0))
        images = list(decoded.detach().float().cpu())
        self.assessments = tuple(
            judge_image(self.scorer, image.clamp(0, 1))
            if image.isfinite().all()
            else Assessment.failed("not_finite", "the preview has NaN or infinite values")
            for image in images
        )
        self.hopeless = all(
            said.rating < self.below if said.valid else said.error == "not_finite"
            for said in self.assessments
        )
        best = max((said.rating for said in self.assessments if said.valid), default=math.nan)
        self.note = f"best of {len(images)} rated {best:.2f}, {self.below:.2f} asked for"
        if last:
            return
        if self.hopeless and hasattr(pipeline, "interrupt"):
            pipeline._interrupt = self.stopped = True
            self.note += "; stopped"
        elif self.hopeless:
            self.note += f"; {type(pipeline).__name__} cannot be interrupted and goes on"


class _Tap:
    """Sees the predicted x0 of a scheduler's next step."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.clean = scheduler, None
        self.own = vars(scheduler).get("step")  # a step that somebody else put there
        original = scheduler.step

        @wraps(original)  # pipelines look at the signature
        def step(
            model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **more: Any
        ) -> Any:
            as_output = more.pop("return_dict", True)
            stepped = original(model_output, timestep, sample, *args, **more)
            with suppress(ValueError):  # a parametrisation that shows no clean image
                self.clean = predicted_clean(scheduler, stepped, model_output, timestep, sample)
            return stepped if as_output else stepped.to_tuple()

        scheduler.step = step

    def remove(self) -> Tensor | None:
        """Put the scheduler's step back; x0 if a step was seen."""
        if self.own is None:
            vars(self.scheduler).pop("step", None)
        else:
            self.scheduler.step = self.own
        return self.clean
