"""Export of the proxy to ONNX, for use without PyTorch: any batch size, any image size.

The graph's outputs equal those of :class:`~.model.QualityProxy` to 1e-4. It does not resize: reduce
an image of more than ``proxy.max_pixels`` to that area first (:func:`~.preprocess.fit`). Needs the
extra ``export``.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy
from zoomiqa_core.proxy.preprocess import ALIGNMENT, STRIDE, coverage
from zoomiqa_core.runs.files import atomic_path

INPUT = "images"
"""Name of the graph's input, (B, 3, H, W) float32 in [0, 1]; outputs are those of ProxyOutput."""
OPSET = 18


class ExportableProxy(nn.Module):
    """A :class:`QualityProxy` whose traced graph is valid at every image size.

    Convolutions whose padding depends on the input's size get a constant padding instead. Both are
    the same here, because the image is padded to a multiple of :data:`~.preprocess.ALIGNMENT`.

    >>> proxy = QualityProxy.from_pretrained()
    >>> image = torch.rand(1, 3, 40, 60)
    >>> exported = ProxyOutput(*ExportableProxy(proxy)(image))
    >>> torch.allclose(exported.rating, proxy(image).rating, atol=1e-4)
    True

    Args:
        proxy: copied to the CPU, in evaluation mode.
    """

    def __init__(self, proxy: QualityProxy) -> None:
        super().__init__()
        self.proxy = deepcopy(proxy).cpu().float().eval().requires_grad_(False)
        _pad_by_constants(self.proxy.backbone)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Judge (B, 3, H, W) images; returns the fields of :class:`ProxyOutput` as a tuple."""
        height, width = images.shape[-2], images.shape[-1]
        rows, columns = _padded(height), _padded(width)
        padded = images.index_select(2, rows.clamp(max=height - 1))
        padded = padded.index_select(3, columns.clamp(max=width - 1))
        covered = coverage(height, width, rows[::STRIDE], columns[::STRIDE])
        cells = ((side + STRIDE - 1) // STRIDE for side in (height, width))
        return tuple(self.proxy.judge_padded(padded, covered, *cells)[1])


def export_onnx(proxy: QualityProxy, path: str | Path) -> Path:
    """Write the proxy to one ONNX file that takes any batch and image size.

    ``export_onnx(QualityProxy.from_pretrained(), "proxy.onnx")``; the input's name is
    :data:`INPUT`, the outputs' are the fields of :class:`~.model.ProxyOutput`.

    Args:
        proxy: on any device; it is not changed.
        path: the file; written atomically.

    Returns:
        The path written.

    Raises:
        ModuleNotFoundError: the extra ``export`` is not installed.
    """
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "writing ONNX needs the package onnx: pip install 'zoomiqa-restoration-guide[export]'"
        ) from error
    free = {INPUT: {0: "batch", 2: "height", 3: "width"}, "rating": {0: "batch"}}
    free["rating_std"] = free["rating"]
    free["map"] = free["weight"] = free["map_std"] = {0: "batch", 2: "rows", 3: "columns"}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            ExportableProxy(proxy).eval(),
            (torch.rand(2, 3, 90, 140),),
            str(temporary),
            input_names=[INPUT],
            output_names=list(ProxyOutput._fields),
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,  # traces in seconds; the other exporter takes minutes for free sides
        )
    return Path(path)


def _padded(side: int) -> Tensor:
    """Indices 0, 1, … of the rows or columns of the padded image."""
    count = (side + ALIGNMENT - 1) // ALIGNMENT
    return torch.arange((count + 1 // count) * ALIGNMENT)  # 1 becomes 2: MIN_PADDED_SIDE


def _pad_by_constants(backbone: nn.Module) -> None:
    """Give TensorFlow-style convolutions a constant padding instead of one by the input's size."""
    from timm.layers import Conv2dSame

    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2dSame):
                conv: Any = child
                (kernel, _), (stride, _) = conv.kernel_size, conv.stride
                before = (kernel - stride) // 2  # of a side that the stride divides
                after = kernel - stride - before
                fixed = nn.Conv2d(
                    conv.in_channels,
                    conv.out_channels,
                    (kernel, kernel),
                    (stride, stride),
                    groups=conv.groups,
                    bias=conv.bias is not None,
                )
                fixed.load_state_dict(conv.state_dict())
                padding = nn.ZeroPad2d((before, after, before, after))
                setattr(parent, name, nn.Sequential(padding, fixed))
