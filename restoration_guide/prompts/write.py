"""Words to prompts: what a judge would improve and what it would avoid, for a restorer that reads.

*Directions for Improvement* become the positive prompt and *Issues to Avoid* the negative one
(Zoom-IQA, arXiv 2601.02918). Every encoder of a pipeline gets all of it: phrases that do not fit
the tightest token limit are left out whole, never cut, and named.
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
"""A tokenizer's ``model_max_length`` above this stands for "none declared"."""
DEFAULT_LIMIT = 512
"""Tokens where neither the tokenizer nor the pipeline declares a limit."""


@dataclass(frozen=True)
class TokenBudget:
    """How many tokens one text encoder reads."""

    name: str
    """Of the tokenizer in its pipeline."""
    limit: int
    """Tokens, those that begin and end a prompt included."""
    count: Callable[[str], int]
    """Tokens of a text, counted likewise."""

    @classmethod
    def of(cls, name: str, tokenizer: Any, call_limit: int | None = None) -> TokenBudget:
        """The budget of a tokenizer.

        Args:
            name: what to call it.
            tokenizer: of transformers.
            call_limit: ``max_sequence_length`` of the pipeline's call, which encoders other than
                CLIP's are cut at.
        """
        limit = tokenizer.model_max_length
        if "CLIP" not in type(tokenizer).__name__:
            limit = min(limit, call_limit or limit)

        def count(text: str) -> int:
            return len(tokenizer(text, truncation=False, verbose=False).input_ids)

        return cls(name, DEFAULT_LIMIT if limit > NO_LIMIT else int(limit), count)


@dataclass(frozen=True)
class PromptTarget:
    """What a prompt is written for."""

    budgets: tuple[TokenBudget, ...] = ()
    """One per tokenizer; empty does not limit."""
    negative: bool = True
    """Whether there is a negative prompt."""

    @classmethod
    def of(cls, pipe: Any, max_sequence_length: int | None = None) -> PromptTarget:
        """Read a diffusers pipeline's tokenizers and its call.

        Args:
            pipe: the pipeline.
            max_sequence_length: what its call will be given; None for the call's default.

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
        """Read the tokenizers and the class of a saved pipeline, without its models.

        Args:
            folder: a pipeline's folder or hub id.

        Raises:
            OSError: there is no pipeline.
            TypeError: its class is not one of diffusers', or takes no prompt.
        """
        import diffusers
        from transformers import AutoTokenizer

        config: dict[str, Any] = diffusers.DiffusionPipeline.load_config(folder)  # pyright: ignore
        kind = getattr(diffusers, str(config.get("_class_name")), None)
        if kind is None:
            raise TypeError(
                f"{folder}: {config.get('_class_name')} is no pipeline of diffusers; load it and "
                "use PromptTarget.of(pipe)."
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
            raise TypeError(f"{kind.__name__} takes no prompt; words cannot guide it.")
        given = parameters.get("max_sequence_length")
        if max_sequence_length is None and given and isinstance(given.default, int):
            max_sequence_length = given.default
        budgets = (TokenBudget.of(*named, max_sequence_length) for named in tokenizers.items())
        return cls(tuple(budgets), "negative_prompt" in parameters)

    def fits(self, prompt: str) -> bool:
        """Whether every encoder reads the whole prompt."""
        return all(budget.count(prompt) <= budget.limit for budget in self.budgets)


@dataclass(frozen=True)
class Dropped:
    """What a judge said and no prompt says."""

    text: str
    """The sentence as the judge wrote it. It is data: escape it before rendering."""
    side: Side
    reason: str
    """``"instruction"``, ``"too_long"`` or ``"empty"`` (see
    :mod:`restoration_guide.prompts.phrases`), ``"repeated"``, ``"budget"`` or
    ``"no_negative_prompt"``."""


class TokenCount(NamedTuple):
    """Tokens of both prompts in one encoder."""

    tokenizer: str
    positive: int
    negative: int
    limit: int


@dataclass(frozen=True)
class WrittenPrompts:
    """Prompts, and what became of every sentence."""

    positive: str
    negative: str | None
    """None where the pipeline has no negative prompt."""
    phrases: tuple[str, ...] = ()
    """The judge's phrases that are in the prompts, in their order."""
    dropped: tuple[Dropped, ...] = ()
    tokens: tuple[TokenCount, ...] = ()
    """One per tokenizer."""
    notes: tuple[str, ...] = ()
    """What was decided on the way."""

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
    """Prompts from a judge's words.

    Args:
        said: its ``directions`` and ``issues``; a failed judgement gives the base prompts alone. A
            direction that names a fault ("reduce the noise") counts as an issue.
        target: what the prompts are for; None does not limit them.
        positive: base prompt, put first as it is. The user's own, so that it may hold weights.
        negative: base negative prompt, likewise.
        without: where there is no negative prompt, add the issues to the positive one as "without
            …". Off by default, they are left out: CLIP reads "without blur" much like "blur".

    Raises:
        ValueError: a base prompt does not fit the token limit by itself.
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
        # what is asked for as well is not avoided: the two would fight
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
        notes.append("the judge gave no words")
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
    """One prompt while it is written."""

    def __init__(self, side: Side, base: str, target: PromptTarget) -> None:
        if not target.fits(base):
            figures = ", ".join(f"{b.count(base)} of {b.limit} {b.name}" for b in target.budgets)
            raise ValueError(
                f"the {side} base prompt takes more tokens than there are ({figures}); shorten it."
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
        """Add what is new and fits; ``taken`` learns it, ``dropped`` the rest."""
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
    """Sentences and their plain phrases; those without one go to ``dropped``."""
    found = []
    for sentence in sentences:
        phrase = plain_phrase(sentence)
        if phrase.dropped:
            dropped.append(Dropped(sentence, side, phrase.dropped))
        else:
            fault = named_fault(phrase.text) if side == "negative" else None
            found.append((sentence, fault or phrase.text))
    return found


def _parts(base: str) -> set[tuple[str, ...]]:
    """What a base prompt says between its commas."""
    return {same_words(part) for part in base.split(",")}
