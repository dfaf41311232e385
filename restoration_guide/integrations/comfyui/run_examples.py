"""Run the example workflows in a real ComfyUI server on the CPU, through its HTTP API.

    python -m restoration_guide.integrations.comfyui.run_examples COMFYUI --python PYTHON --out DIR

COMFYUI is ComfyUI's own folder, which is not changed: the server gets a new base folder, into whose
``custom_nodes`` this pack is linked. PYTHON has ComfyUI's requirements and this package installed.
Workflows read ``photo.jpg``, which is the bundled demo photo unless ``--photo`` names another, and
three restorations of it by the bundled restorer, ``candidate_0.png`` to ``candidate_2.png``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from restoration_guide.restorers import load_restorer
from zoomiqa_core.images.sources import read_image, save_image

PACK = Path(__file__).parent
PHOTO = PACK.parents[1] / "demo" / "photo.jpg"
WORKFLOWS = PACK / "example_workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
"""Types of inputs that are typed into a node; all others are linked."""


def to_prompt(workflow: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A saved workflow as the prompt that ComfyUI's API takes.

    >>> nodes = {"Blur": {"input": {"required": {"image": ["IMAGE", {}], "radius": ["INT", {}]}}}}
    >>> blur = {"id": 2, "type": "Blur", "inputs": [{"name": "image", "link": 7}]}
    >>> workflow = {"nodes": [{**blur, "widgets_values": [3]}], "links": [[7, 1, 0, 2, 0, "IMAGE"]]}
    >>> to_prompt(workflow, nodes)
    {'2': {'class_type': 'Blur', 'inputs': {'image': ['1', 0], 'radius': 3}}}

    Args:
        workflow: as ComfyUI's page saves it, without groups, reroutes or converted widgets.
        nodes: what the server answers to ``/object_info``.

    Raises:
        KeyError: the server has no such node.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        declared = nodes[node["type"]]["input"]
        typed = [
            name
            for part in ("required", "optional")
            for name, (kind, *_) in declared.get(part, {}).items()
            if isinstance(kind, list) or kind in WIDGETS
        ]
        inputs = {
            wire["name"]: sources[wire["link"]]
            for wire in node.get("inputs", ())
            if wire.get("link") is not None
        }
        values = dict(zip(typed, node.get("widgets_values", ()), strict=False))
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": {**inputs, **values}}
    return prompt


@contextmanager
def running_server(comfyui: Path, python: str, base: Path) -> Iterator[httpx.Client]:
    """A ComfyUI server on the CPU and a free port, with this pack; a client while it runs.

    Args:
        comfyui: ComfyUI's folder.
        python: interpreter with its requirements and this package.
        base: new folder for its inputs, outputs and custom nodes; its log is ``server.log``.

    Raises:
        RuntimeError: the server ended, or did not answer within five minutes.
    """
    for name in ("input", "output", "custom_nodes"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "zoom_iqa_restoration"
    if not link.exists():
        link.symlink_to(PACK, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base.resolve()), "--disable-api-nodes"]
    database = f"sqlite:///{(base / 'comfyui.db').resolve()}"
    command += ["--database-url", database, "--disable-auto-launch"]
    with (base / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _wait_for(client, server, base / "server.log")
                yield client
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            client.get("/system_stats").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(1)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    raise RuntimeError(f"ComfyUI did not start; the end of {log}:\n{tail}")


def run_prompt(client: httpx.Client, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Queue a prompt, wait, and return the outputs of its nodes by node id.

    Raises:
        RuntimeError: the server refused the prompt, or a node failed; with its message.
    """
    answer = client.post("/prompt", json={"prompt": prompt})
    if answer.is_error:
        raise RuntimeError(f"ComfyUI refused the prompt: {_reasons(answer)}")
    number = answer.json()["prompt_id"]
    while True:
        history = client.get(f"/history/{number}").json().get(number)
        if history:
            break
        time.sleep(0.3)
    if history["status"]["status_str"] != "success":
        failed = [data for kind, data in history["status"]["messages"] if kind == "execution_error"]
        raise RuntimeError(
            "; ".join(f"{each['node_type']} failed: {each['exception_message']}" for each in failed)
        )
    return history["outputs"]


def _reasons(answer: httpx.Response) -> str:
    said = answer.json()
    found = [
        f"{node['class_type']}: {error['message']}: {error['details']}"
        for node in said.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    return "; ".join(found) or json.dumps(said)


def save_outputs(client: httpx.Client, outputs: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the images of a prompt's outputs; returns what came, one line per item."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for node, items in sorted(outputs.items(), key=lambda pair: int(pair[0])):
        for item in items.get("images", ()):
            place = folder / f"{node}_{item['filename']}"
            place.write_bytes(client.get("/view", params=item).raise_for_status().content)
            lines.append(f"node {node}: {place.name}")
        lines += [f"node {node}: {text}" for text in items.get("text", ())]
    return lines


def make_inputs(photo: Path, folder: Path) -> None:
    """The images that the workflows read: the photo and three restorations of it.

    Raises:
        FileExistsError: the folder exists.
    """
    folder.mkdir(parents=True)
    shutil.copy(photo, folder / "photo.jpg")
    image = read_image(photo).pixels[None]
    for candidate in load_restorer("builtin").restore(image, n=3):
        save_image(candidate.image, folder / f"candidate_{candidate.index}.png")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the example workflows in ComfyUI.")
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--python", default=sys.executable, help="has ComfyUI's requirements")
    parser.add_argument("--photo", type=Path, default=PHOTO, help="what the workflows read")
    parser.add_argument("--out", type=Path, default=Path("runs/comfyui"), help="a new folder")
    arguments = parser.parse_args()
    base = arguments.out / "server"
    make_inputs(arguments.photo, base / "input")
    start = time.perf_counter()
    with running_server(arguments.comfyui, arguments.python, base) as client:
        print(f"ComfyUI answers after {time.perf_counter() - start:.1f} s")
        nodes = client.get("/object_info").json()
        for file in sorted(WORKFLOWS.glob("*.json")):
            start = time.perf_counter()
            workflow = json.loads(file.read_text(encoding="utf-8"))
            outputs = run_prompt(client, to_prompt(workflow, nodes))
            print(f"\n{file.stem}: {time.perf_counter() - start:.1f} s")
            print("\n".join(save_outputs(client, outputs, arguments.out / file.stem)), flush=True)


if __name__ == "__main__":
    main()
