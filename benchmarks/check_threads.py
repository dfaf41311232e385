"""Threads that share one judge get what a single thread gets.

    python -m benchmarks.check_threads --backend served   # over HTTP, scripted replies
    python -m benchmarks.check_threads --backend tiny     # a tiny model in this process

Judges ``--calls`` different images and seeds one after the other, then has ``--threads`` threads
judge all of them at once on the same judge, each in an order of its own, and compares every result:
over HTTP the whole assessment, of the tiny model the raw replies. Exit code 1 when one differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import torch

from benchmarks.scripted_server import answer_chat
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.served.judge import served_scorer

Kind = Literal["served", "tiny"]
IMAGES = 10
SIDE = 64


def check(judge: ZoomIQA, threads: int, calls: int, seed: int = 0) -> dict[str, Any]:
    """Counts and seconds of judging serially and in threads."""
    generator = torch.Generator().manual_seed(seed)
    photos = [torch.rand(3, SIDE, SIDE, generator=generator) for _ in range(min(IMAGES, calls))]

    def call(number: int) -> Any:
        draws = torch.Generator().manual_seed(seed + number)
        return _comparable(judge.assess(photos[number % len(photos)], generator=draws))

    def all_calls(thread: int) -> list[bool]:
        order = random.Random(f"{seed}/{thread}").sample(range(calls), calls)
        return [call(number) == serial[number] for number in order]

    before = threading.active_count()
    start = time.perf_counter()
    serial = [call(number) for number in range(calls)]
    middle = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        equal = [same for part in pool.map(all_calls, range(threads)) for same in part]
    end = time.perf_counter()
    return {
        "calls": len(equal),
        "equal": sum(equal),
        "different_results": len(set(serial)),
        "serial_s": round(middle - start, 2),
        "threads_s": round(end - middle, 2),
        "threads_left": _threads_beyond(before),
    }


@contextmanager
def open_judge(kind: Kind) -> Iterator[ZoomIQA]:
    """A judge; the server of a served one runs meanwhile."""
    if kind == "tiny":
        yield _tiny_judge()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            config = JudgeConfig(samples=2)
            url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            yield served_scorer(url, model="scripted", prompts="builtin", config=config)
        finally:
            server.shutdown()


def _tiny_judge() -> ZoomIQA:
    from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
    from zoomiqa_core.zoom_iqa.local.decoding import Sampling
    from zoomiqa_core.zoom_iqa.local.model import LocalVLM

    model, processor = build_tiny_vlm()
    backend = LocalVLM(model, processor, sampling=Sampling(max_new_tokens=8))
    return ZoomIQA(backend, config=JudgeConfig(retries=0))


def _comparable(assessment: Assessment) -> str:
    """Everything that was found, as text (in which NaN equals NaN); the name is the same for all.

    An untrained model's replies hold no answer; then their text is what is compared.
    """
    return json.dumps(assessment.to_dict(), sort_keys=True)


def _threads_beyond(before: int, patience_s: float = 5.0) -> int:
    """Threads that are left; those of the server's connections take a moment to end."""
    until = time.perf_counter() + patience_s
    while threading.active_count() > before and time.perf_counter() < until:
        time.sleep(0.01)
    return threading.active_count() - before


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept open, as vLLM keeps them
    wbufsize = 65536  # head and body in one packet

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(answer_chat(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["served", "tiny"], default="served")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=250, help="of each thread")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with open_judge(options.backend) as judge:
        found = check(judge, options.threads, options.calls, options.seed)
    print(f"{options.backend}: {options.threads} threads x {options.calls} calls")
    print(json.dumps(found))
    return 0 if found["equal"] == found["calls"] else 1


if __name__ == "__main__":
    sys.exit(main())
