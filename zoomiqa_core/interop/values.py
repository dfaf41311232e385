"""What a metric returns, checked, and how a value becomes a rating."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoomiqa_core.assessment import MAX_RATING, MIN_RATING

Number = TypeVar("Number", float, Tensor)


class MetricError(ValueError):
    """A metric gave no usable value; ``code`` names why.

    >>> error = MetricError("wrong_count", "expected one value per image")
    >>> error.code, str(error)
    ('wrong_count', 'expected one value per image')
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self))


def linear_rating(
    value: Number, lowest: float, highest: float, *, lower_is_better: bool = False
) -> Number:
    """Map the worst value to 1 and the best to 5 on a straight line, which goes on beyond both.

    >>> linear_rating(75.0, 0, 100), linear_rating(75.0, 0, 100, lower_is_better=True)
    (4.0, 2.0)
    """
    worst, best = (highest, lowest) if lower_is_better else (lowest, highest)
    return MIN_RATING + (MAX_RATING - MIN_RATING) * (value - worst) / (best - worst)


def metric_values(
    metric: Callable[..., Any], inputs: Sequence[Tensor], name: str = "the metric"
) -> Tensor:
    """Call a metric on copies of its inputs and check the kind and number of its values.

    Args:
        metric: takes the inputs; returns (B,), (B, 1), or a single number when B is 1.
        inputs: batches (B, 3, H, W).
        name: of the metric in messages.

    Returns:
        (B,) in single precision at least, with their gradient; NaN and infinite values pass.

    Raises:
        MetricError: ``metric_raised``, ``out_of_memory``, ``wrong_type``, ``wrong_count`` or
            ``wrong_shape``.

    >>> metric_values(lambda images: images.mean((1, 2, 3)), [torch.ones(2, 3, 8, 8)])
    tensor([1., 1.])
    >>> metric_values(lambda images: images.mean(), [torch.ones(2, 3, 8, 8)])
    Traceback (most recent call last):
    zoomiqa_core.interop.values.MetricError: the metric must return one value per image: expected...
    """
    count = len(inputs[0])
    try:
        found = metric(*(each.clone() for each in inputs))
    except torch.OutOfMemoryError as error:
        raise MetricError("out_of_memory", f"{name}: {error}") from error
    except Exception as error:  # whatever somebody else's code raises
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise MetricError("metric_raised", f"{name} raised {said}") from error
    try:
        values = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        values = None
    if values is None or values.dtype == torch.bool or values.is_complex():
        got = type(found).__name__ if values is None else f"{values.dtype} values"
        raise MetricError(
            "wrong_type", f"{name} must return numbers, a tensor ({count},); got {got}"
        )
    shape = tuple(values.shape)
    if values.numel() != count:
        raise MetricError(
            "wrong_count",
            f"{name} must return one value per image: expected shape ({count},), got {shape}; "
            "return the values before any mean over images or pixels",
        )
    if shape not in ((count,), (count, 1)) and shape != ():
        raise MetricError("wrong_shape", f"{name} must return shape ({count},), got {shape}")
    return values.reshape(count).to(torch.promote_types(values.dtype, torch.float32))
