"""The folder of a run's results: Parquet files that appear while it goes on, and resume it.

``results/`` holds the rows that are valid, ``invalid/`` the others with their reason, and
``run.json`` the settings. A row whose name is in either is done.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoomiqa_core import __version__
from zoomiqa_core.runs.files import atomic_path, to_json
from zoomiqa_core.scale.names import key_digests
from zoomiqa_core.scale.storage import filesystem_of, is_uri, require

VALID, INVALID = "results", "invalid"
RUN = "run.json"
ROWS_PER_FILE = 10_000
BYTES_PER_FILE = 128_000_000
SECONDS_PER_FILE = 30.0
"""A file is written when it holds that much, or when its first row has waited that long."""


class ResultFolder:
    """Where the rows of a run go, on a local disk or in an object store.

    >>> folder = ResultFolder("rated", {"scorer": "proxy"})
    >>> pa = require("pyarrow")
    >>> rows = {"name": ["a.png", "b.png"], "valid": [True, False], "error": [None, "truncated"]}
    >>> folder.add(pa.table(rows))
    >>> folder.write()
    >>> dict(folder.counts()), len(ResultFolder("rated", {"scorer": "proxy"}).done())
    ({'valid': 1, 'truncated': 1}, 2)

    Args:
        path: a folder, or the URI of one.
        settings: what decides the results; a run with others is refused.
        seconds: how long a row waits at most until it is written.

    Raises:
        ValueError: the folder holds results of other settings, or something else.
        OSError: nothing can be written there.
    """

    def __init__(
        self, path: str, settings: Mapping[str, Any], seconds: float = SECONDS_PER_FILE
    ) -> None:
        self.path = path
        self.seconds = seconds
        self._is_local = not is_uri(path)
        self._filesystem, self._root = filesystem_of(path)
        self._waiting: dict[str, list[Any]] = {VALID: [], INVALID: []}
        self._since = time.monotonic()
        self._check(json.loads(to_json(settings)))

    def done(self) -> np.ndarray:
        """Digests of the names that are written, see :func:`~.names.key_digests`."""
        names = [name for table in self._tables(["name"]) for name in table["name"].to_pylist()]
        return key_digests(names)

    def counts(self) -> Counter[str]:
        """Number of written rows that are valid, and of the others by error."""
        return Counter(
            error or "valid"
            for table in self._tables(["error"])
            for error in table["error"].to_pylist()
        )

    def add(self, rows: Any) -> None:
        """Take the rows of a ``pyarrow.Table``, which are written by and by."""
        compute = require("pyarrow.compute")
        valid = rows["valid"]
        if not any(self._waiting.values()):
            self._since = time.monotonic()
        for kind, chosen in ((VALID, valid), (INVALID, compute.invert(valid))):
            if (part := rows.filter(chosen)).num_rows:
                self._waiting[kind].append(part)
        waiting = [part for parts in self._waiting.values() for part in parts]
        if (
            time.monotonic() - self._since > self.seconds
            or sum(part.num_rows for part in waiting) >= ROWS_PER_FILE
            or sum(part.nbytes for part in waiting) >= BYTES_PER_FILE
        ):
            self.write()

    def write(self) -> None:
        """Write all rows that wait, each kind to a file of its own."""
        pa = require("pyarrow")
        for kind, parts in self._waiting.items():
            if parts:
                name = f"{time.time_ns() // 1_000_000}-{secrets.token_hex(4)}.parquet"
                self._write_table(f"{self._root}/{kind}/{name}", pa.concat_tables(parts))
                parts.clear()

    def _write_table(self, path: str, table: Any) -> None:
        parquet = require("pyarrow.parquet")
        if self._is_local:
            with atomic_path(path) as temporary:
                parquet.write_table(table, temporary)
        else:  # a store shows an object when it is whole
            parquet.write_table(table, path, filesystem=self._filesystem)

    def _tables(self, columns: list[str]) -> Any:
        parquet = require("pyarrow.parquet")
        for kind in (VALID, INVALID):
            for path in self._files(f"{self._root}/{kind}"):
                try:
                    yield parquet.read_table(path, columns=columns, filesystem=self._filesystem)
                except Exception as error:  # pyarrow raises OSError, ArrowInvalid and more
                    raise ValueError(
                        f"{path} cannot be read: {error}; delete it to judge its images again"
                    ) from error

    def _files(self, folder: str) -> list[str]:
        fs = require("pyarrow.fs")
        listed = self._filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return sorted(
            each.path
            for each in listed
            if each.base_name.endswith(".parquet") and not each.base_name.startswith(".")
        )

    def _check(self, settings: dict[str, Any]) -> None:
        """Write the settings, or compare them with those of an earlier run."""
        fs = require("pyarrow.fs")
        path = f"{self._root}/{RUN}"
        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            listed = self._filesystem.get_file_info(
                fs.FileSelector(self._root, allow_not_found=True)
            )
            if listed:
                raise ValueError(
                    f"{self.path} holds files that are no results ({listed[0].base_name}); choose "
                    "an empty or a new folder"
                )
            for kind in (VALID, INVALID):
                self._filesystem.create_dir(f"{self._root}/{kind}", recursive=True)
            text = to_json({"zoomiqa-restoration-guide": __version__, "settings": settings})
            with self._filesystem.open_output_stream(path) as file:
                file.write(text.encode())
            return
        with self._filesystem.open_input_stream(path) as file:
            earlier = json.loads(file.read())["settings"]
        changed = [
            f"{key}: {earlier.get(key)!r} there, {settings.get(key)!r} now"
            for key in sorted(earlier.keys() | settings.keys())
            if earlier.get(key) != settings.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.path} holds results of other settings ({'; '.join(changed)}); choose "
                "another folder"
            )
