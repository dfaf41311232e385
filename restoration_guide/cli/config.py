"""Settings of a run from the command line: defaults, then a YAML file, then options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from restoration_guide.cli.restorer import (
    DTYPES,
    parsed_options,
    read_plan,
    restorer_arguments,
    restorer_names,
)
from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.verdict import GateConfig
from restoration_guide.report.folder import NOT_IN_FILE
from restoration_guide.restorers import load_restorer
from restoration_guide.search.best_of_n import BestOfN, BestOfNConfig
from restoration_guide.search.pick import PickConfig, pick_best
from restoration_guide.search.selection import Selection
from zoomiqa_core.cli.options import JudgeOptions, SeededJudgeOptions, stop
from zoomiqa_core.scorer import load_scorer

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """Settings that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class RunConfig(BestOfNConfig):
    """A search and what it is made of; ``config.yaml`` of a report holds exactly these keys."""

    restorer: Any = "builtin"
    """Name of a restorer, see :func:`~restoration_guide.restorers.load_restorer`, or a list of
    several, which take turns."""
    prompt: str | None = None
    """Prompt of a pipeline that takes one."""
    negative_prompt: str | None = None
    """Negative prompt of a pipeline that takes one."""
    controlnet: str | None = None
    """Folder or hub id of a ControlNet for a pipeline."""
    dtype: str | None = None
    """Of the restorer's weights: ``float32``, ``bfloat16`` or ``float16``."""
    variant: str | None = None
    """Which weights of a pipeline, such as ``fp16``."""
    tile: int | None = None
    """Side in pixels of the tiles of larger images; None for the restorer's own."""
    steps: int | None = None
    """Steps of every candidate; None for those of the plan."""
    strength: float | None = None
    """Strength of every candidate; None for those of the plan."""
    option: Any = None
    """Further settings of every candidate, by name."""
    plan: Any = None
    """List of settings that the candidates of one restorer cycle through, or the YAML file with
    it; None for the restorer's own."""
    restorer_config: Any = None
    """Further arguments of :func:`~restoration_guide.restorers.load_restorer` (``plan``,
    ``options``, ``tile``), as a report records them, or, of several restorers,
    ``members`` with those of each by name; settings given by themselves win."""
    scorer: str = "restoration"
    """Name of the judge, see :func:`~zoomiqa_core.scorer.load_scorer`."""
    second: str | None = None
    """Name of a second judge, which chooses among the best; None for none."""
    device: str = "cpu"
    """Where restorer and judges compute; ``"cuda"`` is each process's own GPU."""
    seed: int = 0
    """Seed of the candidates, ≥ 0."""
    max_megapixels: float | None = None
    """Largest image that is read, in millions of pixels; None for the restorer's own limit."""
    bits: int = 8
    """Bits per channel of the chosen picture, 8 or, of a PNG, 16."""
    threads: int | None = None
    """Number of torch threads; None leaves torch's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        names = restorer_names(self)
        object.__setattr__(self, "restorer", names if len(names) > 1 else names[0])
        object.__setattr__(self, "option", parsed_options(self.option) or None)
        object.__setattr__(self, "plan", read_plan(self.plan))
        if names == ["builtin"] and (self.prompt or self.negative_prompt):
            raise ValueError("the builtin restorer takes no prompt; choose a pipeline that does.")
        if self.dtype not in (None, *DTYPES):
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        if self.bits not in (8, 16):
            raise ValueError(f"bits must be 8 or 16, got {self.bits}.")
        for name, value in _described(self.restorer_config, "restorer_config"):
            raise ValueError(f"{name} is {value}: search in Python, where it can be given.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}.")

    def build(self) -> BestOfN:
        """Load the restorer and the judges."""
        settings = {
            each.name: getattr(self, each.name)
            for each in fields(BestOfNConfig)
            if each.name not in ("n", "fidelity")
        }
        members = [load_restorer(name, **each) for name, each in restorer_arguments(self)]
        if self.max_megapixels is not None:
            most = round(self.max_megapixels * 1e6)
            for member in members:
                member.limits = replace(member.limits, max_pixels=most)
        restorer = load_restorer(members) if len(members) > 1 else members[0]
        return BestOfN(
            restorer,
            load_scorer(self.scorer, device=self.device),
            self.n,
            second=None if self.second is None else load_scorer(self.second, device=self.device),
            limits=self.fidelity,
            **settings,
        )


@dataclass(frozen=True)
class PickRunConfig(PickConfig):
    """Settings of ``restoration-guide pick``: the choice's and the judges'."""

    scorer: str | None = None
    """Name of the judge; None for ``"restoration"``, or ``"proxy"`` where there is no input."""
    second: str | None = None
    """Name of a second judge, which chooses among the best; None for none."""
    device: str = "cpu"
    """Where the judges compute."""
    max_megapixels: float | None = None
    """Largest image that is read, in millions of pixels; None for 64."""
    bits: int = 8
    """Bits per channel of the chosen picture, 8 or, of a PNG, 16."""
    threads: int | None = None
    """Number of torch threads; None leaves torch's default."""

    def build(self, *, with_input: bool) -> Callable[..., Selection]:
        """Load the judges: what takes an input and images."""
        name = self.scorer or ("restoration" if with_input else "proxy")
        settings = {each.name: getattr(self, each.name) for each in fields(PickConfig)}
        limits = settings.pop("fidelity")
        return partial(
            pick_best,
            judge=load_scorer(name, device=self.device),
            second=None if self.second is None else load_scorer(self.second, device=self.device),
            limits=limits,
            **settings,
        )


@dataclass(frozen=True)
class GateRunConfig(SeededJudgeOptions, GateConfig):
    """Settings of ``restoration-guide gate``: the gate's and the judge's."""

    scorer: str = "restoration"
    """Name of the judge."""
    second: str | None = None
    """Name of a second judge with a veto; it judges with its own defaults."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)
    """Fidelity limits."""
    max_megapixels: float | None = None
    """Largest image that is read, in millions of pixels; None for 64."""

    def build(self) -> QualityGate:
        """Load the judges."""
        second = None if self.second is None else JudgeOptions(self.second, self.device).load()
        return QualityGate(
            self.load(),
            self.min_rating,
            second=second,
            confidence=self.confidence,
            min_gain=self.min_gain,
            limits=self.fidelity,
        )


def _described(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Settings that a report could only describe, with their dotted names."""
    if isinstance(value, str) and value.startswith(NOT_IN_FILE):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _described(item, f"{name}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _described(item, f"{name}.{index}")


def resolve_config(
    schema: type[Settings], file: Path | None, options: Mapping[str, Any]
) -> Settings:
    r"""Merge defaults, ``file`` and options, later ones winning.

    Args:
        schema: a dataclass of settings with defaults.
        file: YAML; None for none.
        options: by name; those that are None were not given.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value out of range.

    >>> _ = Path("run.yaml").write_text("n: 2\nmin_gain: 0.25")
    >>> run = resolve_config(RunConfig, Path("run.yaml"), {"n": 4})
    >>> run.n, run.min_gain
    (4, 0.25)
    >>> _ = Path("run.yaml").write_text("nn: 2")
    >>> resolve_config(RunConfig, Path("run.yaml"), {})
    Traceback (most recent call last):
    ...
    restoration_guide.cli.config.ConfigError: run.yaml: unknown setting 'nn'; did you mean 'n'?
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    source = "" if file is None else f"{file}: "
    given = {key: value for key, value in options.items() if value is not None}
    try:
        read = OmegaConf.create() if file is None else OmegaConf.load(file)
        if not isinstance(read, DictConfig):
            raise ConfigError("expected a mapping of settings, one per line as `name: value`")
        merged = OmegaConf.merge(OmegaConf.structured(schema), read, given)
        config = OmegaConf.to_object(merged)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key)
        known = [each.name for each in fields(cast(Any, schema))]
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ConfigError(f"{source}unknown setting {key!r}; {hint}") from error
    except OmegaConfBaseException as error:
        problem = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{source}{error.full_key}: {problem}") from error
    except (YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{source}{error}") from error
    return cast(Settings, config)


def resolve_or_stop(
    schema: type[Settings], file: Path | None, options: Mapping[str, Any]
) -> Settings:
    """The same; settings that cannot be used end the program with an error."""
    try:
        return resolve_config(schema, file, options)
    except ConfigError as error:
        stop(str(error), error)
