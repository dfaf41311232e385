"""The page as it is served: no other machine is asked, and limits hold."""

import json
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

pytest.importorskip("gradio")

from restoration_guide.app.config import AppConfig
from restoration_guide.app.launch import POLICY, launch_app
from restoration_guide.app.page import build_page
from restoration_guide.cli.main import app
from tests.guide.conftest import NoiseScorer, ScriptedRestorer

CONFIG = AppConfig(restorers=[ScriptedRestorer()], scorers=[NoiseScorer()], max_megabytes=1)


@pytest.fixture(scope="module")
def contacted() -> Iterator[list[str]]:
    """Every host that was looked up or connected to."""
    hosts: list[str] = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def noted_look_up(host, *args, **kwargs):
        hosts.append(str(host))
        return look_up(host, *args, **kwargs)

    def noted_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            hosts.append(str(address[0]))
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", noted_look_up)
        patched.setattr(socket.socket, "connect", noted_connect)
        yield hosts


@pytest.fixture(scope="module")
def address(contacted: list[str]) -> Iterator[str]:
    page = launch_app(CONFIG, block=False)
    yield page.local_url
    page.close()


def fetch(address: str, path: str = ""):
    return urllib.request.urlopen(address + path, timeout=20)


def test_no_other_machine_is_asked(address: str, contacted: list[str]) -> None:
    with fetch(address) as answer:
        assert answer.headers["content-security-policy"] == POLICY
        html = answer.read().decode()
    loaded = re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']([^"']+)""", html)
    assert loaded
    for link in loaded:
        assert not re.match(r"(https?:)?//", link) or link.startswith(address), link
    with fetch(address, "theme.css") as answer:
        style = answer.read().decode()
    assert "http" not in re.sub(r"http://www.w3.org/\S*", "", style)
    with fetch(address, "config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False
    assert contacted and set(contacted) <= {"127.0.0.1", "localhost"}, set(contacted)


def test_functions_of_the_page_are_no_public_interface(address: str) -> None:
    with fetch(address, "gradio_api/info") as answer:
        assert json.load(answer)["named_endpoints"] == {}


def upload(address: str, content: bytes, name: str = "photo.png") -> list[str]:
    boundary = "limit"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    body = f"{head}Content-Type: image/png\r\n\r\n".encode() + content
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        body + f"\r\n--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_files_beyond_the_limit_are_refused(address: str) -> None:
    assert len(upload(address, b"small")) == 1
    with pytest.raises(urllib.error.HTTPError) as caught:
        upload(address, bytes(round(CONFIG.max_megabytes * 1024**2) + 1))
    assert caught.value.code == 413


def test_the_page_computes_one_search_at_a_time() -> None:
    page = build_page(CONFIG)
    slow = [fn for fn in page.fns.values() if fn.concurrency_id == "models"]
    assert len(slow) == 4 and {fn.concurrency_limit for fn in slow} == {1}


def test_whatever_may_fail_is_queued() -> None:
    """Gradio shows the message of an error only where the event went through the queue."""
    may_fail = [fn for fn in build_page(CONFIG).fns.values() if hasattr(fn.fn, "__wrapped__")]
    assert len(may_fail) == 6 and all(fn.queue is not False for fn in may_fail)


def test_without_gradio_the_command_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    ended = CliRunner().invoke(app, ["app"])
    assert ended.exit_code == 1
    assert 'pip install "zoomiqa-restoration-guide[app]"' in ended.stderr


def test_settings_reach_the_page(monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "restoration_guide.app.launch.launch_app",
        lambda config, **where: seen.update(c=config, **where),
    )
    line = ["app", "--restorer", "builtin", "--restorer", "x.pth", "--scorer", "proxy"]
    ended = CliRunner().invoke(app, [*line, "--port", "7999", "--max-megapixels", "2"])
    assert ended.exit_code == 0, ended.output
    assert (seen["host"], seen["port"]) == ("127.0.0.1", 7999)  # this machine alone by default
    assert list(seen["c"].restorers) == ["builtin", "x.pth"] and seen["c"].max_megapixels == 2
