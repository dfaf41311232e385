"""Files on this machine's disks or in an object store, through the filesystems of pyarrow."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from zoomiqa_core.images.errors import MissingImageError, UnreadableImageError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/")


def require(name: str) -> Any:
    """Import pyarrow or ray.

    Raises:
        ImportError: the extra ``ray`` is not installed.

    >>> require("json").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{name} is not installed; pip install "zoomiqa-restoration-guide[ray]"'
        ) from error


def is_uri(path: str) -> bool:
    """Whether a path names a file in an object store.

    >>> is_uri("s3://bucket/photo.jpg"), is_uri("photos/photo.jpg"), is_uri("C:/photo.jpg")
    (True, False, False)
    """
    return _SCHEME.match(path) is not None


def filesystem_of(path: str) -> tuple[Any, str]:
    """The filesystem of pyarrow that holds a path, and the path there.

    Args:
        path: a local path, or a URI such as ``s3://bucket/folder``. ``s3:/bucket/folder``, which
            ``str(Path(uri))`` gives, is taken for one too.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: a URI that pyarrow does not know.
    """
    fs = require("pyarrow.fs")
    if not is_uri(path):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    slashes = "///" if path.startswith("file:") else "//"
    try:
        return fs.FileSystem.from_uri(re.sub(r":/+", f":{slashes}", path, count=1))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be opened: {error}") from error


def read_bytes(uri: str) -> bytes:
    """The bytes of one file.

    Raises:
        MissingImageError, UnreadableImageError: it does not exist, or the store refuses it.
    """
    try:
        filesystem, path = filesystem_of(uri)
        with filesystem.open_input_stream(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise MissingImageError(f"{uri}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        raise UnreadableImageError(f"{uri}: {error}; check who may read it") from error
