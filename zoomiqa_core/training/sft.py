"""Supervised fine-tuning on grounded rationales (Zoom-IQA's first stage, arXiv 2601.02918).

Each round of a record is a sample, in the context that the judge has in that round, with a loss on
the reply of that round only. "Assistant tokens only" is not enough: the chat of a later round also
contains the previous reply, without its image, and a loss on it would teach the model to describe
an image that it does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor

from zoomiqa_core.training.rows import lazy_dataset
from zoomiqa_core.zoom_iqa.protocol import Message

SampleT = TypeVar("SampleT")
Chat = tuple[list[Message], list[Image.Image]]
"""Messages that end with the target reply, and their images in order."""

IGNORED = -100


def sft_dataset(samples: Sequence[SampleT], chat: Callable[[SampleT], Chat]) -> Any:
    """Rows for :func:`sft_trainer`.

    Args:
        samples: one a chat.
        chat: makes it when its row is asked for.

    Raises:
        ValueError: no samples.
    """

    def row(sample: SampleT) -> dict[str, Any]:
        messages, images = chat(sample)
        return {"messages": messages, "images": images}

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
    model: Any, args: Any, train_dataset: Any, processing_class: Any, **kwargs: Any
) -> Any:
    """A ``trl.SFTTrainer`` with a loss on the last turn of every chat only.

    Args:
        model: to be trained.
        args: ``SFTConfig``; masks, lengths and columns are set here.
        train_dataset: from :func:`sft_dataset`.
        processing_class: the processor.
        kwargs: see ``SFTTrainer``.
    """
    from trl import SFTTrainer

    args.assistant_only_loss = True
    args.max_length = None  # a cut prompt would lose image tokens
    args.remove_unused_columns = False
    args.packing = False
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=train_dataset,
        processing_class=processing_class,
        **kwargs,
    )
    collate = trainer.data_collator

    def collate_last_turn(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        batch["labels"] = last_turn_only(batch["labels"])
        return batch

    trainer.data_collator = collate_last_turn
    return trainer
