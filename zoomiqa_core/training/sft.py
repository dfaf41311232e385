"""Supervised fine-tuning on grounded rationales (Zoom-IQA's first stage, arXiv 2601.02918).

Each round of a record is a sample, in the context that the judge has in that round, with a loss on
the reply of that round only. "Assistant tokens only" is not enough: the chat of a later round also
contains the previous reply, without its image, and a loss on it would teach the model to describe
an image that it does not see. The answer's tokens count more, and the rating's digits have soft
labels (:mod:`.reply_targets`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from zoomiqa_core.runs.random import derived_seed
from zoomiqa_core.training.reply_targets import TargetSettings, reply_targets, weighted_loss
from zoomiqa_core.training.rows import lazy_dataset
from zoomiqa_core.zoom_iqa.protocol import Message

SampleT = TypeVar("SampleT")
IGNORED = -100


class Example(NamedTuple):
    """One chat to learn from."""

    messages: list[Message]
    """They end with the target reply."""
    images: Sequence[Image.Image | Tensor]
    """In the order in which the messages refer to them; maps of
    :class:`~.vision_maps.MapCache` with :func:`map_collator`."""
    ignored: tuple[tuple[int, int], ...] = ()
    """Character ranges (start, end) of the reply that are not trained."""


Chat = Example | tuple[list[Message], Sequence[Image.Image | Tensor]]
"""An example; a pair of messages and images, all of whose reply is trained, is one too."""


def sft_dataset(samples: Sequence[SampleT], example: Callable[[SampleT], Chat]) -> Any:
    """Rows for :func:`sft_trainer`.

    Args:
        samples: one a chat.
        example: makes it when its row is asked for.

    Raises:
        ValueError: no samples.
    """

    def row(sample: SampleT) -> dict[str, Any]:
        return Example(*example(sample))._asdict()  # pyright: ignore[reportArgumentType]

    return lazy_dataset(samples, row)


def last_turn_only(labels: Tensor) -> Tensor:
    """Mask the labels of all turns but the last.

    >>> import torch
    >>> last_turn_only(torch.tensor([[-100, 5, 6, -100, 7, 8]]))
    tensor([[-100, -100, -100, -100,    7,    8]])

    Args:
        labels: (B, T), −100 outside the assistant's turns, of which there is one or more a row.

    Raises:
        ValueError: a row has no assistant turn.
    """
    learnt = labels != IGNORED
    if not learnt.any(-1).all():
        row = int((~learnt.any(-1)).nonzero()[0])
        raise ValueError(
            f"row {row} has no assistant's turn to learn: does the chat template mark them with "
            "{% generation %}?"
        )
    # Counted from the end, the last turn is the first unbroken run of learnt positions.
    backwards = learnt.flip(-1)
    begun = backwards.cumsum(-1) > 0
    broken = (begun & ~backwards).cumsum(-1) > 0
    return labels.masked_fill((~(begun & ~broken)).flip(-1), IGNORED)


def sft_trainer(
    model: Any,
    args: Any,
    train_dataset: Any,
    processing_class: Any,
    targets: TargetSettings | None = None,
    *,
    lengths: Sequence[int] | None = None,
    collate: Callable[[list[dict[str, Any]]], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """A ``trl.SFTTrainer`` with a loss on the last turn of every chat only.

    Args:
        model: to be trained.
        args: ``SFTConfig``; masks, lengths and columns are set here.
        train_dataset: from :func:`sft_dataset`.
        processing_class: the processor.
        targets: weights and soft labels.
        lengths: of the rows, about: those of one batch are alike; None draws them at random.
        collate: makes a batch with labels of the rows; None for TRL's.
        kwargs: see ``SFTTrainer``.
    """
    args.assistant_only_loss = True
    args.max_length = None  # a cut prompt would lose image tokens
    args.remove_unused_columns = False
    args.packing = False
    trainer = _trainer_class()(
        model,
        args=args,
        train_dataset=train_dataset,
        processing_class=processing_class,
        **kwargs,
    )
    make_batch = collate or trainer.data_collator
    trainer.lengths = lengths
    tokenizer, settings = processing_class.tokenizer, targets or TargetSettings()
    trainer.digit_ids = [_token(tokenizer, str(digit)) for digit in range(10)]
    pieces = _Pieces(tokenizer)

    def collate_targets(rows: list[dict[str, Any]]) -> Any:
        batch = make_batch(rows)
        batch["labels"] = last_turn_only(batch["labels"])
        ignored = [row.get("ignored", ()) for row in rows]
        return {**batch, **_targets(batch["labels"], pieces, settings, ignored)}

    trainer.data_collator = collate_targets
    return trainer


class AlikeLengths(torch.utils.data.Sampler[int]):
    """Every row once an epoch, in random order, with rows of like length in a batch.

    The order depends on seed and epoch alone, so a resumed training goes on as an unbroken one.

    >>> list(AlikeLengths([3, 9, 3, 9], 2, seed=0))
    [0, 2, 3, 1]

    Args:
        lengths: of the rows.
        batch_size: rows a batch.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = torch.tensor(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[self.lengths[order].argsort(stable=True)]
        batches = list(order.split(self.batch_size))
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()


def map_collator(processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """Batches for a model that takes maps in place of pixels (:mod:`.vision_maps`).

    Args:
        processor: of the model; a cell of a map is an image token.
    """
    tokenizer = processor.tokenizer

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        prompts, replies = [], []
        for row in rows:
            *context, reply = row["messages"]
            chat = processor.apply_chat_template(
                context, tokenize=False, add_generation_prompt=True
            )
            text, *rest = chat.split(processor.image_token)
            for image, part in zip(row["images"], rest, strict=True):
                text += processor.image_token * image[0].numel() + part
            prompts.append(ids_of(text))
            replies.append([*ids_of(reply["content"][0]["text"]), tokenizer.eos_token_id])
        length = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
        ids = torch.full((len(rows), length), tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for index, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            begin, end = len(prompt), len(prompt) + len(reply)
            ids[index, :end] = torch.tensor([*prompt, *reply])
            labels[index, begin:end] = ids[index, begin:end]
            mask[index, :end] = 1
        maps = torch.stack([image for row in rows for image in row["images"]])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": maps}

    return collate


class _Pieces:
    """The text of single tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._tokenizer.decode(
                [token], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return self._known[token]


def _targets(
    labels: Tensor,
    pieces: Callable[[int], str],
    settings: TargetSettings,
    ignored: Sequence[Sequence[Sequence[int]]],
) -> dict[str, Tensor]:
    """Weights (B, T), and places (n, 2) and probabilities (n, 10) of soft labels."""
    weights = torch.zeros(labels.shape)
    places: list[list[int]] = []
    soft: list[list[float]] = []
    for row, hidden in enumerate(ignored):
        learnt = torch.where(labels[row] != IGNORED)[0]
        reply = reply_targets([pieces(int(i)) for i in labels[row, learnt]], settings, hidden)
        weights[row, learnt] = torch.tensor(reply.weights)
        places += [[row, int(learnt[index])] for index in reply.digits]
        soft += reply.digits.values()
    return {
        "weights": weights,
        "soft_places": torch.tensor(places, dtype=torch.long).view(-1, 2),
        "soft_labels": torch.tensor(soft).view(-1, 10),
    }


def _token(tokenizer: Any, text: str) -> int:
    return tokenizer(text, add_special_tokens=False)["input_ids"][-1]


def _trainer_class() -> type:
    """A class, made when it is used because TRL is imported only then."""
    from trl import SFTTrainer

    class TargetTrainer(SFTTrainer):
        digit_ids: Sequence[int]
        lengths: Sequence[int] | None = None

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if self.lengths is None:
                return super()._get_train_sampler(train_dataset)
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return AlikeLengths(self.lengths, size, self.args.seed)

        def compute_loss(
            self,
            model: Any,
            inputs: Mapping[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            inputs = dict(inputs)
            labels, weights = inputs.pop("labels"), inputs.pop("weights")
            soft = inputs.pop("soft_places"), inputs.pop("soft_labels")
            outputs = model(**inputs, use_cache=False)
            loss = weighted_loss(outputs.logits, labels, weights, soft, self.digit_ids)
            # Divided by the tokens of the whole optimiser step, so that accumulation over several
            # batches equals one large batch.
            count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

    return TargetTrainer
