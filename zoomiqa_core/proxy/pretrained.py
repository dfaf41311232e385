"""Loading of this project's models: strict, from safetensors alone, bundled by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_model
from torch import nn


class PretrainedModel(nn.Module, PyTorchModelHubMixin):
    """A module whose ``save_pretrained`` folder, hub id or bundled weights load it again.

    The mixin's own loading prints on the standard output, forgives missing weights, and falls back
    on pickled ones; this one does none of the three.
    """

    bundled: ClassVar[Path]
    """Folder of the weights that come with the package."""

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **kwargs: Any) -> Self:
        """Load from a folder or hub id; without one, the bundled weights.

        Raises:
            FileNotFoundError: the folder does not exist or holds no weights.
        """
        path = cls.bundled if path is None else Path(path).expanduser()
        named_folder = path.is_absolute() or path.is_dir() or len(path.parts) != 2
        if named_folder and not (path / SAFETENSORS_SINGLE_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no {SAFETENSORS_SINGLE_FILE}; give a folder written by "
                f"{cls.__name__}.save_pretrained, a hub id OWNER/NAME, or nothing for the bundled "
                "weights (reinstall the package if those are missing)"
            )
        return super().from_pretrained(str(path), **kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **settings: Any,
    ) -> Self:
        model = cls(**settings)
        if Path(model_id).is_dir():
            file = str(Path(model_id, SAFETENSORS_SINGLE_FILE))
        else:
            file = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        load_model(model, file, strict=True, device=map_location)
        return model.eval()
