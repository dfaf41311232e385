"""Files of a model, in a folder or on the hub."""

from __future__ import annotations

import json
from pathlib import Path


def model_file(model: str | Path, name: str, revision: str | None = None) -> Path | None:
    """Path of a model's file; None when the model has no such file.

    Offline, the Hub cache is used.

    Args:
        model: folder (``~`` is expanded), or hub id ``OWNER/NAME``.
        name: of the file.
        revision: branch, tag or commit on the hub; None for the newest.

    Raises:
        FileNotFoundError: neither a folder nor a hub id.
        OSError: the hub id is not available: no such model, or no network.

    >>> from pathlib import Path
    >>> Path("judge").mkdir()
    >>> print(model_file("judge", "config.json"))
    None
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.is_absolute() or len(folder.parts) != 2 or folder.parts[0] in (".", ".."):
        raise FileNotFoundError(f"{model} is no folder; give a folder, or a hub id OWNER/NAME")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(model), name, revision=revision))
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but it means no network
        raise OSError(
            f"cannot get {name} of {model}: it is no local folder, and the hub is out of reach. "
            "Download the model and give its folder"
        ) from error
    except EntryNotFoundError:
        return None


def is_transformers_model(model: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or hub id holds a transformers model, or a LoRA adapter of one.

    Raises:
        OSError: see :func:`model_file`.
        ValueError: its ``config.json`` is not JSON.
    """
    config = model_file(model, "config.json", revision)
    if config is None:
        return model_file(model, "adapter_config.json", revision) is not None
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not JSON: {error}") from error
    return isinstance(record, dict) and "model_type" in record
