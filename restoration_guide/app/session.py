"""What belongs to one visitor: the last search, what is shown of it, and files to download."""

from __future__ import annotations

import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restoration_guide.app.words import PageError
from restoration_guide.report.page import picture_of
from restoration_guide.report.write import write_report

if TYPE_CHECKING:
    from restoration_guide.search.selection import Index, Selection


class Session:
    """One visitor's search; never shared.

    >>> Session().searched()
    Traceback (most recent call last):
    restoration_guide.app.words.PageError: Restore a photo first.
    """

    def __init__(self) -> None:
        self.selection: Selection | None = None
        self.shown: Index = "input"
        self.stop = threading.Event()
        """Ends the running search early."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __deepcopy__(self, memo: Any) -> Session:
        """A new session: gradio copies the initial value for each visitor."""
        return Session()

    def searched(self) -> Selection:
        """The last search.

        Raises:
            PageError: there is none.
        """
        if self.selection is None:
            raise PageError("Restore a photo first.")
        return self.selection

    def gallery(self) -> list[Index]:
        """Indices of the images that can be shown, the input first."""
        selection = self.searched()
        return [row.index for row in selection.rows if picture_of(selection, row) is not None]

    def chosen(self) -> Selection:
        """The last search with what is shown as its choice; the reason says who chose."""
        selection = self.searched()
        if self.shown == selection.choice:
            return selection
        return replace(
            selection,
            choice=self.shown,
            reason=f"chosen by hand; the search's choice was {selection.choice}: "
            f"{selection.reason}",
        )

    def save_picture(self) -> Path:
        """The shown image as a PNG with the photo's EXIF and alpha."""
        selection = self.chosen()
        return selection.save(self._new_folder() / f"{self._stem()}_restored.png")

    def save_report(self) -> Path:
        """The report folder of the shown image, zipped."""
        selection, folder = self.chosen(), self._new_folder()
        name = f"{self._stem()}_report"
        write_report(selection, folder / name)
        return Path(shutil.make_archive(str(folder / name), "zip", folder, name))

    def save_copy(self, path: Path) -> Path:
        """A copy of a file, which the visitor may change or delete."""
        return Path(shutil.copy(path, self._new_folder()))

    def _stem(self) -> str:
        return Path(self.searched().name).stem or "photo"

    def _new_folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="restoration-guide-")
        return Path(tempfile.mkdtemp(dir=self._folder.name))
