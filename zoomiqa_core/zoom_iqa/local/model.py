"""A Zoom-IQA model in this process: batches of chains, and the expected rating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.decoding import sample_replies
from zoomiqa_core.zoom_iqa.local.expected import (
    RatingPrefix,
    expected_rating,
    rating_prefix,
    rating_token,
    written_rating,
)
from zoomiqa_core.zoom_iqa.local.families.registry import family_of
from zoomiqa_core.zoom_iqa.local.loading import LOADING, load_model
from zoomiqa_core.zoom_iqa.local.memory import OUT_OF_MEMORY, halve_when_full
from zoomiqa_core.zoom_iqa.local.model_files import model_file
from zoomiqa_core.zoom_iqa.local.prefix import Prefix, read_prompts, select_rows
from zoomiqa_core.zoom_iqa.local.prompt_encoding import (
    EncodedImages,
    PromptEncoder,
    TokenizerLock,
)
from zoomiqa_core.zoom_iqa.prompts import PROMPTS_FILE, Prompts, load_prompts
from zoomiqa_core.zoom_iqa.rating_digits import MIN_DIGIT_MASS
from zoomiqa_core.zoom_iqa.sampling import Sampling

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"
"""The bundled small judge (``load_scorer("tiny")``)."""
TINY_SAMPLING = Sampling(temperature=0.5, max_new_tokens=256)
"""Its sampling; the model card says why not at temperature 1."""


class Reply(NamedTuple):
    """One reply of a model."""

    text: str
    ids: tuple[int, ...]
    """Token ids, without the end token."""
    log_probs: tuple[float, ...]
    """Of each token and of the end token, see :class:`.decoding.Generated`."""
    finite: bool
    """False when the logits became NaN or infinite; the text is what came before."""
    expected: float | None = None
    """Mean of the rating over the digits that could have been written in its place; None when the
    reply has no rating, or the tokenizer no digits of their own."""


class LocalVLM:
    """The backend of a judge that runs an image-text-to-text model of transformers.

    An image is encoded once for all its chains and rounds; a prompt that several chains share is
    processed once. When memory runs out, batches are halved; the replies do not change.

    Args:
        model: of a family in :mod:`zoomiqa_core.zoom_iqa.local.families`.
        processor: its processor.
        sampling: how tokens are sampled.
        batch_size: number of chains per batch.
        max_pixels: larger images are reduced to this; None for the processor's own limit.
        min_digit_mass: see :func:`~zoomiqa_core.zoom_iqa.rating_digits.digits_to_assessment`.
        name: of the model, for reports.

    >>> import zoomiqa_core as zi
    >>> backend = zi.load_scorer("tiny").backend
    >>> type(backend).__name__, backend.sampling.temperature
    ('LocalVLM', 0.5)
    """

    deterministic = True
    """Whether the same request and seed always get the same reply."""

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
        self._lock = TokenizerLock()
        self._fitting: dict[int, int] = {}
        self.family = family_of(model, processor, max_pixels)
        self.reads_ratings = self.family.encodes_once
        """Whether replies come with the expected rating; training does not need it."""
        self.encoder = PromptEncoder(self.family, self._lock)
        tokenizer = processor.tokenizer
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that may change a reply, as plain values."""
        return {"sampling": asdict(self.sampling), "pixels": self.family.max_pixels}

    @classmethod
    def from_pretrained(cls, path: str | Path, **settings: Any) -> LocalVLM:
        """Load a model and its processor from a folder or hub id.

        Args:
            path: see :func:`zoomiqa_core.zoom_iqa.local.loading.load_model`.
            settings: its settings, and those of :class:`LocalVLM`.

        Raises:
            ImportError, OSError, ValueError: see there.
        """
        loading = {key: settings.pop(key) for key in LOADING if key in settings}
        model, processor = load_model(path, **loading)
        return cls(model, processor, **{"name": str(path), **settings})

    def run(self, chains: Sequence[Chain]) -> None:
        """Answer the chains' requests, one round of all of them after the other, to their end."""
        known: EncodedImages = {}
        waiting = list(chains)
        while waiting := [chain for chain in waiting if chain.request is not None]:
            for first in range(0, len(waiting), self.batch_size):
                self._answer(waiting[first : first + self.batch_size], known)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Reply to requests in one batch.

        Raises:
            ValueError: no such image, see :meth:`.families.base.Family.problem`.
            torch.OutOfMemoryError: use smaller batches; :meth:`run` does so by itself.
        """
        return self._generate(requests, {})

    def continue_reply(self, request: Request, beginning: str) -> Reply:
        """Continue a reply that has already been started; returns what follows.

        Args:
            request: as for :meth:`generate`.
            beginning: start of the reply, tokenised by itself.
        """
        with self._lock:
            begun = self.processor.tokenizer(beginning, add_special_tokens=False)["input_ids"]
        prompt = self.encoder.encode(request, {}, begun)
        prefix = read_prompts(self.family, [prompt])
        return self._sample(prefix, [request])[0]

    def expected(self, chains: Sequence[Chain]) -> list[Assessment]:
        """The expected rating of each chain's first request, without reasoning."""
        known: EncodedImages = {}
        with self._lock:
            prefix = rating_prefix(self.processor.tokenizer)
        assessments: list[Assessment] = []
        for first in range(0, len(chains), self.batch_size):
            assessments += self._expect(chains[first : first + self.batch_size], prefix, known)
        return assessments

    def _answer(self, chains: Sequence[Chain], known: EncodedImages) -> None:
        accepted = []
        for chain in chains:
            if problem := self.family.problem(chain.image):
                chain.fail("bad_shape", problem)
            else:
                accepted.append(chain)
        replies = halve_when_full(
            lambda part: self._generate(_requests(part), known),
            accepted,
            self._fitting,
            self._pixels,
        )
        for chain, reply in zip(accepted, replies, strict=True):
            if reply is None:
                chain.fail("out_of_memory", OUT_OF_MEMORY)
            elif not reply.finite:
                chain.fail("not_finite", "the model's output is not finite")
            else:
                chain.read(reply.text, len(reply.ids), reply.expected)

    def _expect(
        self, chains: Sequence[Chain], prefix: RatingPrefix, known: EncodedImages
    ) -> Iterator[Assessment]:
        problems = [self.family.problem(chain.image) for chain in chains]
        accepted = [chain for chain, problem in zip(chains, problems, strict=True) if not problem]

        def read(part: Sequence[Chain]) -> list[Assessment]:
            if not self.family.encodes_once and len(part) > 1:  # no batch of different prompts
                return [one for chain in part for one in read([chain])]
            prompts = [
                self.encoder.encode(request, known, prefix.ids) for request in _requests(part)
            ]
            state = read_prompts(self.family, prompts)
            return expected_rating(state, prefix, min_digit_mass=self.min_digit_mass)

        results = iter(halve_when_full(read, accepted, self._fitting, self._pixels))
        for problem in problems:
            if problem:
                yield Assessment.failed("bad_shape", problem)
            else:
                yield next(results) or Assessment.failed("out_of_memory", OUT_OF_MEMORY)

    def _pixels(self, chain: Chain) -> int:
        """How many pixels of the chain's image the model sees, at most."""
        pixels = chain.image.width * chain.image.height
        return min(pixels, self.family.max_pixels or pixels)

    def _generate(self, requests: Sequence[Request], known: EncodedImages) -> list[Reply]:
        """Replies in order. Requests with equal prompts share one forward pass over it."""
        distinct: list[Request] = []
        rows = [_index_of(request, distinct) for request in requests]
        if not self.family.encodes_once and len(distinct) > 1:  # no batch of different prompts
            parts = [
                [n for n, row in enumerate(rows) if row == index] for index in range(len(distinct))
            ]
            replies = {
                n: reply
                for part in parts
                for n, reply in zip(
                    part, self._generate([requests[n] for n in part], known), strict=True
                )
            }
            return [replies[n] for n in range(len(requests))]
        prompts = [self.encoder.encode(request, known) for request in distinct]
        prefix = read_prompts(self.family, prompts)
        select_rows(prefix, rows)
        return self._sample(prefix, requests)

    def _read_rating(
        self, prefix: Prefix, row: int, start: int, ids: Sequence[int]
    ) -> float | None:
        """The expected rating of a finished reply."""
        with self._lock:
            tokenizer = self.processor.tokenizer
            try:
                digits = rating_prefix(tokenizer)
            except ValueError:  # no digits of their own
                return None
            place = rating_token(tokenizer, ids, digits)
        if place is None:
            return None
        return written_rating(prefix, row, start, ids, place, digits, self.min_digit_mass)

    def _sample(self, prefix: Prefix, requests: Sequence[Request]) -> list[Reply]:
        """One reply per row of the prefix."""
        sampled = sample_replies(
            prefix,
            [request.seed for request in requests],
            self.sampling,
            end_ids=self.end_ids,
            banned_ids=self.family.control_ids,
            greedy=[request.greedy for request in requests],
            read_rating=self._read_rating if self.reads_ratings else None,
        )
        with self._lock:
            texts = [
                self.processor.tokenizer.decode(
                    reply.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                for reply in sampled
            ]
        return [
            Reply(text, tuple(reply.ids), tuple(reply.log_probs), reply.finite, reply.expected)
            for text, reply in zip(texts, sampled, strict=True)
        ]


def local_scorer(
    path: str | Path,
    *,
    prompts: Prompts | str | Path | None = None,
    config: JudgeConfig | None = None,
    **settings: Any,
) -> ZoomIQA:
    """Load a Zoom-IQA judge from a folder or hub id.

    Args:
        path: folder (``~`` is expanded) or hub id.
        prompts: the texts it was trained on (:func:`zoomiqa_core.zoom_iqa.prompts.load_prompts`);
            None for those in its folder, or else the official ones.
        config: how it is asked.
        settings: of loading (:func:`zoomiqa_core.zoom_iqa.local.loading.load_model`: ``device``,
            ``dtype``, ``quantization``, ``revision``, …) and of :class:`LocalVLM`.

    Raises:
        PromptsError: its prompts are not available.
        ImportError, OSError, ValueError: see there.

    >>> local_scorer(TINY, name="tiny", sampling=TINY_SAMPLING).name
    'tiny'
    """
    if prompts is None:
        prompts = model_file(path, PROMPTS_FILE, settings.get("revision")) or "official"
    if not isinstance(prompts, Prompts):  # before the weights, so that an error comes at once
        prompts = load_prompts(prompts)
    return ZoomIQA(LocalVLM.from_pretrained(path, **settings), prompts, config)


def _requests(chains: Sequence[Chain]) -> list[Request]:
    return [chain.request for chain in chains if chain.request is not None]


def _index_of(request: Request, distinct: list[Request]) -> int:
    """Index of the request with the same messages and images; a new request is appended."""
    for index, other in enumerate(distinct):
        same_images = [id(image) for image in other.images] == [id(i) for i in request.images]
        if same_images and other.messages == request.messages:
            return index
    distinct.append(request)
    return len(distinct) - 1
