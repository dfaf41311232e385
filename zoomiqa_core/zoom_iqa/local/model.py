"""A Zoom-IQA model on this machine: chains answered in batches, and its expected rating."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from PIL import Image

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.decoding import (
    Prefix,
    Sampling,
    read_prompts,
    sample_replies,
    select_rows,
    vision_token_ids,
)
from zoomiqa_core.zoom_iqa.local.expected import (
    MIN_DIGIT_MASS,
    RatingPrefix,
    expected_rating,
    rating_prefix,
)
from zoomiqa_core.zoom_iqa.local.model_files import model_file
from zoomiqa_core.zoom_iqa.local.prompt_encoding import EncodedImages, PromptEncoder
from zoomiqa_core.zoom_iqa.prompts import PROMPTS_FILE, Prompts, load_prompts

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
"""Kinds of model (``model_type`` of ``config.json``) that can be run."""
MAX_ASPECT = 200
"""Longer side over shorter; the models' image processors take no more."""

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"
"""The bundled small judge (``load_scorer("tiny")``)."""
TINY_SAMPLING = Sampling(temperature=0.5, max_new_tokens=256)
"""How it is asked; its model card says why not at temperature 1."""

Attention = Literal["sdpa", "eager", "flash_attention_2"]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

OUT_OF_MEMORY = "memory ran out with this image alone; give fewer pixels (max_pixels) or tokens"


class Reply(NamedTuple):
    """What a model replied."""

    text: str
    ids: tuple[int, ...]
    """Tokens, without the end token."""
    log_probs: tuple[float, ...]
    """Of each token and of the end token, see :class:`.decoding.Generated`."""
    finite: bool
    """False when the model's output was not finite; the text is what came before."""


class LocalVLM:
    """Answers chains with a transformers model (Qwen2.5-VL or Qwen3-VL).

    An image is encoded once for all its chains and rounds; a prompt that several chains share is
    read once. When memory runs out a batch is halved, with the same replies.

    Args:
        model: ``Qwen2_5_VLForConditionalGeneration`` or ``Qwen3VLForConditionalGeneration``.
        processor: its processor.
        sampling: how tokens are drawn.
        batch_size: chains answered together.
        max_pixels: largest image the model sees; larger ones are scaled down. None for the
            processor's own budget.
        min_digit_mass: see :func:`zoomiqa_core.zoom_iqa.local.expected.expected_rating`.
        name: what reports call it.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        sampling: Sampling | None = None,
        batch_size: int = 8,
        max_pixels: int | None = None,
        min_digit_mass: float = MIN_DIGIT_MASS,
        name: str = "vlm",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size counts chains, at least 1; got {batch_size}")
        self.model = model.eval()
        self.processor = processor
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size
        self.min_digit_mass = min_digit_mass
        self.name = name
        self._lock = threading.Lock()  # fast tokenizers may not be used by two threads at once
        self.encoder = PromptEncoder(model, processor, self._lock, max_pixels)
        tokenizer = processor.tokenizer
        self.pad_id = tokenizer.pad_token_id
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)
        self._banned_ids = vision_token_ids(model.config)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What may change a reply, in plain values."""
        return {"sampling": asdict(self.sampling), "pixels": self.encoder.pixels["longest_edge"]}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        attention: Attention = "sdpa",
        **settings: Any,
    ) -> LocalVLM:
        """Load a model and its processor from a folder or hub id.

        Args:
            path: folder or hub id; one with a LoRA adapter loads its base model too.
            device: where it runs.
            dtype: ``"auto"`` for that of the weights, or e.g. ``"bfloat16"``.
            attention: implementation.
            settings: see :class:`LocalVLM`.

        Raises:
            OSError: no model there.
            ValueError: a model of another kind.
        """
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        if model_file(path, "config.json"):  # an adapter's folder has none: its base model does
            kind = AutoConfig.from_pretrained(path).model_type
            if kind not in MODEL_TYPES:
                raise ValueError(f"{path} is a {kind}; expected one of {', '.join(MODEL_TYPES)}")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation=attention
        )
        processor = AutoProcessor.from_pretrained(path)
        return cls(model.to(device), processor, **{"name": str(path), **settings})

    def run(self, chains: Sequence[Chain]) -> None:
        """Drive chains to their end, a round of all of them at a time."""
        known: EncodedImages = {}
        waiting = list(chains)
        while waiting := [chain for chain in waiting if chain.request is not None]:
            for first in range(0, len(waiting), self.batch_size):
                self._answer(waiting[first : first + self.batch_size], known)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Reply to requests in one batch.

        Raises:
            ValueError: an image no model can take (see :data:`MAX_ASPECT`).
            torch.OutOfMemoryError: use fewer at once; :meth:`run` does so by itself.
        """
        return self._generate(requests, {})

    def continue_reply(self, request: Request, beginning: str) -> Reply:
        """Reply to one request with a reply that is begun already; what follows is returned.

        Args:
            request: as for :meth:`generate`.
            beginning: first words of the reply, tokenised by themselves.
        """
        with self._lock:
            begun = self.processor.tokenizer(beginning, add_special_tokens=False)["input_ids"]
        prompt = self.encoder.encode(request, {}, begun)
        prefix = read_prompts(self.model, [prompt], self.pad_id)
        return self._write(prefix, [request.seed])[0]

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The rating each chain would answer at once (see ``local/expected.py``)."""
        known: EncodedImages = {}
        with self._lock:
            prefix = rating_prefix(self.processor.tokenizer)
        said: list[Assessment] = []
        for first in range(0, len(chains), self.batch_size):
            said += self._expect(chains[first : first + self.batch_size], prefix, known)
        return said

    def _answer(self, chains: Sequence[Chain], known: EncodedImages) -> None:
        kept = []
        for chain in chains:
            if why := _too_elongated(chain.image):
                chain.fail("bad_shape", why)
            else:
                kept.append(chain)
        replies = halve_when_full(lambda part: self._generate(_requests(part), known), kept)
        for chain, reply in zip(kept, replies, strict=True):
            if reply is None:
                chain.fail("out_of_memory", OUT_OF_MEMORY)
            elif not reply.finite:
                chain.fail("not_finite", "the model's output is not finite")
            else:
                chain.read(reply.text, len(reply.ids))

    def _expect(
        self, chains: Sequence[Chain], prefix: RatingPrefix, known: EncodedImages
    ) -> Iterator:
        """Assessments of a batch, in order."""
        why = [_too_elongated(chain.image) for chain in chains]
        kept = [chain for chain, problem in zip(chains, why, strict=True) if not problem]

        def read(part: Sequence[Chain]) -> list[Assessment]:
            prompts = [
                self.encoder.encode(request, known, prefix.ids) for request in _requests(part)
            ]
            state = read_prompts(self.model, prompts, self.pad_id)
            return expected_rating(self.model, state, prefix, min_digit_mass=self.min_digit_mass)

        found = iter(halve_when_full(read, kept))
        for problem in why:
            if problem:
                yield Assessment.failed("bad_shape", problem)
            else:
                yield next(found) or Assessment.failed("out_of_memory", OUT_OF_MEMORY)

    def _generate(self, requests: Sequence[Request], known: EncodedImages) -> list[Reply]:
        """Replies in order. Requests that ask the same share one reading of the prompt."""
        first: dict[int, Request] = {}
        shared = [_same_prompt(request, first) for request in requests]
        prompts = [self.encoder.encode(request, known) for request in first.values()]
        prefix = read_prompts(self.model, prompts, self.pad_id)
        select_rows(prefix, shared)
        return self._write(prefix, [request.seed for request in requests])

    def _write(self, prefix: Prefix, seeds: Sequence[int]) -> list[Reply]:
        """One reply per row of the prefix, which is used up."""
        written = sample_replies(
            self.model,
            prefix,
            seeds,
            self.sampling,
            end_ids=self.end_ids,
            banned_ids=self._banned_ids,
        )
        with self._lock:
            texts = [
                self.processor.tokenizer.decode(
                    reply.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                for reply in written
            ]
        return [
            Reply(text, tuple(reply.ids), tuple(reply.log_probs), reply.finite)
            for text, reply in zip(texts, written, strict=True)
        ]


def local_scorer(
    path: str | Path,
    *,
    prompts: Prompts | str | Path | None = None,
    config: JudgeConfig | None = None,
    **settings: Any,
) -> ZoomIQA:
    """A Zoom-IQA judge from a folder or hub id.

    Args:
        path: folder or hub id.
        prompts: the texts it was trained on (:func:`zoomiqa_core.zoom_iqa.prompts.load_prompts`);
            None for those in its folder, or else the official ones.
        config: how it is asked.
        settings: see :meth:`LocalVLM.from_pretrained`.

    Raises:
        PromptsError: its prompts are not to be had.
        OSError, ValueError: see :meth:`LocalVLM.from_pretrained`.
    """
    if prompts is None:
        prompts = model_file(path, PROMPTS_FILE) or "official"
    if not isinstance(prompts, Prompts):  # before the weights: what is wrong shows at once
        prompts = load_prompts(prompts)
    return ZoomIQA(LocalVLM.from_pretrained(path, **settings), prompts, config)


def halve_when_full(
    work: Callable[[Sequence[ItemT]], list[ResultT]], items: Sequence[ItemT]
) -> list[ResultT | None]:
    """Results of the items in order; when memory runs out, half of them at a time.

    Args:
        work: gives one result per item, and the same whatever else is in its batch.
        items: all of them.

    Returns:
        One result per item, None for an item that does not fit alone.
    """
    if not items:
        return []
    try:
        return [*work(items)]
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    clear_device_cache(
        garbage_collection=True
    )  # outside the handler: the error's traceback holds on to tensors
    if len(items) == 1:
        return [None]
    middle = len(items) // 2
    return halve_when_full(work, items[:middle]) + halve_when_full(work, items[middle:])


def _requests(chains: Sequence[Chain]) -> list[Request]:
    return [chain.request for chain in chains if chain.request is not None]


def _same_prompt(request: Request, known: dict[int, Request]) -> int:
    """Place in ``known`` of a request that asks the same about the same images; adds a new one."""
    for place, other in known.items():
        same_images = [id(image) for image in other.images] == [id(i) for i in request.images]
        if same_images and other.messages == request.messages:
            return place
    known[len(known)] = request
    return len(known) - 1


def _too_elongated(image: Image.Image) -> str | None:
    width, height = image.size
    if max(width, height) <= MAX_ASPECT * min(width, height):
        return None
    return (
        f"{width}×{height}: the longer side is over {MAX_ASPECT} times the shorter, more than the "
        "model takes; crop the image first"
    )
