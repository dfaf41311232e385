"""Prompts of a judge: those of this package, the official ones, or those of a YAML file.

All of them use the same four headings and answer keys, so that one parser reads every reply. The
released checkpoint was trained on the prompts of the official ``zoomiqa`` package; they are
imported from that package where it is installed and are not part of this one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zoomiqa_core.runs.files import write_text_atomic
from zoomiqa_core.zoom_iqa.answer_format import AnswerFormat

PROMPTS_FILE = "zoomiqa_prompts.yaml"
"""File in a model's folder with the prompts it was trained on."""

QUESTION = "{question}"
"""Placeholder of the question in the first prompt; all other braces are literal."""

OFFICIAL_MODULES = ("zoomiqa.inference.protocol", "zoomiqa.protocol", "zoomiqa.prompts", "zoomiqa")
"""Modules in which releases of the official package have their prompts."""
_OFFICIAL_NAMES = ("STAGE1_PROMPT", "STAGE2_PROMPT", "RANDOM_QUESTIONS")
_HOW_TO_GET_OFFICIAL = (
    "The released checkpoint needs the prompts it was trained on. Either install the official "
    "package beside this one, without the versions it pins: "
    "pip install --no-deps git+https://github.com/EthanLiang99/Zoom-IQA ; "
    "or copy its STAGE1_PROMPT, STAGE2_PROMPT and RANDOM_QUESTIONS into a YAML file as first, next "
    "and questions (in first, write {{ and }} as single braces) and pass prompts=FILE.yaml. "
    "prompts='builtin' is for models trained with this package's recipes."
)


class PromptsError(ValueError):
    """Prompts that are not available or not usable; the message says how to get them.

    >>> load_prompts("missing.yaml")
    Traceback (most recent call last):
    zoomiqa_core.zoom_iqa.prompts.PromptsError: cannot read the prompts missing.yaml: ...
    """


@dataclass(frozen=True)
class Prompts:
    """The texts of a judge's requests.

    >>> prompts = Prompts("mine", "Rate it. {question}", "Rate the crop.", ("How good?",))
    >>> prompts.first_text(prompts.question())
    'Rate it. How good?'
    """

    name: str
    """``"builtin"``, ``"official"`` or the name of a file."""
    first: str
    """Instruction of round 1; contains ``{question}`` at least once."""
    next: str
    """Instruction of every later round, sent literally."""
    questions: tuple[str, ...]
    """Questions for users who give none."""
    region: str | None = None
    """Instruction that requests the rating of the enlarged region alone; None sends ``next``, the
    only one that the released checkpoint was trained on."""
    answer: AnswerFormat | None = None
    """How a reply gives its rating, for a judge of one round that follows another protocol; None
    for Zoom-IQA's. ``next`` and ``region`` are then not used."""

    def __post_init__(self) -> None:
        for key in ("first", "next", "region"):
            text = getattr(self, key)
            if key == "region" and text is None:
                continue
            if not isinstance(text, str) or not text.strip():
                raise PromptsError(f"prompts {self.name}: {key} must be text, got {text!r:.60}")
        if QUESTION not in self.first:
            raise PromptsError(f"prompts {self.name}: first must contain {QUESTION}")
        if not self.questions or not all(isinstance(q, str) and q.strip() for q in self.questions):
            raise PromptsError(f"prompts {self.name}: questions must be a list of one text or more")

    def first_text(self, question: str) -> str:
        """The instruction of round 1 with the question in its place."""
        return self.first.replace(QUESTION, question)

    def question(self, seed: int = 0) -> str:
        """The question with index ``seed`` modulo their number."""
        return self.questions[seed % len(self.questions)]


def load_prompts(source: str | os.PathLike[str] = "builtin") -> Prompts:
    """Load prompts by name or from a file.

    Args:
        source: ``"builtin"``; ``"official"``, from the installed ``zoomiqa`` package; or a YAML
            file with the keys ``first``, ``next`` and ``questions`` and, if wanted, ``region`` and
            ``name``; for a judge of another protocol ``first``, ``questions`` and ``answer``, the
            fields of :class:`~zoomiqa_core.zoom_iqa.answer_format.AnswerFormat`.

    Raises:
        PromptsError: the package or the file is missing, or the file is incomplete.

    >>> load_prompts("builtin").questions[0]
    'How good does this photo look, technically?'
    """
    if source == "builtin":
        return BUILTIN
    if source == "official":
        return _official()
    path = Path(source).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise PromptsError(f"expected 'builtin', 'official' or a .yaml file, got {str(source)!r}")
    return _from_yaml(path)


def save_prompts(prompts: Prompts, folder: str | os.PathLike[str]) -> Path:
    """Write the prompts that a model was trained on into its folder, as :data:`PROMPTS_FILE`.

    >>> save_prompts(BUILTIN, ".").name
    'zoomiqa_prompts.yaml'
    """
    import yaml

    record = {field.name: getattr(prompts, field.name) for field in fields(Prompts)}
    record["questions"] = list(prompts.questions)
    if record["answer"] is None:
        del record["answer"]
    else:
        record["answer"] = {**asdict(record["answer"]), "levels": dict(record["answer"].levels)}
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100)
    return write_text_atomic(Path(folder) / PROMPTS_FILE, text)


def _official() -> Prompts:
    failures = []
    for name in OFFICIAL_MODULES:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # the package imports its model code, which may fail in any way
            failures.append(str(error))
            continue
        if all(hasattr(module, attribute) for attribute in _OFFICIAL_NAMES):
            first, later, questions = (getattr(module, a) for a in _OFFICIAL_NAMES)
            # The package fills round 1 with str.format, and sends round 2 without formatting it.
            first = first.replace("{{", "{").replace("}}", "}")
            return Prompts("official", first, later, tuple(questions))
        failures.append(f"{name} has no {', '.join(_OFFICIAL_NAMES)}")
    raise PromptsError(
        f"{_HOW_TO_GET_OFFICIAL} Tried to import it: {'; '.join(dict.fromkeys(failures))}."
    )


def _from_yaml(path: Path) -> Prompts:
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptsError(f"cannot read the prompts {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PromptsError(f"{path} is not YAML in UTF-8: {error}") from error
    return _from_record(record, path.name)


def _from_record(record: Any, name: str) -> Prompts:
    known = {field.name for field in fields(Prompts)}
    required = known - {"name", "region", "answer"}
    if isinstance(record, Mapping) and record.get("answer") is not None:
        required = {"first", "questions"}
    if not isinstance(record, Mapping) or not required <= set(record) <= known:
        got = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise PromptsError(
            f"prompts {name}: expected the keys {sorted(required)} (and name, region, answer), got "
            f"{got}"
        )
    questions = record["questions"]
    if not isinstance(questions, list):
        raise PromptsError(f"prompts {name}: questions must be a list, got {questions!r:.60}")
    return Prompts(
        str(record.get("name", name)),
        record["first"],
        record.get("next", record["first"]),
        tuple(questions),
        record.get("region"),
        _answer_format(record.get("answer"), name),
    )


def _answer_format(record: Any, name: str) -> AnswerFormat | None:
    if record is None:
        return None
    try:
        return AnswerFormat(**record)
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(AnswerFormat))
        raise PromptsError(
            f"prompts {name}: answer has the keys {known}, of which pattern is required: {error}"
        ) from error


_FIRST = """\
Judge the technical quality of the image: sharpness, noise, exposure, colour, compression and \
anything else that harms how it looks. What it shows, and whether that is beautiful, does not count.

Think first, between <think> and </think>, under these four headings. Each begins a new line, and \
one to three sentences follow it:
Image Quality Summary: what holds the quality up and what pulls it down, closing with a verdict.
Directions for Improvement: how two or three named regions look in an ideal version of this image. \
Describe only what is to be seen there; no flaw is mentioned.
Issues to Avoid: the flaws that are there now, each with the region it sits in.
Decision & Rationale: your rating with its reason, and whether you are sure of it. When something \
decisive is too small to see, say which region you want enlarged and what it would settle.

Then answer with one JSON object and nothing after it:
<answer>{"bbox_2d": [x1, y1, x2, y2], "rating": R, "tool": "crop"}</answer>
rating: 1.00 (bad) to 5.00 (excellent), two decimals.
tool: "crop" to see one region enlarged, "final" when the whole image is enough.
bbox_2d: left, top, right and bottom of that region as shares of the image from 0 to 1; \
[0, 0, 0, 0] with "final".

{question}
"""

_NEXT = """\
You asked for a closer look. Below are the whole image once more and the region, enlarged. Settle \
what you left open, then rate the whole image again.

Think first, between <think> and </think>, under these four headings, one to three sentences each:
Crop Inspection Summary: what the enlarged region confirms, refutes or newly shows.
Directions for Improvement: how the details of that region look in an ideal version. Describe only \
what is to be seen there; no flaw is mentioned.
Issues to Avoid: the flaws that are there now, each with the detail it sits in.
Final Decision & Rationale: the earlier rating, what the closer look changes about it and by how \
much; keep the rating when nothing changes.

Then answer with one JSON object and nothing after it:
<answer>{"bbox_2d": [0, 0, 0, 0], "rating": R, "tool": "final"}</answer>
rating: 1.00 (bad) to 5.00 (excellent), two decimals.
Only if one more region must be seen: "crop", with its bbox_2d in shares of the whole image.
"""

_REGION = """\
Below are the whole image once more and one region of it, enlarged. Rate the quality of that \
region alone, as it is seen within the image.

Think first, between <think> and </think>, under these four headings, one to three sentences each:
Crop Inspection Summary: what the enlarged region shows.
Directions for Improvement: how the details of that region look in an ideal version. Describe only \
what is to be seen there; no flaw is mentioned.
Issues to Avoid: the flaws that are there now, each with the detail it sits in.
Final Decision & Rationale: the rating of the region, with its reason.

Then answer with one JSON object and nothing after it:
<answer>{"bbox_2d": [0, 0, 0, 0], "rating": R, "tool": "final"}</answer>
rating: 1.00 (bad) to 5.00 (excellent), two decimals.
"""

BUILTIN = Prompts(
    name="builtin",
    first=_FIRST,
    next=_NEXT,
    region=_REGION,
    questions=(
        "How good does this photo look, technically?",
        "Please rate the visual quality of the picture above.",
        "Which quality rating does this image deserve?",
        "Is this picture sharp, clean and well exposed? Give it a rating.",
        "How much do flaws disturb the view of this image? Rate its quality.",
    ),
)
"""The prompts of models trained with this package's recipes."""
