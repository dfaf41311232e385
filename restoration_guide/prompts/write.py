"""Write prompts for a restorer from a judge's text.

*Directions for Improvement* become the positive prompt and *Issues to Avoid* the negative one
(Zoom-IQA, arXiv 2601.02918). Prompts fit every text encoder of a pipeline: phrases beyond the
smallest token limit are left out as a whole, and reported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from restoration_guide.prompts.phrases import named_fault, plain_phrase, same_words
from zoomiqa_core.assessment import Assessment

Side = Literal["positive", "negative"]

NO_LIMIT = 100_000
"""A tokenizer's ``model_max_length`` above this means that none is declared."""
DEFAULT_LIMIT = 512
"""Token limit when neither the tokenizer nor the pipeline declares one."""


@dataclass(frozen=True)
class TokenBudget:
    """Token limit of one text encoder.

    >>> words = TokenBudget("words", 77, lambda text: len(text.split()))
    >>> words.count("a sharp photo"), words.limit
    (3, 77)
    """

    name: str
    """Name of the tokenizer in its pipeline."""
    limit: int
    """Most tokens, including start and end tokens."""
    count: Callable[[str], int]
    """Function that counts the tokens of a text, including start and end tokens."""

    @classmethod
    def of(cls, name: str, tokenizer: Any, call_limit: int | None = None) -> TokenBudget:
        """The budget of a tokenizer.

        Args:
            name: of the tokenizer.
            tokenizer: of transformers.
            call_limit: ``max_sequence_length`` of the pipeline's call, which limits encoders other
                than CLIP's.
        """
        limit = tokenizer.model_max_length
        if "CLIP" not in type(tokenizer).__name__:
            limit = min(limit, call_limit or limit)

        def count(text: str) -> int:
            return len(tokenizer(text, truncation=False, verbose=False).input_ids)

        return cls(name, DEFAULT_LIMIT if limit > NO_LIMIT else int(limit), count)


@dataclass(frozen=True)
class PromptTarget:
    """Requirements of a pipeline on its prompts: token limits, negative prompt or not.

    >>> target = PromptTarget((TokenBudget("words", 3, lambda text: len(text.split())),))
    >>> target.fits("a sharp photo"), target.fits("a sharp photo of petals")
    (True, False)
    """

    budgets: tuple[TokenBudget, ...] = ()
    """One per tokenizer; empty for no limit."""
    negative: bool = True
    """Whether the pipeline takes a negative prompt."""

    @classmethod
    def of(cls, pipe: Any, max_sequence_length: int | None = None) -> PromptTarget:
        """The target of a diffusers pipeline, from its tokenizers and its call's parameters.

        Args:
            pipe: the pipeline.
            max_sequence_length: that of the call; None for its default.

        Raises:
            TypeError: the pipeline takes no prompt.
        """
        tokenizers = {
            name: part
            for name, part in sorted(vars(pipe).items())
            if name.startswith("tokenizer") and callable(part)
        }
        return cls._read(type(pipe), tokenizers, max_sequence_length)

    @classmethod
    def from_folder(cls, folder: str) -> PromptTarget:
        """The target of a saved pipeline, without loading its models.

        Args:
            folder: a pipeline's folder or hub id.

        Raises:
            OSError: there is no pipeline.
            TypeError: its class is not part of diffusers, or takes no prompt.
        """
        import diffusers
        from transformers import AutoTokenizer

        config: dict[str, Any] = diffusers.DiffusionPipeline.load_config(folder)  # pyright: ignore
        kind = getattr(diffusers, str(config.get("_class_name")), None)
        if kind is None:
            raise TypeError(
                f"{folder}: {config.get('_class_name')} is not a pipeline of diffusers; load it "
                "and use PromptTarget.of(pipe)."
            )
        tokenizers = {
            name: AutoTokenizer.from_pretrained(folder, subfolder=name)
            for name, part in sorted(config.items())
            if name.startswith("tokenizer") and isinstance(part, list | tuple) and part[0]
        }
        return cls._read(kind, tokenizers)

    @classmethod
    def _read(
        cls, kind: type, tokenizers: Mapping[str, Any], max_sequence_length: int | None = None
    ) -> PromptTarget:
        parameters = inspect.signature(kind.__call__).parameters
        if "prompt" not in parameters:
            raise TypeError(f"{kind.__name__} takes no prompt: expected a text-guided pipeline.")
        given = parameters.get("max_sequence_length")
        if max_sequence_length is None and given and isinstance(given.default, int):
            max_sequence_length = given.default
        budgets = (TokenBudget.of(*named, max_sequence_length) for named in tokenizers.items())
        return cls(tuple(budgets), "negative_prompt" in parameters)

    def fits(self, prompt: str) -> bool:
        """Whether the prompt is within every encoder's limit."""
        return all(budget.count(prompt) <= budget.limit for budget in self.budgets)


@dataclass(frozen=True)
class Dropped:
    """A sentence of the judge that is in no prompt, with the reason."""

    text: str
    """The judge's sentence, unmodified: escape it before rendering."""
    side: Side
    reason: str
    """``"instruction"``, ``"too_long"`` or ``"empty"`` (see
    :mod:`restoration_guide.prompts.phrases`), ``"repeated"``, ``"budget"`` or
    ``"no_negative_prompt"``."""


class TokenCount(NamedTuple):
    """Lengths of both prompts in tokens of one encoder."""

    tokenizer: str
    positive: int
    negative: int
    limit: int


@dataclass(frozen=True)
class WrittenPrompts:
    """Prompts, with the phrases they contain and the sentences that were dropped."""

    positive: str
    negative: str | None
    """None if the pipeline takes no negative prompt."""
    phrases: tuple[str, ...] = ()
    """The judge's phrases in the prompts, in their order."""
    dropped: tuple[Dropped, ...] = ()
    tokens: tuple[TokenCount, ...] = ()
    """One per tokenizer."""
    notes: tuple[str, ...] = ()
    """Decisions that the user should know, as sentences."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return {**asdict(self), "tokens": [count._asdict() for count in self.tokens]}


def write_prompts(
    said: Assessment,
    target: PromptTarget | None = None,
    *,
    positive: str = "",
    negative: str = "",
    without: bool = False,
) -> WrittenPrompts:
    """Write a positive and a negative prompt from a judge's directions and issues.

    >>> said = Assessment(
    ...     2.4, 0.2, directions=("Crisp petals.", "Reduce the noise."), issues=("Soft edges.",)
    ... )
    >>> written = write_prompts(said, positive="a photo of a rose")
    >>> written.positive, written.negative
    ('a photo of a rose, Crisp petals', 'Soft edges, noise')

    Args:
        said: the judgement; a failed one gives the base prompts. A direction that names a fault
            ("reduce the noise") counts as an issue.
        target: the pipeline's requirements; None for no limits.
        positive: base prompt, placed first and not modified; it may contain weights.
        negative: base negative prompt, likewise.
        without: if the pipeline takes no negative prompt, add the issues to the positive one as
            "without …". By default they are left out: CLIP encodes "without blur" much like "blur".

    Raises:
        ValueError: a base prompt exceeds a token limit.
    """
    target = target or PromptTarget()
    dropped: list[Dropped] = []
    notes: list[str] = []
    better = _phrases(said.directions, "positive", dropped)
    worse = _phrases(said.issues, "negative", dropped)
    worse += [(text, fault) for text, phrase in better if (fault := named_fault(phrase))]
    better = [(text, phrase) for text, phrase in better if not named_fault(phrase)]
    taken = _parts(positive)
    plus = _Prompt("positive", positive, target)
    plus.add(better, taken, dropped)
    minus = None
    if target.negative:
        minus = _Prompt("negative", negative, target)
        # phrases that are already in the positive prompt are skipped: they would contradict it
        minus.add(worse, taken | _parts(negative), dropped)
    elif without:
        notes.append('there is no negative prompt: issues are in the positive one as "without …"')
        plus.add([(text, f"without {fault}") for text, fault in worse], taken, dropped)
    elif worse or negative:
        notes.append("there is no negative prompt: what to avoid is left out")
        dropped += [Dropped(sentence, "negative", "no_negative_prompt") for sentence, _ in worse]
    if not target.budgets:
        notes.append("no tokenizer is known: the prompts' length is not limited")
    if not said.directions and not said.issues:
        notes.append("the judge gave no text")
    words = "" if minus is None else minus.text
    return WrittenPrompts(
        plus.text,
        None if minus is None else minus.text,
        (*plus.phrases, *(minus.phrases if minus else ())),
        tuple(dropped),
        tuple(
            TokenCount(budget.name, budget.count(plus.text), budget.count(words), budget.limit)
            for budget in target.budgets
        ),
        tuple(notes),
    )


class _Prompt:
    """A prompt under construction."""

    def __init__(self, side: Side, base: str, target: PromptTarget) -> None:
        if not target.fits(base):
            figures = ", ".join(f"{b.count(base)} of {b.limit} {b.name}" for b in target.budgets)
            raise ValueError(
                f"the {side} base prompt exceeds the token limit ({figures}); shorten it."
            )
        self.side: Side = side
        self.text, self.target = base, target
        self.phrases: list[str] = []

    def add(
        self,
        phrases: Iterable[tuple[str, str]],
        taken: set[tuple[str, ...]],
        dropped: list[Dropped],
    ) -> None:
        """Append phrases that are new and fit; the others go to ``dropped``."""
        for sentence, phrase in phrases:
            longer = f"{self.text}, {phrase}" if self.text else phrase
            if same_words(phrase) in taken:
                dropped.append(Dropped(sentence, self.side, "repeated"))
            elif not self.target.fits(longer):
                dropped.append(Dropped(sentence, self.side, "budget"))
            else:
                taken.add(same_words(phrase))
                self.phrases.append(phrase)
                self.text = longer


def _phrases(sentences: Iterable[str], side: Side, dropped: list[Dropped]) -> list[tuple[str, str]]:
    """Pairs of a sentence and its phrase; sentences without one are added to ``dropped``."""
    pairs = []
    for sentence in sentences:
        phrase = plain_phrase(sentence)
        if phrase.dropped:
            dropped.append(Dropped(sentence, side, phrase.dropped))
        else:
            fault = named_fault(phrase.text) if side == "negative" else None
            pairs.append((sentence, fault or phrase.text))
    return pairs


def _parts(base: str) -> set[tuple[str, ...]]:
    """The phrases of a base prompt, which are separated by commas."""
    return {same_words(part) for part in base.split(",")}
