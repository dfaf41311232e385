"""The nodes: their inputs and outputs in ComfyUI's schema. Imported inside ComfyUI only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io, ui  # pyright: ignore[reportMissingImports]

from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.verdict import GateConfig

from .judges import BUNDLED, load_judge, problem_with, version_of
from .judging import gate_images, map_quality, prompts_of, rate
from .picking import AUTO, pick
from .pictures import captioned, read_batches, to_batch

CATEGORY = "image/quality (Zoom-IQA)"
INPUT_HELP = "What the images were restored from. The restoration judge compares with it."


def _judge_inputs(default: str, options: Sequence[str] = BUNDLED) -> list[Any]:
    return [
        io.Combo.Input(
            "judge",
            options=list(options),
            default=default,
            tooltip="restoration: which restoration of one input is better. proxy: which photo is "
            "good. alarm: checks what was tuned against proxy. tiny: a small Zoom-IQA model that "
            "writes.",
        ),
        io.String.Input(
            "other_judge",
            default="",
            optional=True,
            tooltip="Instead of the list: a folder or hub id of a Zoom-IQA model, pyiqa:NAME, or "
            "http://HOST/v1 MODEL.",
        ),
    ]


def _chosen(judge: Any, other_judge: Any) -> str:
    """The judge's name; empty where it comes from another node and is not known yet.

    Args:
        judge: the choice from the list, or None; a list of one in a node that takes lists.
        other_judge: the name instead, likewise.
    """
    for given in (other_judge, judge):
        name = str((given[0] if isinstance(given, list) and given else given) or "").strip()
        if name:
            return name
    return ""


def _load(name: str) -> Any:
    import comfy.model_management  # pyright: ignore[reportMissingImports]

    device = comfy.model_management.get_torch_device()
    return load_judge(name, str(device) if device.type == "cuda" else "cpu")


def _source(images: Any) -> torch.Tensor | None:
    """The one input of all images."""
    if images is None:
        return None
    found = read_batches(images)
    if len(found) != 1:
        raise ValueError(f"expected one input image that all were restored from, got {len(found)}")
    return found[0].pixels


def _shown(images: list[torch.Tensor], words: list[str], report: str) -> dict[str, Any]:
    """A node's preview: captioned images, and the report as text."""
    previews = [captioned(*pair) for pair in zip(images, words, strict=True)]
    return {**ui.PreviewImage(previews).as_dict(), **ui.PreviewText(report).as_dict()}


class _JudgeNode(io.ComfyNode):
    """A node with a judge."""

    @classmethod
    def validate_inputs(cls, judge: Any = None, other_judge: Any = None) -> bool | str:
        """Refuse a judge that does not exist before anything runs."""
        name = _chosen(judge, other_judge)
        return True if name in ("", AUTO) else problem_with(name) or True

    @classmethod
    def fingerprint_inputs(cls, judge: Any = None, other_judge: Any = None, **_: Any) -> str:
        """Run again when the files of the judge have changed."""
        name = _chosen(judge, other_judge)
        return f"{name} {version_of(name)}"


class RateImages(_JudgeNode):
    """Ratings of a batch."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ZoomIQA_RateImages",
            display_name="Rate images",
            category=CATEGORY,
            description="Rates each image from 1 (bad) to 5 (excellent). An image that cannot be "
            "judged has the rating NaN and is named in the report.",
            inputs=[
                io.Image.Input("images"),
                *_judge_inputs("proxy"),
                io.Image.Input("input", optional=True, tooltip=INPUT_HELP),
            ],
            outputs=[
                io.Float.Output("ratings", is_output_list=True, tooltip="One per image."),
                io.Float.Output("mean", tooltip="Of the images that could be judged."),
                io.String.Output("report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, judge: str, other_judge: str = "", input: Any = None) -> Any:
        """Rate."""
        pictures = read_batches(images)
        found = rate(_load(_chosen(judge, other_judge)), pictures, _source(input))
        shown = _shown([each.pixels for each in pictures], found.words, found.report)
        return io.NodeOutput(found.ratings, found.mean, found.report, ui=shown)


class QualityMap(_JudgeNode):
    """Where images are good and where they are bad."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ZoomIQA_QualityMap",
            display_name="Quality map",
            category=CATEGORY,
            description="Draws the quality of every place over the image: dark violet is bad, "
            "yellow excellent; a box marks the worst region. The mask can drive inpainting.",
            inputs=[
                io.Image.Input("images"),
                *_judge_inputs("proxy"),
                io.Image.Input("input", optional=True, tooltip=INPUT_HELP),
            ],
            outputs=[
                io.Image.Output("overlay"),
                io.Mask.Output("low_quality", tooltip="1 where the rating is 1, 0 where it is 5."),
                io.String.Output("report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, judge: str, other_judge: str = "", input: Any = None) -> Any:
        """Draw."""
        found = map_quality(
            _load(_chosen(judge, other_judge)), read_batches(images), _source(input)
        )
        overlay = to_batch(found.overlays)
        shown = {
            **ui.PreviewImage(overlay).as_dict(),
            **ui.PreviewText(found.report).as_dict(),
        }
        return io.NodeOutput(overlay, found.low_quality, found.report, ui=shown)


class PickBest(_JudgeNode):
    """The best image of a batch."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ZoomIQA_PickBest",
            display_name="Pick best of batch",
            category=CATEGORY,
            description="Chooses the best image of a batch or list. With the input that all were "
            "restored from, images that are unfaithful or not better are left out, and the input "
            "is kept when none is left.",
            inputs=[
                io.Image.Input("images"),
                *_judge_inputs(AUTO, (AUTO, *BUNDLED)),
                io.Image.Input("input", optional=True, tooltip=INPUT_HELP),
            ],
            outputs=[
                io.Image.Output("best"),
                io.Int.Output("index", tooltip="Its place in the batch, from 0; −1 is the input."),
                io.String.Output("report"),
            ],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Any],
        judge: list[str],
        other_judge: list[str] | None = None,
        input: list[Any] | None = None,
    ) -> Any:
        """Pick."""
        source = _source(input)
        name = _chosen(judge, other_judge)
        if name == AUTO:
            name = "proxy" if source is None else "restoration"
        found = pick(_load(name), read_batches(images), source)
        shown = _shown([found.best], [found.reason], found.report)
        return io.NodeOutput(to_batch([found.best]), found.index, found.report, ui=shown)


class GateNode(_JudgeNode):
    """May restored images replace their inputs?"""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ZoomIQA_QualityGate",
            display_name="Quality gate",
            category=CATEGORY,
            description="Accepts a result that is sound, faithful to its input, rated high enough "
            "and better than the input.",
            inputs=[
                io.Image.Input("before", tooltip="The input of each result, or one of all."),
                io.Image.Input("after", tooltip="The results."),
                *_judge_inputs("restoration"),
                io.Float.Input(
                    "min_rating", default=GateConfig.min_rating, min=1, max=5, step=0.05,
                    tooltip="The rating from which an image is good enough.",
                ),
                io.Float.Input(
                    "min_gain", default=GateConfig.min_gain, min=-4, max=4, step=0.05,
                    tooltip="What the lower bound of the gain over the input must exceed.",
                ),
            ],
            outputs=[
                io.Boolean.Output("passed", tooltip="Whether every result was accepted."),
                io.Float.Output("rating", tooltip="The lowest rating of a result."),
                io.Boolean.Output("accepted", is_output_list=True, tooltip="One per result."),
                io.Image.Output(
                    "kept",
                    is_output_list=True,
                    tooltip="The result where it was accepted, else its input.",
                ),
                io.String.Output("report"),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        before: Any,
        after: Any,
        judge: str,
        min_rating: float,
        min_gain: float,
        other_judge: str = "",
    ) -> Any:
        """Judge both, decide."""
        gate = QualityGate(_load(_chosen(judge, other_judge)), min_rating, min_gain=min_gain)
        found = gate_images(gate, read_batches(before), read_batches(after))
        shown = _shown(found.kept, found.captions, found.report)
        kept = [to_batch([image]) for image in found.kept]
        return io.NodeOutput(
            found.passed, found.rating, found.accepted, kept, found.report, ui=shown
        )


class JudgePrompts(_JudgeNode):
    """A judge's words as prompts."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ZoomIQA_JudgePrompts",
            display_name="Zoom-IQA judge → prompts",
            category=CATEGORY,
            description="Asks a Zoom-IQA model what to improve and what to avoid, and writes a "
            "positive and a negative prompt from it, one pair per image.",
            inputs=[
                io.Image.Input("images"),
                *_judge_inputs("tiny", ("tiny",)),
                io.String.Input("base_positive", default="", multiline=True, optional=True),
                io.String.Input("base_negative", default="", multiline=True, optional=True),
            ],
            outputs=[
                io.String.Output("positive", is_output_list=True),
                io.String.Output("negative", is_output_list=True),
                io.String.Output("report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Any,
        judge: str,
        other_judge: str = "",
        base_positive: str = "",
        base_negative: str = "",
    ) -> Any:
        """Ask, and write."""
        scorer = _load(_chosen(judge, other_judge))
        found = prompts_of(scorer, read_batches(images), base_positive, base_negative)
        shown = ui.PreviewText(found.report).as_dict()
        return io.NodeOutput(found.positive, found.negative, found.report, ui=shown)


class ZoomIQAExtension(ComfyExtension):
    """The five nodes."""

    async def get_node_list(self) -> list[type[Any]]:
        """What ComfyUI registers."""
        return [RateImages, QualityMap, PickBest, GateNode, JudgePrompts]
