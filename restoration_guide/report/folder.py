"""The folder of a report: whether it is free or done already, and how its files are replaced.

Files that do not belong to a report are never touched, even when one is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoomiqa_core import __version__
from zoomiqa_core.runs.files import to_json

PACKAGE = "zoomiqa-restoration-guide"
"""The distribution's name, under which a record keeps its version."""

RECORD = "report.json"
CONFIG = "config.yaml"
UNFINISHED = "unfinished"
"""Folder of the candidates of a search that has not ended, with its settings."""
OWN_FILES = frozenset(
    {RECORD, CONFIG, "report.html", "best.png", "comparison.png", "preview.jpg", "candidates"}
    | {UNFINISHED}
)
CANDIDATE_FILE = re.compile(r"(\d{2,}|[a-z]+)\.png")
NOT_IN_FILE = "<not in this file: "
"""How the description of a setting starts that a file cannot hold, such as a tensor."""
SPEED_SETTINGS = frozenset({"threads", "device", "batch_size", "max_megapixels"})
"""Settings that decide whether and how fast candidates are made; pixels change by rounding."""


class ReportExistsError(FileExistsError):
    """The folder holds something that the new report must not replace.

    >>> from pathlib import Path
    >>> from restoration_guide import BestOfN, load_restorer, write_report
    >>> import torch, zoomiqa_core as zi
    >>> search = BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=1)
    >>> written = Path("report.json").write_text("not ours")
    >>> try:
    ...     report = write_report(search(torch.rand(3, 48, 48)), ".")
    ... except ReportExistsError:
    ...     print("give another folder")
    give another folder
    """


def run_identity(pixels: Tensor, config: Mapping[str, Any]) -> dict[str, str]:
    """What makes a run the same run: hashes of the input's pixels and of the settings."""
    shape = repr(tuple(pixels.shape)).encode()
    values = pixels.detach().float().cpu().contiguous().numpy().tobytes()
    return {
        "input_sha256": hashlib.sha256(shape + values).hexdigest(),
        "config_sha256": config_hash(config),
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that change pixels, in any order.

    >>> config_hash({"n": 8, "threads": 1}) == config_hash({"threads": 2, "n": 8})
    True
    """
    decisive = {key: value for key, value in config.items() if key not in SPEED_SETTINGS}
    return hashlib.sha256(to_json(plain(decisive)).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None when there is none, or another thing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def is_done(folder: Path, identity: Mapping[str, str]) -> bool:
    """Whether ``folder`` holds the whole report of this run by this version of the package.

    A report whose restorer stopped early is not whole.
    """
    record = read_record(folder / RECORD)
    if record is None or record.get("error") is not None:
        return False
    versions = record.get("versions")
    made_by = versions.get(PACKAGE) if isinstance(versions, dict) else None
    return made_by == __version__ and _is_of(record, identity)


def check_folder(folder: Path, identity: Mapping[str, str], overwrite: bool = False) -> None:
    """Refuse a folder whose content a new report must not replace.

    Free are: no folder, an empty one, and one with a report of the same run (same pixels, seed and
    settings, by any version), whole or cut short. ``overwrite`` frees those of other runs too, and
    one cut short that holds foreign files as well.

    Raises:
        ReportExistsError: the folder is not free; the message says what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise ReportExistsError(f"{folder} is a file; a report needs a folder.")
    if not folder.is_dir():
        return
    record = read_record(folder / RECORD)
    if record is not None:
        if not (overwrite or _is_of(record, identity)):
            raise ReportExistsError(
                f"{folder} holds the report of another run (other image, seed or settings); "
                "choose another folder, or overwrite it (--overwrite, overwrite=True)."
            )
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    foreign = sorted(names - OWN_FILES)
    begun = _is_config(folder / CONFIG) or _is_config(folder / UNFINISHED / CONFIG)
    if names and not (begun and (overwrite or not foreign)):
        held = ", ".join((foreign or sorted(names))[:3])
        fix = "overwrite the unfinished report beside them (--overwrite, overwrite=True)"
        raise ReportExistsError(
            f"{folder} holds files that are no report ({held}); choose an empty or a new folder"
            + (f", or {fix}." if begun else ".")
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for the files of a report, which replace those in ``folder``.

    If the block raises, ``folder`` is as it was. The record moves last; candidates that the new
    report does not have are removed, those of an unfinished search too. Nothing but a report's own
    files is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    try:
        yield built
        (folder / RECORD).unlink(missing_ok=True)
        old, new = folder / "candidates", built / "candidates"
        if old.is_dir():
            for path in old.iterdir():
                if CANDIDATE_FILE.fullmatch(path.name) and not (new / path.name).exists():
                    path.unlink()
        files = [path for path in built.rglob("*") if path.is_file()]
        order = {CONFIG: 0, RECORD: 2}
        for path in sorted(files, key=lambda path: order.get(path.name, 1)):
            target = folder / path.relative_to(built)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        remove_unfinished(folder)
    finally:
        shutil.rmtree(built, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the candidates that :func:`~restoration_guide.report.write.keep_candidate` wrote."""
    unfinished = folder / UNFINISHED
    if not unfinished.is_dir():
        return
    for path in unfinished.iterdir():
        if path.name == CONFIG or CANDIDATE_FILE.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):  # somebody's own files are in it
        unfinished.rmdir()


def plain(value: Any) -> Any:
    """Settings as JSON and YAML have them; what a file cannot hold is described.

    >>> import numpy as np
    >>> plain({"min_gain": np.float64(0.1), "plan": np.linspace(0, 1, 3), "seed": np.int64(7)})
    {'min_gain': 0.1, 'plan': [0.0, 0.5, 1.0], 'seed': 7}
    >>> plain({"size": (8, 8), "callback": len})
    {'size': [8, 8], 'callback': '<not in this file: <built-in function len>>'}
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        stored = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        shown = f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(stored).hexdigest()[:16]}"
    else:
        shown = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # the same in every process
    return f"{NOT_IN_FILE}{shown}>"


def _is_of(record: Mapping[str, Any], identity: Mapping[str, str]) -> bool:
    return all(record.get(key) == value for key, value in identity.items())


def _is_config(path: Path) -> bool:
    """Whether the file holds a search's settings: the first thing that a report writes."""
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(read, dict) and {"restorer", "scorer", "seed"} <= read.keys()
