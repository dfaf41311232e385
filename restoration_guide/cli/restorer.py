"""Options that choose and set restorers: ``--restorer``, ``--tile``, ``--option`` and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

SETTINGS_OF_BUILTIN = ("steps", "strength", "temperature", "churn")
SETTINGS_OF_NETWORKS = ("reduce", "strength")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class RestorerOptions:
    """Which restorers, and their settings; each reaches the restorers that have it."""

    restorer: Annotated[
        list[str],
        typer.Option(
            help='"builtin", "realesrgan", a .safetensors or .pth file, or the folder or hub id of '
            "a diffusers pipeline. Given several times, they take turns.",
        ),
    ] = ("builtin",)  # pyright: ignore[reportAssignmentType]
    prompt: Annotated[str | None, typer.Option(help="Prompt of a pipeline that takes one.")] = None
    negative_prompt: Annotated[
        str | None, typer.Option(help="Negative prompt of a pipeline that takes one.")
    ] = None
    controlnet: Annotated[
        str | None, typer.Option(help="Folder or hub id of a pipeline's ControlNet.")
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help=f"Of the restorer's weights: {', '.join(DTYPES)}."),
    ] = None
    variant: Annotated[
        str | None, typer.Option(help='Which weights of a pipeline, e.g. "fp16".')
    ] = None
    tile: Annotated[
        int | None, typer.Option(help="Side in pixels of the tiles of larger images.")
    ] = None
    steps: Annotated[int | None, typer.Option(help="Steps of every candidate.")] = None
    strength: Annotated[
        float | None,
        typer.Option(help="Strength of every candidate, instead of those of the plan."),
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Another setting of every candidate, e.g. guidance_scale=5; repeatable.",
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="File with a list of settings, which the candidates of one restorer cycle "
            "through.",
        ),
    ] = None


def read_plan(plan: Any) -> list[dict[str, Any]] | None:
    r"""Settings that candidates cycle through, from a YAML file or a list.

    >>> _ = Path("plan.yaml").write_text("- {steps: 3, strength: 0.5}\n- {steps: 1}")
    >>> read_plan("plan.yaml")
    [{'steps': 3, 'strength': 0.5}, {'steps': 1}]
    >>> _ = Path("plan.yaml").write_text("steps: 3")
    >>> read_plan("plan.yaml")
    Traceback (most recent call last):
    ValueError: plan.yaml: expected a list of settings, such as `- {steps: 3, strength: 0.5}` in ...

    Raises:
        ValueError: no such file, or another content.
    """
    import yaml

    if plan is None:
        return None
    source = "plan"
    if isinstance(plan, str | Path):
        source = str(plan)
        try:
            plan = yaml.safe_load(Path(plan).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{source}: cannot read a plan: {error}") from error
    if not isinstance(plan, list) or not plan:
        raise ValueError(
            f"{source}: expected a list of settings, such as `- {{steps: 3, strength: 0.5}}` in a "
            f"line for each candidate, got {type(plan).__name__}."
        )
    for number, entry in enumerate(plan, start=1):
        if not isinstance(entry, Mapping) or not all(isinstance(name, str) for name in entry):
            raise ValueError(
                f"{source}: entry {number} is {entry!r}, expected settings as `{{NAME: VALUE}}`."
            )
    return [dict(entry) for entry in plan]


def parsed_options(option: Any) -> dict[str, Any]:
    """Settings from ``NAME=VALUE``; values are read as YAML.

    >>> parsed_options(["guidance_scale=5.5", "churn=true"])
    {'guidance_scale': 5.5, 'churn': True}

    Raises:
        ValueError: a setting without ``=``.
    """
    import yaml

    if isinstance(option, Mapping):
        return dict(option)
    parsed: dict[str, Any] = {}
    for each in option or ():
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise ValueError(f"expected --option NAME=VALUE, got {each!r}.")
        parsed[name.strip()] = yaml.safe_load(value)
    return parsed


def restorer_names(run: Any) -> list[str]:
    """Names of a run's restorers; those of a report on a pool are in its ``restorer_config``."""
    given = run.restorer
    if not isinstance(given, str):
        return list(given or ["builtin"])
    members = list((run.restorer_config or {}).get("members", ()))
    return members if members and given == " + ".join(members) else [given]


def restorer_arguments(run: Any) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of :func:`~restoration_guide.restorers.load_restorer` for each restorer.

    An option goes to the restorers that have it.

    Args:
        run: the settings, :class:`~restoration_guide.cli.config.RunConfig`.

    Raises:
        ValueError: an option that none of the restorers has.
    """
    names = restorer_names(run)
    config = dict(run.restorer_config or {})
    members = config.pop("members", {})
    unknown = sorted(set(members) - set(names)) + (sorted(config) if len(names) > 1 else [])
    if unknown:
        raise ValueError(
            f"restorer_config: {', '.join(unknown)} is for none of {', '.join(names)}; of several "
            "restorers it holds `members`, with the settings of each by its name."
        )
    if run.plan is not None and len(names) > 1:
        raise ValueError(
            f"a plan is of one restorer, and there are {', '.join(names)}; give each its own by "
            "--config, under restorer_config: {members: {NAME: {plan: […]}}}."
        )
    settings = {"steps": run.steps, "strength": run.strength, **parsed_options(run.option)}
    loading = {name: getattr(run, name) for name in _LOADING}
    given = {name for name, value in (settings | loading).items() if value is not None}
    arguments: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        has = given - _unknown(name, given)
        own = dict(members.get(name, config))
        if run.plan is not None:
            own["plan"] = run.plan
            _check_plan(
                run.plan, name, {key for key, value in settings.items() if value is not None}
            )
        own |= {key: value for key, value in loading.items() if key in has}
        _set(own, _kind(name), {key: value for key, value in settings.items() if key in has})
        if run.device != "cpu" and _kind(name) != "realesrgan":
            own["device"] = run.device
        arguments.append((name, own))
    homeless = sorted(set.intersection(*(_unknown(name, given) for name in names)))
    if homeless:
        raise ValueError(
            f"{', '.join(names)}: no setting {', '.join(homeless)}; the builtin restorer has "
            f"{', '.join(SETTINGS_OF_BUILTIN)}, a network {', '.join(SETTINGS_OF_NETWORKS)} and "
            "tile, a pipeline the arguments of its call."
        )
    return arguments


def _check_plan(plan: list[dict[str, Any]], name: str, given: set[str]) -> None:
    """Name what an entry for the builtin restorer lacks; other restorers check theirs."""
    if _kind(name) != "builtin":
        return
    wanted = set(SETTINGS_OF_BUILTIN)
    for number, entry in enumerate(plan, start=1):
        if set(entry) | (given & wanted) != wanted:
            raise ValueError(
                f"plan: entry {number} has {', '.join(entry) or 'nothing'}; the builtin restorer "
                f"needs {', '.join(SETTINGS_OF_BUILTIN)}, e.g. {{steps: 3, strength: 0.5, "
                "temperature: 0.3, churn: false}, or an option of the same name for all."
            )


_LOADING = ("prompt", "negative_prompt", "controlnet", "dtype", "variant", "tile")


def _kind(name: str) -> str:
    from restoration_guide.restorers.ncnn import MODELS
    from restoration_guide.restorers.spandrel import is_model_file

    if name in MODELS:
        return "realesrgan"
    return "builtin" if name == "builtin" else "file" if is_model_file(name) else "pipeline"


def _unknown(name: str, given: set[str]) -> set[str]:
    """Those of the given options that a restorer does not have."""
    has = {
        "builtin": (*SETTINGS_OF_BUILTIN, "dtype"),
        "realesrgan": (*SETTINGS_OF_NETWORKS, "tile"),
        "file": (*SETTINGS_OF_NETWORKS, "tile", "dtype"),
        "pipeline": given,
    }[_kind(name)]
    return given - set(has)


def _set(arguments: dict[str, Any], kind: str, settings: dict[str, Any]) -> None:
    """Put settings of every candidate among a loader's arguments; the plan's own give way."""
    if variant := arguments.pop("variant", None):
        arguments["loading"] = {"variant": variant}
    if dtype := arguments.get("dtype"):
        import torch

        arguments["dtype"] = getattr(torch, dtype)
    if not settings:
        return
    if kind == "pipeline" and (steps := settings.pop("steps", None)) is not None:
        arguments["steps"] = steps
    arguments["options"] = {**(arguments.get("options") or {}), **settings}
    if kind == "pipeline" and arguments.get("plan"):
        fixed = {*settings, *(["num_inference_steps"] if "steps" in arguments else [])}
        plan = [{k: v for k, v in each.items() if k not in fixed} for each in arguments["plan"]]
        arguments["plan"] = [each for place, each in enumerate(plan) if each not in plan[:place]]
