"""The exported proxy gives what the proxy gives, at sizes and batches it was not traced with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zoomiqa_core.proxy.export import INPUT, ExportableProxy, export_onnx
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy

SIZES = [(1, 64, 64), (3, 100, 70), (2, 17, 210), (1, 256, 96), (1, 1, 1)]


@pytest.fixture(scope="module")
def proxy() -> QualityProxy:
    """Random weights; every head and the whole-image branch have a say."""
    torch.manual_seed(0)
    proxy = QualityProxy(width=16).requires_grad_(False)
    last: Any = proxy.whole[-1]
    torch.nn.init.normal_(last.weight, std=0.1)
    return proxy


def images(shape: tuple[int, int, int]) -> torch.Tensor:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(height)
    return torch.rand(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("shape", SIZES)
def test_the_exportable_form_equals_the_proxy(proxy, shape):
    batch = images(shape)
    for name, found, wanted in zip(
        ProxyOutput._fields, ExportableProxy(proxy)(batch), proxy(batch), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: n + m)


@pytest.fixture(scope="module")
def session(proxy, tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    before = {name: value.clone() for name, value in proxy.state_dict().items()}
    path = export_onnx(proxy, tmp_path_factory.mktemp("onnx") / "proxy.onnx")
    assert all(torch.equal(before[name], value) for name, value in proxy.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["proxy.onnx"]  # weights inside
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SIZES)
def test_onnx_equals_the_proxy(proxy, session, shape):
    batch = images(shape)
    found = session.run(list(ProxyOutput._fields), {INPUT: batch.numpy()})
    for name, values, wanted in zip(ProxyOutput._fields, found, proxy(batch), strict=True):
        assert values.shape == tuple(wanted.shape), name
        torch.testing.assert_close(
            torch.from_numpy(values), wanted, rtol=0, atol=1e-4, msg=lambda m, n=name: n + m
        )


def test_without_the_extra_it_says_how_to_get_it(proxy, tmp_path: Path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"\[export\]"):
        export_onnx(proxy, tmp_path / "proxy.onnx")


@pytest.mark.slow
def test_compiled_equals_eager(proxy):
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        pytest.skip(f"torch.compile needs a C++ compiler: {error}")
    compiled = torch.compile(proxy)
    for shape in SIZES[:2]:
        batch = images(shape)
        for found, wanted in zip(compiled(batch), proxy(batch), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
