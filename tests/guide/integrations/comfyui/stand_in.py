"""As much of ComfyUI's interface as the nodes use, with the same names, arguments and checks.

Written from ``comfy_api/latest/_io.py`` of ComfyUI 0.3.64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


class _Socket:
    def __init__(self, id: str, display_name=None, optional=False, tooltip=None, lazy=None) -> None:
        self.id, self.optional = id, optional


class _Result:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False) -> None:
        self.id, self.is_output_list = id, is_output_list


def _kind(io_type: str, *names: str) -> Any:
    """A type of the interface; ``names`` are further arguments of its input."""

    class Input(_Socket):
        def __init__(self, id: str, optional=False, tooltip=None, **more: Any) -> None:
            super().__init__(id, optional=optional, tooltip=tooltip)
            unknown = set(more) - {*names, "display_name", "lazy"}
            if unknown:
                raise TypeError(f"{io_type}.Input has no argument {sorted(unknown)}")
            for name in names:
                setattr(self, name, more.get(name))

    class Output(_Result):
        pass

    for part in (Input, Output):
        vars_of: Any = part
        vars_of.io_type = io_type
    return SimpleNamespace(Input=Input, Output=Output)


class Schema:
    def __init__(
        self, node_id, display_name=None, category="sd", inputs=None, outputs=None,
        description="", is_input_list=False, is_output_node=False,
    ) -> None:  # fmt: skip
        self.node_id, self.display_name, self.category = node_id, display_name, category
        self.inputs, self.outputs, self.description = inputs or [], outputs or [], description
        self.is_input_list, self.is_output_node = is_input_list, is_output_node

    def validate(self) -> None:
        ids = [each.id for each in (*self.inputs, *self.outputs) if each.id is not None]
        if len({*ids}) != len(ids):
            raise ValueError("Ids must be unique between inputs and outputs")


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.validate()
        return schema

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError


class NodeOutput:
    def __init__(self, *args: Any, ui=None, expand=None, block_execution=None) -> None:
        self.args, self.ui = args, ui


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type]: ...


class PreviewImage:
    def __init__(self, image: Any, animated: bool = False, cls: Any = None) -> None:
        for each in image:  # as it is saved
            assert each.ndim == 3 and each.shape[-1] == 3
        self.count = len(image)

    def as_dict(self) -> dict[str, Any]:
        saved = {"filename": "a.png", "subfolder": "", "type": "temp"}
        return {"images": [saved] * self.count, "animated": (False,)}


class PreviewText:
    def __init__(self, value: str) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


def modules() -> dict[str, Any]:
    """What to put into ``sys.modules``."""
    number = ("default", "min", "max", "step")
    io = SimpleNamespace(
        Image=_kind("IMAGE"),
        Mask=_kind("MASK"),
        Int=_kind("INT", *number),
        Float=_kind("FLOAT", *number, "round"),
        String=_kind("STRING", "default", "multiline", "placeholder"),
        Boolean=_kind("BOOLEAN", "default"),
        Combo=_kind("COMBO", "default", "options"),
        Schema=Schema,
        ComfyNode=ComfyNode,
        NodeOutput=NodeOutput,
    )
    latest: Any = ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, ComfyExtension
    latest.ui = SimpleNamespace(PreviewImage=PreviewImage, PreviewText=PreviewText)
    management: Any = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    comfy: Any = ModuleType("comfy")
    comfy.model_management = management
    return {
        "comfy_api": ModuleType("comfy_api"),
        "comfy_api.latest": latest,
        "comfy": comfy,
        "comfy.model_management": management,
    }
