"""The nodes behind a stand-in of ComfyUI's interface, and behind the real one where it is.

``PYTHONPATH=COMFYUI`` and an interpreter with ComfyUI's requirements run both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import restoration_guide.integrations.comfyui as package
from restoration_guide import NoCandidateError, QualityGate, pick_best
from restoration_guide.integrations.comfyui import judges
from restoration_guide.integrations.comfyui.judging import gate_images, map_quality, prompts_of
from restoration_guide.integrations.comfyui.pictures import Picture, read_batches
from restoration_guide.integrations.comfyui.run_examples import WIDGETS, WORKFLOWS, to_prompt
from tests.guide.integrations.comfyui import stand_in
from zoomiqa_core.assessment import Assessment

FOLDER = Path(package.__file__).parent
FILES = sorted(WORKFLOWS.glob("*.json"))
OURS = ("RateImages", "QualityMap", "PickBest", "QualityGate", "JudgePrompts")
BUILT_IN = {  # inputs and outputs of ComfyUI's own nodes in the workflows
    "LoadImage": ({"image": "COMBO"}, ["IMAGE", "MASK"]),
    "ImageBlur": ({"image": "IMAGE", "blur_radius": "INT", "sigma": "FLOAT"}, ["IMAGE"]),
    "ImageBatch": ({"image1": "IMAGE", "image2": "IMAGE"}, ["IMAGE"]),
    "EmptyImage": (dict.fromkeys(("width", "height", "batch_size", "color"), "INT"), ["IMAGE"]),
    "MaskToImage": ({"mask": "MASK"}, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, []),
    "PreviewAny": ({"source": "*"}, []),
}


@pytest.fixture(params=["stand_in", "comfyui"])
def nodes(request, monkeypatch, tmp_path) -> Iterator[dict[str, Any]]:
    """The nodes by id, loaded from the folder as ComfyUI loads it."""
    if request.param == "stand_in":
        for name in [each for each in sys.modules if each.split(".")[0] in ("comfy", "comfy_api")]:
            monkeypatch.delitem(sys.modules, name)
        for name, module in stand_in.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    else:
        options: Any = pytest.importorskip("comfy.cli_args", reason="ComfyUI is not on the path")
        options.args.cpu = True
        import folder_paths  # pyright: ignore[reportMissingImports]

        monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
        (tmp_path / "temp").mkdir()
    name = f"custom_nodes/zoom_iqa_{request.param}"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    async def listed() -> list[Any]:
        return await (await module.comfy_entrypoint()).get_node_list()

    found = {node.GET_SCHEMA().node_id: node for node in asyncio.run(listed())}
    yield found
    for loaded in [each for each in sys.modules if each.startswith(f"{name}.")]:
        del sys.modules[loaded]


def photo_batch(*images: torch.Tensor) -> torch.Tensor:
    return torch.stack([image.movedim(0, -1) for image in images])


def inputs_of(node: Any, batch: torch.Tensor) -> dict[str, Any]:
    """Defaults, and the batch for every image that is needed."""
    schema = node.GET_SCHEMA()
    found = {
        each.id: batch if each.io_type == "IMAGE" else each.default
        for each in schema.inputs
        if not each.optional
    }
    return {key: [value] for key, value in found.items()} if schema.is_input_list else found


def test_the_five_nodes_have_prefixed_ids(nodes) -> None:
    assert [*nodes] == [f"ZoomIQA_{name}" for name in OURS]
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert schema.display_name and schema.description and "Zoom-IQA" in schema.category


def test_execute_takes_what_the_schema_declares(nodes) -> None:
    for node in nodes.values():
        parameters = inspect.signature(node.execute).parameters
        declared = {each.id: each for each in node.GET_SCHEMA().inputs}
        assert {*parameters} == {*declared}
        for name, parameter in parameters.items():
            assert (parameter.default is not parameter.empty) == declared[name].optional, name


def test_execute_returns_what_the_schema_declares(nodes, photo, stubs, monkeypatch) -> None:
    _install(monkeypatch, nodes, stubs.Scorer())
    kinds = {"FLOAT": float, "INT": int, "STRING": str, "BOOLEAN": bool}
    for node in nodes.values():
        answer = node.execute(**inputs_of(node, photo_batch(photo)))
        outputs = node.GET_SCHEMA().outputs
        assert len(answer.args) == len(outputs)
        for value, output in zip(answer.args, outputs, strict=True):
            assert isinstance(value, list) == output.is_output_list
            for each in value if output.is_output_list else [value]:
                if output.io_type in kinds:
                    assert type(each) is kinds[output.io_type], (node, output.id)
                else:
                    end = (3,) if output.io_type == "IMAGE" else ()
                    assert each.shape == (1, *photo.shape[1:], *end) and each.dtype == torch.float32
        assert answer.ui["text"][0] == answer.args[-1]  # the report


def test_one_broken_image_is_named_and_the_others_are_rated(nodes, photo) -> None:
    node = nodes["ZoomIQA_RateImages"]
    broken = torch.full_like(photo, torch.nan)
    ratings, mean, report = node.execute(photo_batch(photo, broken, photo), "proxy").args
    (alone,) = node.execute(photo_batch(photo), "proxy").args[0]
    assert ratings[0] == ratings[2] == mean == alone and math.isnan(ratings[1])
    head, _, line, _ = report.splitlines()
    assert head == "2 of 3 judged by proxy; 1 failed (not_finite)" and "image 1: not_fini" in line


def test_the_pick_is_that_of_pick_best(nodes, photo, stubs, monkeypatch) -> None:
    node = nodes["ZoomIQA_PickBest"]
    _install(monkeypatch, nodes, stubs.Scorer())
    good = stubs.smooth(photo, torch.Generator())
    images = [photo * 0, good, photo, photo * torch.nan]
    answer = node.execute([photo_batch(*images)], ["proxy"], [""], [photo_batch(photo)])
    best, index, report = answer.args
    expected = pick_best(photo, images, stubs.Scorer())
    assert index == expected.choice == 1 and torch.equal(best[0].movedim(-1, 0), good)
    assert report.splitlines()[0] == expected.reason
    assert "candidate 0: constant" in report and "candidate 3: not_finite" in report
    kept = node.execute([photo_batch(images[0])], ["proxy"], None, [photo_batch(photo)])
    assert kept.args[1] == -1 and torch.equal(kept.args[0], photo_batch(photo))


def test_pick_without_an_input_and_of_several_sizes(nodes, photo, stubs, monkeypatch) -> None:
    node = nodes["ZoomIQA_PickBest"]
    asked = _install(monkeypatch, nodes, stubs.Scorer())
    good = stubs.smooth(photo, torch.Generator())
    batches = [photo_batch(photo), photo_batch(good[:, :32]), photo_batch(photo * torch.nan)]
    best, index, report = node.execute(batches, ["auto"]).args
    assert index == 1 and best.shape == (1, 32, 80, 3) and asked == ["proxy"]
    assert [line.split(":")[0] for line in report.splitlines()[1:]] == [
        "candidate 0", "candidate 1", "candidate 2",
    ]  # fmt: skip
    assert "candidate 2: not_finite" in report
    report = node.execute(batches, ["auto"], None, [photo_batch(photo)]).args[2]
    assert asked == ["proxy", "restoration"] and "candidate 1: wrong_size" in report
    with pytest.raises(NoCandidateError, match="not_finite"):
        node.execute(batches[2:], ["auto"])
    with pytest.raises(ValueError, match="one input image that all were restored from, got 2"):
        node.execute(batches, ["auto"], None, [photo_batch(photo, photo)])


def test_gate_keeps_the_result_or_its_input(nodes, photo, stubs, monkeypatch) -> None:
    node = nodes["ZoomIQA_QualityGate"]
    _install(monkeypatch, nodes, stubs.Scorer())
    good = stubs.smooth(photo, torch.Generator())
    before, after = photo_batch(photo), photo_batch(good, photo * 0)
    passed, rating, accepted, kept, report = node.execute(before, after, "proxy", 3.0, 0.1).args
    assert not passed and math.isnan(rating) and accepted == [True, False]
    assert torch.equal(kept[0], after[:1]) and torch.equal(kept[1], before)
    assert report.splitlines()[0] == "1 of 2 accepted (1 accept, 1 retry)"
    passed, rating, *_ = node.execute(before, after[:1], "proxy", 3.0, 0.1).args
    assert (
        passed and rating == QualityGate(stubs.Scorer(), 3.0)(photo, good).ratings[0].after.rating
    )


def test_unknown_judges_are_refused_before_anything_runs(nodes) -> None:
    for node in nodes.values():
        listed = node.GET_SCHEMA().is_input_list
        for judge, other, expected in [
            ("proxy", "", True),
            ("proxy", "./nowhere", "no judge is called './nowhere'"),
            ("proxi", "", "no judge is called 'proxi'"),
            ("proxi", "Ethanliang99/Zoom-IQA-7B", True),
            (None, None, True),  # both are linked
        ]:
            pair = ([judge], [other]) if listed else (judge, other)
            found = node.validate_inputs(*pair)
            assert found is True if expected is True else found.startswith(expected)


def test_a_changed_judge_s_folder_runs_the_node_again(nodes, tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for node in nodes.values():
        given = {"judge": "proxy", "other_judge": str(tmp_path)}
        if node.GET_SCHEMA().is_input_list:
            given = {key: [value] for key, value in given.items()}
        before = node.fingerprint_inputs(**given)
        assert before == node.fingerprint_inputs(**given, images=None)
        (tmp_path / node.__name__).write_text("{}")
        assert before != node.fingerprint_inputs(**given)


def _install(monkeypatch, nodes, scorer) -> list[str]:
    """Every judge is ``scorer``; returns the names that are asked for."""
    asked: list[str] = []

    def load(name: str, device: str) -> Any:
        asked.append(name)
        return scorer

    module = sys.modules[next(iter(nodes.values())).__module__]
    monkeypatch.setattr(module, "load_judge", load)
    return asked


def test_a_mask_is_the_distance_from_excellent(photo, stubs) -> None:
    class Half(stubs.Scorer):
        def quality_map(self, image):
            return torch.tensor([[[1.0, 1.0], [4.0, 4.0]]])

    broken = Picture(torch.full_like(photo, torch.nan))
    mapped = map_quality(Half(), [Picture(photo), broken])
    mask, unknown = mapped.low_quality
    assert torch.equal(mask[0], torch.ones(80))  # rating 1
    assert torch.allclose(mask[-1], torch.full((80,), 0.25))  # (5 − 4) / 4
    assert not unknown.any() and mapped.overlays[1] is broken.pixels
    assert "1 of 2 judged" in mapped.report


def test_a_judge_that_fails_on_a_map_is_named(photo, stubs) -> None:
    class Mapless(stubs.Scorer):
        def quality_map(self, image):
            raise NotImplementedError("no maps")

    mapped = map_quality(Mapless(), [Picture(photo)])
    assert mapped.report.splitlines()[1] == "image 0: map_error: NotImplementedError: no maps"


def test_words_become_one_pair_of_prompts_per_image(photo) -> None:
    class Writer:
        name = "writer"

        def assess(self, images):
            said = Assessment(2.0, 0.1, directions=("Crisp petals.",), issues=("Soft edges.",))
            return [said, Assessment.failed("missing_answer", "empty")]

    written = prompts_of(Writer(), [Picture(photo)] * 2, "a rose", "text")  # type: ignore[arg-type]
    assert written.positive == ["a rose, Crisp petals", "a rose"]
    assert written.negative == ["text, Soft edges", "text"]
    assert written.report.splitlines()[0] == "1 of 2 judged by writer; 1 failed (missing_answer)"


def test_images_are_read_as_comfyui_saves_them() -> None:
    red = torch.tensor([1.0, 0, 0, 0.25]).expand(1, 2, 2, 4)
    (seen,) = read_batches(red)
    assert torch.allclose(seen.pixels[:, 0, 0], torch.tensor([1.0, 0.75, 0.75]))  # over white
    assert seen.notes == ("alpha composited over white",)
    (grey,) = read_batches(torch.full((1, 2, 2, 1), 0.5))
    assert grey.pixels.shape == (3, 2, 2) and not grey.notes
    (over,) = read_batches(torch.tensor([[-0.5, 0.5, 1.5]]).expand(1, 2, 1, 3))
    assert over.pixels[:, 0, 0].tolist() == [0, 0.5, 1]
    assert over.notes == ("clipped to [0, 1], from -0.5 to 1.5",)
    with pytest.raises(ValueError, match=r"channels, got \(2, 2, 3\)"):
        read_batches(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="the batch is empty"):
        read_batches(torch.zeros(0, 2, 2, 3))


def test_gating_needs_one_input_or_one_per_result(photo, stubs) -> None:
    with pytest.raises(ValueError, match=r"one per result \(3\); got 2 inputs"):
        gate_images(QualityGate(stubs.Scorer()), [Picture(photo)] * 2, [Picture(photo)] * 3)


def test_the_workflows_fit_the_nodes(nodes) -> None:
    known = {name: (dict(inputs), outputs) for name, (inputs, outputs) in BUILT_IN.items()}
    widgets = {}
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        ordered = sorted(schema.inputs, key=lambda each: each.optional)
        known[name] = (
            {each.id: str(each.io_type) for each in ordered},
            [str(each.io_type) for each in schema.outputs],
        )
        widgets |= {(name, each.id): each for each in ordered if each.io_type in WIDGETS}
    info = {
        name: {"input": {"required": {key: [kind, {}] for key, kind in inputs.items()}}}
        for name, (inputs, _) in known.items()
    }
    used = set()
    assert len(FILES) == 4
    for file in FILES:
        workflow = json.loads(file.read_text(encoding="utf-8"))
        prompt = to_prompt(workflow, info)
        for node in prompt.values():
            kind = node["class_type"]
            used.add(kind)
            assert {*node["inputs"]} <= {*known[kind][0]}, (file, kind)
            for name, value in node["inputs"].items():
                expected = known[kind][0][name]
                if isinstance(value, list):
                    source, slot = value
                    given = known[prompt[source]["class_type"]][1][slot]
                    assert expected in (given, "*"), (file, kind, name)
                    continue
                declared = widgets.get((kind, name))
                if declared is not None and expected == "COMBO":
                    assert value in declared.options
                elif declared is not None and expected == "FLOAT":
                    assert declared.min <= value <= declared.max
        for node in prompt.values():
            if node["class_type"] in nodes:
                schema = nodes[node["class_type"]].GET_SCHEMA()
                assert {e.id for e in schema.inputs if not e.optional} <= {*node["inputs"]}
    assert {*nodes} <= used


def test_judges_are_kept_outside_the_nodes(tmp_path) -> None:
    assert judges.load_judge("proxy") is judges.load_judge("proxy")
    asked: list[tuple[str, dict]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "load_scorer", lambda name, **more: asked.append((name, more)) or 1)
        judges.load_judge("http://host/v1  zoom-iqa")
        judges.load_judge(str(tmp_path))
        (tmp_path / "weights").write_text("new")
        judges.load_judge(str(tmp_path))
    assert asked[0] == ("http://host/v1", {"model": "zoom-iqa"}) and len(asked) == 3
    judges._load.cache_clear()


def test_the_folder_can_be_published_by_itself() -> None:
    settings = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    project, root = settings["project"], FOLDER.parents[2] / "pyproject.toml"
    assert not project["name"][0].isdigit() and "comfyui" not in project["name"].lower()
    assert isinstance(project["license"], dict) and "PublisherId" in settings["tool"]["comfy"]
    needed = tomllib.loads(root.read_text(encoding="utf-8"))["project"]["name"]
    assert [each.split(">")[0] for each in project["dependencies"]] == [needed]
    assert (FOLDER / "requirements.txt").read_text().split() == project["dependencies"]
    assert (FOLDER / "README.md").is_file()


def test_importing_the_folder_does_not_import_comfyui() -> None:
    assert f"{package.__name__}.nodes" not in sys.modules
    assert inspect.iscoroutinefunction(package.comfy_entrypoint)
