"""Several restorers as one: which of them is best for this photo?"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from restoration_guide.restorers.base import (
    AnySettings,
    Candidate,
    Observer,
    Preview,
    Restorer,
    Settings,
    ask_observer,
    check_request,
    reason_unobservable,
)
from zoomiqa_core.images.sources import ImageLimits


class MemberError(RuntimeError):
    """A member of a pool failed; the message names it, the cause is its error.

    It is raised after the candidates of the other members.

    >>> import torch
    >>> from restoration_guide import load_restorer
    >>> broken = load_restorer(lambda image: image[9], name="broken")
    >>> pool = RestorerPool(broken, load_restorer(lambda image: image, name="copy"))
    >>> made = pool.restore(torch.rand(1, 3, 16, 16), n=4)
    >>> [next(made).index, next(made).index]
    [1, 3]
    >>> next(made)
    Traceback (most recent call last):
    restoration_guide.restorers.pool.MemberError: broken failed: IndexError: index 9 is out of ...
    """


class RestorerPool:
    """Members take turns: candidate i is candidate i // m of member i % m, of m members.

    So it is the same image whatever `n`. Its settings name the member under ``"restorer"``. A
    member that fails, or whose `limits` exclude the image, costs its own candidates only.

    >>> import torch
    >>> from restoration_guide import load_restorer
    >>> pool = load_restorer(["builtin", lambda image: image.flip(-1)])
    >>> made = pool.restore(torch.rand(1, 3, 32, 32), n=4)
    >>> [candidate.settings["restorer"] for candidate in made]
    ['builtin', '<lambda>', 'builtin', '<lambda>']
    """

    def __init__(self, *members: Restorer) -> None:
        """Join restorers; each keeps its own plan.

        Raises:
            TypeError: A member is no restorer.
            ValueError: No members, or two of one name.
        """
        for member in members:
            if not isinstance(member, Restorer):
                raise TypeError(
                    f"Expected restorers, got {type(member).__name__}; load_restorer([…]) makes a "
                    "pool of names, pipelines and functions."
                )
        names = [member.name for member in members]
        if not members or len(set(names)) < len(names):
            raise ValueError(
                f"A pool needs members of different names, got {names}; "
                "load_restorer(…, name=…) gives one."
            )
        self.members = members
        self.name = " + ".join(names)
        # sizes that at least one member can restore
        self.limits = ImageLimits(
            max_pixels=max(member.limits.max_pixels for member in members),
            max_side=max(member.limits.max_side for member in members),
            min_side=min(member.limits.min_side for member in members),
        )

    @property
    def plan(self) -> Sequence[AnySettings]:
        """Settings the candidates cycle through, each with its member's name."""
        count = len(self.members)
        length = count * math.lcm(*(len(member.plan) for member in self.members))
        return tuple(self._settings(i % count, i // count) for i in range(length))

    @plan.setter
    def plan(self, plan: Sequence[Any]) -> None:
        """Only the members that the entries name go on, each with its own entries for a plan."""
        names = dict.fromkeys(entry["restorer"] for entry in plan)
        by_name = {member.name: member for member in self.members}
        members: list[Any] = [copy.copy(by_name[name]) for name in names]
        for member in members:
            own = [
                {name: value for name, value in entry.items() if name != "restorer"}
                for entry in plan
                if entry["restorer"] == member.name
            ]
            dataclasses = isinstance(member.plan[0], Settings)
            member.plan = tuple(Settings(**entry) if dataclasses else entry for entry in own)
        self.members = tuple(members)
        if self.plan[: len(plan)] != tuple(plan):
            raise ValueError("The members of a pool take turns: its plan must, too.")

    @property
    def config(self) -> dict[str, Any]:
        """The members and what determines the candidates of each."""
        return {"members": {each.name: getattr(each, "config", {}) for each in self.members}}

    @property
    def unobservable(self) -> str | None:
        """Why there are no previews: a member shows none; else None."""
        for member in self.members:
            reason = reason_unobservable(member)
            if reason is not None:
                return f"{member.name} shows none: {reason}"
        return None

    def restore(
        self,
        image: Tensor,
        *,
        n: int,
        seed: int = 0,
        batch_size: int = 1,
        observer: Observer | None = None,
    ) -> Iterator[Candidate]:
        """Yield candidates 0 … n - 1 of (1, 3, H, W) in [0, 1], in turns.

        Raises:
            TypeError: The image is no float tensor.
            ValueError: See `check_request`; an observer where a member shows no previews.
            MemberError: A member failed; raised after the candidates of the others.
        """
        check_request(image, n=n, seed=seed, batch_size=batch_size)
        if observer is not None and self.unobservable is not None:
            raise ValueError(f"{self.name} shows no previews, because {self.unobservable}.")
        return self._restore(image, n, seed, batch_size, observer)

    def _restore(
        self, image: Tensor, n: int, seed: int, batch_size: int, observer: Observer | None
    ) -> Iterator[Candidate]:
        failures: list[Exception] = []
        notes: tuple[str, ...] = ()
        turns = deque(
            (place, self._stream(place, image, n, seed, batch_size, observer))
            for place in range(min(n, len(self.members)))
        )
        while turns:
            place, stream = turns.popleft()
            try:
                candidate = next(stream)
            except StopIteration:
                continue
            except Exception as error:  # the other members go on
                failures.append(error)
                notes += (self._described(place, error),)
                continue
            turns.append((place, stream))
            yield replace(
                candidate,
                index=self._index(place, candidate.index),
                settings={"restorer": self.members[place].name, **candidate.settings_dict},
                notes=(*candidate.notes, *notes),
            )
        if failures:
            raise MemberError("; ".join(notes)) from failures[0]

    def _stream(
        self,
        place: int,
        image: Tensor,
        n: int,
        seed: int,
        batch_size: int,
        observer: Observer | None,
    ) -> Iterator[Candidate]:
        """A member's candidates; whatever it refuses is raised by the first of them."""
        member = self.members[place]
        member.limits.check(image.shape[-1], image.shape[-2], "the image")
        asked = {} if observer is None else {"observer": self._observer(place, observer)}
        count = len(range(place, n, len(self.members)))
        yield from member.restore(image.clone(), n=count, seed=seed, batch_size=batch_size, **asked)

    def _observer(self, place: int, observer: Observer) -> Observer:
        """The pool's observer as a member sees it, with the member's own numbers."""

        def ask(previews: Sequence[Preview]) -> Collection[int]:
            own = {self._index(place, preview.index): preview for preview in previews}
            shown = [replace(preview, index=index) for index, preview in own.items()]
            return {own[index].index for index in ask_observer(observer, shown)}

        return ask

    def _index(self, place: int, index: int) -> int:
        return index * len(self.members) + place

    def _settings(self, place: int, index: int) -> Mapping[str, Any]:
        member = self.members[place]
        settings: Any = member.plan[index % len(member.plan)]
        named = dict(settings) if isinstance(settings, Mapping) else asdict(settings)
        return {"restorer": member.name, **named}

    def _described(self, place: int, error: Exception) -> str:
        return f"{self.members[place].name} failed: {type(error).__name__}: {error}"
