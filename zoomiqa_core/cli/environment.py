"""``zoomiqa env``: versions, devices, and which optional packages are installed."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from typing import Annotated, Any

import typer

from zoomiqa_core import __version__
from zoomiqa_core.runs.files import to_json

DISTRIBUTION = "zoomiqa-restoration-guide"

_OPTIONAL = re.compile(r"""^([\w.-]+).*;.*\bextra\s*==\s*['"]([\w-]+)['"]""")


def show_environment(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what is installed here: versions, devices, optional packages."""
    from zoomiqa_core.runs.folder import versions

    document = {"zoomiqa": __version__, "versions": versions(), **environment()}
    typer.echo(
        to_json(document, sort_keys=False) if as_json else environment_text(document), nl=False
    )


def environment() -> dict[str, Any]:
    """Platform, torch devices and optional packages, as plain containers."""
    return {
        "platform": platform.platform(),
        "devices": devices(),
        "optional": optional_parts(metadata.requires(DISTRIBUTION) or []),
    }


def environment_text(document: dict[str, Any], indent: str = "") -> str:
    """Nested names and values as indented lines; None means not installed.

    >>> print(environment_text({"optional": {"app": {"gradio": None}}}), end="")
    optional
      app
        gradio           not installed
    """
    lines = []
    for name, value in document.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}\n{environment_text(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name:<16} {value if value is not None else 'not installed'}\n")
    return "".join(lines)


def devices() -> dict[str, str]:
    """Device names of torch → their hardware."""
    import torch

    found = {
        "cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def optional_parts(requirements: list[str]) -> dict[str, dict[str, str | None]]:
    """Extra → its packages → their installed versions; None for one that is not installed.

    Args:
        requirements: as a package's metadata lists them.

    >>> optional_parts(["torch>=2.8", "no-such-package>=6; extra == 'app'"])
    {'app': {'no-such-package': None}}
    """
    parts: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        if match := _OPTIONAL.match(requirement):
            package, extra = match.groups()
            if package != DISTRIBUTION:
                parts.setdefault(extra, {})[package] = _version(package)
    return parts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
