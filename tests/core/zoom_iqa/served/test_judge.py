"""A judge behind a real HTTP server, one that behaves and one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import math
import os
import pickle
import random
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.core.judges import ScriptedBackend, picture
from tests.core.zoom_iqa.served.scripted_server import answer_chat, scripted_reply, sent_images
from tests.core.zoom_iqa.test_shared_judge import judge_in_threads
from zoomiqa_core import load_scorer
from zoomiqa_core.images.sources import to_pil
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, PromptsError
from zoomiqa_core.zoom_iqa.rating_digits import BEGINNING
from zoomiqa_core.zoom_iqa.served import client as server_calls
from zoomiqa_core.zoom_iqa.served.client import wait_before
from zoomiqa_core.zoom_iqa.served.config import ServerConfig
from zoomiqa_core.zoom_iqa.served.judge import ServedVLM, _tls_context, served_scorer

KEY = "sk-test-0123456789"
PATH = "/v1/chat/completions"
Handler = Callable[[Request], Response]


@pytest.fixture(scope="module")
def running_server() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1", threaded=True) as running:
        yield running


@pytest.fixture
def server(running_server: HTTPServer) -> HTTPServer:
    running_server.clear()
    return running_server


@pytest.fixture(autouse=True)
def nothing_is_left_behind(running_server: HTTPServer) -> Iterator[None]:
    """Whatever happens, no thread outlives a call."""
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 5  # the servers' own threads need a moment to end
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def url_of(server: HTTPServer) -> str:
    return server.url_for("/v1")


def answer(request: Request) -> Response:
    return Response(json.dumps(answer_chat(request.get_json())), mimetype="application/json")


def say(text: str) -> Response:
    return Response(json.dumps({"choices": [{"message": {"content": text}}]}))


def record(server: HTTPServer, handler: Handler = answer) -> list[dict]:
    """Serve with the handler; the bodies of the requests, as they come."""
    bodies: list[dict] = []

    def recorded(request: Request) -> Response:
        bodies.append(request.get_json())
        return handler(request)

    server.expect_request(PATH, method="POST").respond_with_handler(recorded)
    return bodies


def in_turn(*responses: Response) -> Handler:
    """One response after the other, the last for good."""
    left = list(responses)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def photos(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 30 + n, 40, generator=generator) for n in range(count)]


def chain(seed: int = 0, **settings) -> Chain:
    return Chain(to_pil(photos(1)[0]), BUILTIN, "How good?", seed=seed, retries=0, **settings)


def judge(url: str, config: JudgeConfig | None = None, **settings) -> ZoomIQA:
    settings = {
        "prompts": BUILTIN,
        "backoff_s": 0.01,
        "expected_ratings": False,
        **settings,
    }
    return served_scorer(url, model="m", config=config, **settings)


def in_place(config: JudgeConfig | None = None) -> ZoomIQA:
    """The judge that the scripted server serves, here."""
    return ZoomIQA(ScriptedBackend(lambda asked: scripted_reply(*asked[:3])), config=config)


def run(url: str, chains: list[Chain], **settings) -> float:
    """Drive chains; the seconds it took."""
    start = time.perf_counter()
    settings = {"backoff_s": 0.01, "expected_ratings": False, **settings}
    ServedVLM(ServerConfig(url, "m", **settings)).run(chains)
    return time.perf_counter() - start


def ends_with(asked: Chain) -> tuple[str | None, str]:
    assert asked.done and asked.request is None
    return asked.rounds[-1].error, asked.rounds[-1].message


@contextlib.contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request, then does what no HTTP library would; its URL."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1 << 16)
            head, _, body = head.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(1 << 16)
            behave(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1]).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


# --- a server that behaves -----------------------------------------------------------------------


@pytest.mark.parametrize("config", [JudgeConfig(), JudgeConfig(samples=3, max_rounds=3, seed=4)])
def test_a_served_judge_finds_what_the_same_judge_finds_in_place(server, config):
    bodies = record(server)
    here = in_place(config)
    there = judge(url_of(server), config, concurrency=4)
    found = there.assess(photos(6), regions="model")
    expected = here.assess(photos(6), regions="model")
    assert [a.to_dict() for a in found] == [a.to_dict() for a in expected]
    assert sum(a.chains.tokens for a in found) > 0 and any(a.chains.retries for a in expected)
    assert {len(list(sent_images(body))) for body in bodies} == {1, 2}
    image, bboxes = photos(1)[0], [(0.0, 0.0, 0.5, 0.5), (0.2, 0.3, 1.0, 1.0)]
    regions = [r.rating for r in there.score_regions(image, bboxes)]
    assert regions == pytest.approx([r.rating for r in here.score_regions(image, bboxes)])
    torch.testing.assert_close(
        there.quality_map(image, (2, 2)), here.quality_map(image, (2, 2)), equal_nan=True
    )


def test_only_images_inside_the_request_are_sent_and_no_key(server, monkeypatch):
    monkeypatch.setenv("ZOOMIQA_API_KEY", KEY)
    bodies = record(server)
    judge(url_of(server), JudgeConfig(samples=4)).assess(photos(2))
    assert len(bodies) >= 8
    for body in bodies:
        parts = [part for message in body["messages"] for part in message["content"]]
        assert {part["type"] for part in parts} == {"text", "image_url"}
        assert all(image.format == "PNG" for image in sent_images(body))
        assert KEY not in json.dumps(body)
    assert {request.headers["Authorization"] for request, _ in server.log} == {f"Bearer {KEY}"}


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("ZOOMIQA_API_KEY", raising=False)
    record(server)
    run(url_of(server), [chain()])
    assert "Authorization" not in server.log[0][0].headers


def test_every_chain_has_a_seed_of_its_own_and_the_same_every_time(server):
    bodies = record(server, lambda request: say(format_answer(3)))
    for _ in range(2):
        judge(url_of(server), JudgeConfig(samples=8)).assess(photos(1)[0])
    seeds = [body["seed"] for body in bodies]
    assert len(set(seeds)) == 8 and sorted(seeds[:8]) == sorted(seeds[8:])
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_image_is_encoded_once_for_all_its_chains_and_a_crop_for_its_own(server, monkeypatch):
    encoded = []
    encode = server_calls.data_url
    monkeypatch.setattr(
        server_calls, "data_url", lambda image: encoded.append(image) or encode(image)
    )
    crop = say(format_answer(2, (0.1, 0.1, 0.6, 0.6)))
    record(server, lambda request: crop)
    image = to_pil(photos(1)[0])
    chains = [Chain(image, BUILTIN, "How good?", seed=seed) for seed in range(5)]
    run(url_of(server), chains)
    assert sum(one is image for one in encoded) == 1 and len(encoded) == 1 + 5


def test_no_more_chains_than_asked_for_are_under_way(server):
    now, most, lock = [0], [0], threading.Lock()

    def slow(request: Request) -> Response:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return say(format_answer(3))

    record(server, slow)
    chains = [chain(seed) for seed in range(12)]
    run(url_of(server), chains, concurrency=3)
    assert most[0] == 3 and all(c.rounds[0].valid for c in chains)


def test_nothing_to_do_asks_nobody():
    assert run("http://127.0.0.1:1/v1", []) < 1


def test_threads_share_a_judge(server):
    record(server)
    found = judge_in_threads(judge(url_of(server)), threads=16, calls=10)
    assert found == (160, 160, 10, 0)


# --- a server that does not ----------------------------------------------------------------------


def body_of_10_mb(request: Request) -> Response:
    return Response(b" " * 10_000_000)


def stream_of_10_mb(request: Request) -> Response:
    return Response(b" " * 100_000 for _ in range(100))


@pytest.mark.parametrize(
    ("handler", "code", "tries"),
    [
        (in_turn(Response("slow down", 429)), "server_busy", 3),
        (in_turn(Response("oh", 500)), "server_error", 3),
        (in_turn(Response("oh", 503)), "server_error", 3),
        (in_turn(Response('{"error": {"message": "no model m"}}', 404)), "server_refused", 1),
        (in_turn(Response("", 307, {"Location": "http://127.0.0.1:1/"})), "server_refused", 1),
        (in_turn(Response("", 204)), "bad_response", 1),
        (in_turn(Response("<html>welcome</html>")), "bad_response", 1),
        (in_turn(Response('{"choices": []}')), "bad_response", 1),
        (in_turn(Response(b"x", headers={"Content-Encoding": "gzip"})), "bad_response", 1),
        (body_of_10_mb, "response_too_large", 1),
        (stream_of_10_mb, "response_too_large", 1),
    ],
)
def test_every_failure_has_its_name_and_its_number_of_tries(server, handler, code, tries):
    bodies = record(server, handler)
    asked = chain()
    assert run(url_of(server), [asked]) < 5
    error, message = ends_with(asked)
    assert (error, len(bodies)) == (code, tries)
    assert message.endswith(f"({tries} tries)" if tries > 1 else "(1 try)")
    assert len({json.dumps(body) for body in bodies}) == 1


def test_a_failed_chain_is_a_failed_assessment_with_the_servers_words(server):
    record(server, in_turn(Response('{"error": {"message": "no model m"}}', 404)))
    failed = judge(url_of(server)).assess(photos(1)[0])
    assert (failed.valid, failed.error) == (False, "server_refused")
    assert "HTTP 404: no model m" in failed.message
    (region,) = judge(url_of(server)).score_regions(photos(1)[0], [(0, 0, 0.5, 0.5)])
    assert region.error == "server_refused"


def test_a_busy_server_is_asked_again_when_it_says(server):
    good = say(format_answer(3))
    bodies = record(server, in_turn(Response("", 429, {"Retry-After": "1"}), good))
    asked = chain()
    assert 1 <= run(url_of(server), [asked]) < 4
    assert asked.rounds[0].rating == 3 and len(bodies) == 2


def test_a_wait_beyond_the_deadline_is_not_begun(server):
    bodies = record(server, in_turn(Response("", 429, {"Retry-After": "3600"})))
    asked = chain()
    assert run(url_of(server), [asked], deadline_s=30) < 5
    assert ends_with(asked)[0] == "server_busy" and len(bodies) == 1


def test_a_server_that_recovers_is_no_failure(server):
    record(server, in_turn(Response("", 500), Response("", 502), say(format_answer(3))))
    asked = chain()
    run(url_of(server), [asked])
    assert asked.rounds[0].valid


def test_a_hang_ends_after_every_try(server):
    released = threading.Event()
    bodies = record(server, lambda request: Response(str(released.wait(20))))
    asked = chain()
    seconds = run(url_of(server), [asked], timeout_s=0.3, tries=2)
    released.set()
    assert 0.6 <= seconds < 4 and len(bodies) == 2
    error, message = ends_with(asked)
    assert error == "timeout" and "within 0.3 s" in message and "(2 tries)" in message


def test_a_body_that_drips_is_as_late_as_none():
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)

    with raw_server(drip) as url:
        asked = chain()
        assert run(url, [asked], timeout_s=0.4, tries=1) < 3
    assert ends_with(asked)[0] == "timeout"


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
            "bad_response",
            "broke off after 1 byte",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "bad_response",
            "broke off",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 30, "connection", "cannot reach"),
        (b"", "connection", "cannot reach"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "connection", "cannot reach"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 18 + b"\r\n\r\n",
            "response_too_large",
            "",
        ),
        (
            b"HTTP/1.1 400 No\r\nContent-Length: 99\r\n\r\nhalf an error",
            "server_refused",
            "half an",
        ),
    ],
)
def test_a_reply_that_breaks_off_is_named(sent, code, says):
    with raw_server(lambda connection: connection.sendall(sent)) as url:
        asked = chain()
        assert run(url, [asked]) < 5
    error, message = ends_with(asked)
    assert error == code and says in message


def test_no_server_is_named_with_its_address():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    asked = chain()
    assert run(url, [asked]) < 5
    error, message = ends_with(asked)
    assert error == "connection" and url in message and "is the server running?" in message


def test_a_host_that_cannot_be_looked_up_is_no_server():
    asked = chain()
    assert run("http://judge.invalid:8000/v1", [asked]) < 5
    assert ends_with(asked)[0] == "connection"


def test_when_the_deadline_passes_finished_chains_keep_their_results(server):
    released = threading.Event()
    chains = [chain(seed) for seed in range(6)]
    quick = {c.request.seed % 2**31 for c in chains[:3] if c.request}

    def some_hang(request: Request) -> Response:
        if request.get_json()["seed"] not in quick:
            released.wait(20)
        return say(format_answer(3))

    record(server, some_hang)
    seconds = run(url_of(server), chains, concurrency=4, deadline_s=1.0)
    released.set()
    assert 1 <= seconds < 4
    assert [c.rounds[0].error for c in chains] == [None] * 3 + ["timeout"] * 3
    assert "deadline of 1 s" in ends_with(chains[-1])[1]  # it never had its turn, or hung


def test_one_failing_chain_spoils_no_other(server):
    chains = [chain(seed) for seed in range(5)]
    assert chains[2].request is not None
    bad = chains[2].request.seed % 2**31

    def one_fails(request: Request) -> Response:
        refused = request.get_json()["seed"] == bad
        return Response("", 400) if refused else say(format_answer(3))

    record(server, one_fails)
    run(url_of(server), chains)
    assert [c.rounds[0].error for c in chains] == [None, None, "server_refused", None, None]


def test_a_server_that_fails_in_round_2_leaves_the_rating_of_round_1(server):
    crop = say(format_answer(2, (0.1, 0.1, 0.6, 0.6)))
    record(server, in_turn(crop, Response("", 400)))
    found = judge(url_of(server)).assess(photos(1)[0])
    assert (found.rating, found.chains.fallback, found.valid) == (2, "round_1", True)
    assert [look.error for look in found.chains.rounds] == [None, "server_refused"]


def test_replies_are_parsed_like_any_others(server):
    record(server, in_turn(say("<script>no answer</script>")))
    found = judge(url_of(server), JudgeConfig(retries=1)).assess(photos(1)[0])
    assert (found.error, found.chains.retries) == ("missing_answer", 1)


# --- keys, proxies, settings ---------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_its_header(server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    record(server, lambda request: Response(f"no: {request.authorization!s}", 401))
    there = judge(url_of(server), api_key_env="MY_KEY")
    failed = there.assess(photos(1)[0])
    assert failed.error == "server_refused" and "no: Bearer [key]" in failed.message
    backend = there.backend
    assert isinstance(backend, ServedVLM)
    shown = [repr(backend), repr(backend.config), repr(vars(backend)), json.dumps(failed.to_dict())]
    assert "httpx" in {entry.name for entry in caplog.records}
    assert KEY not in "".join([*shown, caplog.text])


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "nul\x01"])
def test_a_key_that_cannot_be_one_is_refused_unseen(monkeypatch, key):
    monkeypatch.setenv("ZOOMIQA_API_KEY", key)
    with pytest.raises(ValueError, match="key in ZOOMIQA_API_KEY must be one word") as caught:
        run("http://127.0.0.1:1/v1", [chain()])
    assert key not in str(caught.value)


def test_proxies_are_used_on_request_only(server, monkeypatch):
    record(server, lambda request: say(format_answer(3)))
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    direct, through = chain(), chain()
    run(url_of(server), [direct])
    run(url_of(server), [through], use_proxy=True, tries=1)
    assert direct.rounds[0].valid and ends_with(through)[0] == "connection"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_url": "file:///etc/passwd"}, "got scheme 'file'"),
        ({"base_url": "127.0.0.1:8000/v1"}, "expected"),
        ({"base_url": "http:///v1"}, "host ''"),
        ({"base_url": "http://[::1/v1"}, "no URL"),
        ({"base_url": "http://me:hunter2@host/v1"}, "no user, password"),
        ({"base_url": "http://host/v1?key=hunter2"}, "query"),
        ({"base_url": "http://host/v1/chat/completions"}, "ends with /v1"),
        ({"model": ""}, "served-model-name"),
        ({"api_key_env": "sk-hunter2"}, "name an environment variable"),
        ({"concurrency": 0}, "concurrency"),
        ({"tries": 0}, "tries"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"deadline_s": float("inf")}, "finite"),
        ({"timeout_s": float("nan")}, "finite"),
        ({"backoff_s": -1}, "backoff_s"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"restart_s": -1}, "restart_s"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        ServerConfig(**{"base_url": "http://127.0.0.1:8000/v1", "model": "m", **settings})
    assert "hunter2" not in str(caught.value)


def test_certificates_are_verified():
    tls = _tls_context(None, None)
    assert tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname


def test_the_released_prompts_are_asked_for_unless_others_are_given():
    with pytest.raises(PromptsError, match="the prompts it was trained on"):
        served_scorer("http://127.0.0.1:1/v1", model="m")
    others = served_scorer("http://127.0.0.1:1/v1", model="m", prompts="builtin")
    assert others.prompts is BUILTIN and others.name == "http://127.0.0.1:1/v1"


def test_a_trailing_slash_is_no_other_server():
    urls = {ServerConfig(f"https://host/v1{end}", "m").chat_url for end in ("", "/")}
    assert urls == {"https://host/v1/chat/completions"}


@pytest.mark.parametrize("strips_the_space", [False, True])
def test_the_expected_rating_is_read_from_log_probabilities(server, strips_the_space):
    """3 with .6 and 4 with .2, of which the decimal is 5 after 3, 0 or 1 after 4."""
    digits = {BEGINNING: {"3": 0.6, "4": 0.2, "I": 0.1}}
    digits |= {f"{BEGINNING}3.": {"5": 0.9}, f"{BEGINNING}4.": {"0": 0.3, "1": 0.3}}

    def answer_digits(request: Request) -> Response:
        *_, begun = request.get_json()["messages"]
        text = begun["content"][0]["text"]
        tops = [{"token": t, "logprob": math.log(p)} for t, p in digits[text].items()]
        positions = [{"token": tops[0]["token"], "top_logprobs": tops}]
        if strips_the_space and text == BEGINNING:
            positions.insert(0, {"token": " ", "top_logprobs": [{"token": " ", "logprob": 0}]})
        return Response(json.dumps({"choices": [{"logprobs": {"content": positions}}]}))

    bodies = record(server, answer_digits)
    (said,) = judge(url_of(server)).assess([photos(1)[0]], mode="expected")
    # 3.545 with probability .75, 4.045 and 4.145 with .125 each
    assert said.rating == pytest.approx(0.75 * 3.545 + 0.125 * 4.045 + 0.125 * 4.145)
    assert said.chains.distribution == pytest.approx((0, 0, 0.75, 0.25, 0))
    assert said.chains.digit_mass == pytest.approx(0.8)
    assert len(bodies) == 3  # none about digits that are impossible
    assert all(b["continue_final_message"] and b["logprobs"] for b in bodies)


def test_a_server_without_log_probabilities_is_named(server):
    record(server, lambda request: say("3"))
    said = judge(url_of(server)).assess(photos(1)[0], mode="expected")
    assert said.error == "bad_response" and "needs log-probabilities" in said.message


def test_images_are_reduced_to_what_the_server_uses(server):
    asked = Chain(picture(800, 600), BUILTIN, "?", seed=0, retries=0)
    crop = format_answer(2, (0.2, 0.2, 0.8, 0.8))
    bodies = record(server, in_turn(say(crop), say(format_answer(3))))
    run(url_of(server), [asked], max_pixels=12_000)
    assert [image.size for body in bodies for image in sent_images(body)] == [(126, 94)] * 3
    assert asked.image.size == (800, 600)
    mean = np.asarray(next(sent_images(bodies[0]))).mean((0, 1))
    assert mean == pytest.approx(np.asarray(asked.image).mean((0, 1)), abs=1)


# --- a server that goes away ---------------------------------------------------------------------


def test_a_server_that_has_answered_is_waited_for(server, caplog):
    good, away = say(format_answer(3)), Response("loading", 503)
    bodies = record(server, in_turn(good, *[away] * 7, good))
    scorer = judge(url_of(server))
    assert [scorer.assess(photos(1)[0]).rating for _ in range(2)] == [3, 3]
    assert len(bodies) == 9
    assert [r.message for r in caplog.records if "waiting up to 300 s" in r.message] == [
        "HTTP 503: loading; waiting up to 300 s for the server"
    ]


def test_a_server_that_never_answered_or_stays_away_is_given_up(server):
    bodies = record(server, in_turn(Response("", 503)))
    said = judge(url_of(server)).assess(photos(1)[0])
    assert said.error == "server_error" and "(3 tries)" in said.message and len(bodies) == 3
    server.clear()
    record(server, in_turn(say(format_answer(3)), Response("", 503)))
    scorer = judge(url_of(server), restart_s=0.3)
    start = time.perf_counter()
    assert [said.error for said in map(scorer.assess, photos(2))] == [None, "server_error"]
    assert time.perf_counter() - start < 5


def test_a_server_that_is_stopped_and_started_again_costs_no_image():
    with HTTPServer(host="127.0.0.1", threaded=True) as first:
        record(first)
        port, scorer = first.port, judge(url_of(first), backoff_s=0.05)
        before = scorer.assess(photos(1)[0])
    again = HTTPServer(host="127.0.0.1", port=port, threaded=True)
    record(again)
    starting = threading.Timer(0.8, again.start)
    starting.start()
    try:
        assert scorer.assess(photos(1)[0]).to_dict() == before.to_dict()
    finally:
        starting.join()
        again.stop()


def test_a_judge_on_a_server_is_pickled_and_copied(server):
    record(server)
    scorer = judge(url_of(server))
    rating = scorer.assess(photos(1)[0]).rating
    for copied in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert copied.assess(photos(1)[0]).rating == rating


def test_a_server_without_a_models_name_is_refused_with_the_fix():
    with pytest.raises(TypeError, match=r"give the name of one, model=… \(--model"):
        load_scorer("http://127.0.0.1:1/v1")


def test_waits_double_up_to_a_limit_and_never_undercut_the_server():
    chance = random.Random(0)
    for number, longest in [(2, 0.5), (3, 1), (4, 2), (7, 8), (2000, 8)]:
        waits = [wait_before(number, 0.5, chance) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert wait_before(2, 0.5, chance, 30) == 30
    assert wait_before(3, 0, chance) == 0


# --- loops and interrupts ------------------------------------------------------------------------


def test_it_runs_inside_a_running_loop(server):
    record(server)
    here = in_place().assess(photos(1)[0])

    async def notebook() -> dict:
        return judge(url_of(server)).assess(photos(1)[0]).to_dict()

    assert asyncio.run(notebook()) == here.to_dict()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_an_interrupt_ends_the_call_at_once(server, inside_a_loop):
    released, asked = threading.Event(), chain()

    def interrupt(request: Request) -> Response:
        os.kill(os.getpid(), signal.SIGINT)
        return Response(str(released.wait(20)))

    record(server, interrupt)
    start = time.perf_counter()

    async def notebook() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is in a notebook
        run(url_of(server), [asked])

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(notebook()) if inside_a_loop else run(url_of(server), [asked])
    assert time.perf_counter() - start < 5 and not asked.done
    released.set()


def test_an_error_of_the_program_is_not_hidden(server, monkeypatch):
    def broken(self: Chain, text: str, *_: object) -> None:
        raise ModuleNotFoundError("json-repair")

    monkeypatch.setattr(Chain, "read", broken)
    record(server)

    async def beside() -> None:
        run(url_of(server), [chain(), chain()])

    with pytest.raises(ModuleNotFoundError, match="json-repair"):
        run(url_of(server), [chain(), chain()])
    with pytest.raises(ModuleNotFoundError, match="json-repair"):
        asyncio.run(beside())


def with_digits(request: Request) -> Response:
    """A server that replies 3.56 and whose next digit is 3 or 4; then any decimal below 5."""
    body = request.get_json()
    if not body.get("logprobs"):
        return say("Sharp.</think>" + format_answer(3.56))
    begun = body["messages"][-1]["content"][0]["text"]
    assert begun.startswith("Sharp.</think>") and body["continue_final_message"]
    likely = {"3": 0.75, "4": 0.25} if begun.endswith(" ") else dict.fromkeys("01234", 0.2)
    tops = [{"token": token, "logprob": math.log(p)} for token, p in likely.items()]
    logprobs = {"content": [{"token": tops[0]["token"], "top_logprobs": tops}]}
    return Response(json.dumps({"choices": [{"logprobs": logprobs}]}))


def test_a_rating_is_the_mean_over_the_servers_digits(server):
    """3.56 is written; by hand 0.75 · 3.245 + 0.25 · 4.245, the mean decimals being .2 and .045."""
    bodies = record(server, with_digits)
    said = judge(url_of(server), expected_ratings=True).assess(photos(1)[0])
    assert said.rating == pytest.approx(3.495) and said.chains is not None
    assert said.chains.rounds[0].sampled == 3.56
    assert len(bodies) == 4 and bodies[0]["temperature"] == 0  # the reply, 3 or 4, their decimals


def test_a_server_without_probabilities_is_asked_once_and_the_written_rating_counts(server):
    def refusing(request: Request) -> Response:
        if request.get_json().get("logprobs"):
            return Response("no such field", status=400)
        return say("Sharp.</think>" + format_answer(3.56))

    bodies = record(server, refusing)
    settings = {"config": JudgeConfig(samples=3), "concurrency": 1}
    said = judge(url_of(server), expected_ratings=True, **settings).assess(photos(1)[0])
    assert said.rating == 3.56 and said.chains is not None
    assert said.chains.rounds[0].sampled is None
    assert sum("logprobs" in body for body in bodies) == 1 and len(bodies) == 4
    assert [body["temperature"] for body in bodies if "logprobs" not in body] == [1.0] * 3
