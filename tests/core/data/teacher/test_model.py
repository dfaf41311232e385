"""Models as teachers: what is asked, what is refused, budgets, and continued rationales."""

from __future__ import annotations

import pytest

from tests.core.judges import BROKEN, ScriptedBackend, picture
from zoomiqa_core.data.gr_iqa.filters import partial_rationale
from zoomiqa_core.data.gr_iqa.records import GRIQARound, reply_text
from zoomiqa_core.data.teacher.model import Budget, ModelTeacher, vlm_continuation
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import messages
from zoomiqa_core.zoom_iqa.sampling import Sampling

FIRST = GRIQARound(
    "Some blur.", "Crisp edges.", "Blur.", "Unsure.", 3.0, "crop", (0.1, 0.1, 0.5, 0.5)
)
LAST = GRIQARound("Clear blur.", "Crisp edges.", "Blur.", "It falls.", 2.7, "final")


def answers(request: Request) -> str:
    return reply_text(FIRST) if len(request.images) == 1 else reply_text(LAST, 2)


def test_a_teacher_writes_the_rounds_of_its_replies() -> None:
    backend = ScriptedBackend(answers)
    lesson = ModelTeacher(backend, BUILTIN).write(picture(), 2.5, "How good?", seed=1)
    assert lesson.rounds == (FIRST, LAST)
    assert (lesson.reason, lesson.calls, lesson.tokens) == ("", 2, 14)
    asked = backend.seen[0].messages[0]["content"][0]["text"]
    assert "How good?\nPeople rated this image 2.50 on average." in asked
    untold = ScriptedBackend(answers)
    ModelTeacher(untold, BUILTIN, tell_rating=False).write(picture(), 2.5, "How good?", seed=1)
    assert untold.seen[0].messages == messages(BUILTIN, "How good?")


def test_what_a_teacher_is_refused_for() -> None:
    def lesson(reply: str, rating: float = 2.7):  # type: ignore[no-untyped-def]
        return ModelTeacher(ScriptedBackend(lambda _: reply), BUILTIN).write(
            picture(), rating, "How good?", seed=0
        )

    final = reply_text(LAST)
    assert lesson(final).rounds == (LAST,)
    assert lesson(final, 4.0).reason == "rating_off"
    assert lesson(final, 4.0).detail == "2.70 where people gave 4.00"
    broken = lesson(BROKEN)
    assert (broken.reason, broken.calls, broken.passing) == ("malformed_json", 2, False)
    high = lesson(final.replace("2.70", "7.00"))
    assert high.reason == "bad_record" and "rating: expected a number from 1 to 5" in high.detail


def test_a_server_that_was_busy_may_be_asked_again() -> None:
    class Busy(ScriptedBackend):
        def run(self, chains):  # type: ignore[no-untyped-def]
            for chain in chains:
                chain.fail("server_busy", "try later")

    lesson = ModelTeacher(Busy(answers), BUILTIN).write(picture(), 3.0, "How good?", seed=0)
    assert lesson.passing and lesson.rounds == ()


def test_budgets_by_hand() -> None:
    budget = Budget(max_calls=10, max_cost=1.0, cost_per_1k_tokens=0.5)
    assert budget.allows(10) and not budget.allows(11)
    budget.spend(4, 1500)
    assert budget.cost == pytest.approx(0.75)
    assert budget.allows(6) and not budget.allows(7)
    budget.spend(1, 500)
    assert not budget.allows(1)  # the money is spent
    assert Budget().allows(10**9)


def test_a_local_model_continues_a_rationale(answering) -> None:  # type: ignore[no-untyped-def]
    model, processor = answering
    vlm = LocalVLM(model, processor, sampling=Sampling(max_new_tokens=1))  # a token is a reply
    image = picture()
    source = vlm_continuation(vlm, BUILTIN, "How good?", image.size)
    prefix = partial_rationale(FIRST, 0.5)
    drawn = [source(prefix, image) for _ in range(8)] + [source(prefix, None) for _ in range(8)]
    usable = [one for one in drawn if one is not None]
    assert 4 <= len(usable) < 16  # some of its replies are broken
    assert {one.tool for one in usable} == {"crop", "final"}
    assert all((one.bbox is None) == (one.tool == "final") for one in usable)
    assert all(one.entropy > 0 and one.rating in (2.25, 3.5, 4.75) for one in usable)
    again = vlm_continuation(vlm, BUILTIN, "How good?", image.size)
    assert [again(prefix, image) for _ in range(8)] == drawn[:8]


def test_a_begun_reply_goes_on_as_the_model_would(tiny) -> None:  # type: ignore[no-untyped-def]
    vlm = LocalVLM(*tiny, sampling=Sampling(max_new_tokens=12))
    request = Request(messages(BUILTIN, "How good?"), (picture(),), seed=5)
    begun = vlm.continue_reply(request, "<think>\nA good")
    assert begun == vlm.continue_reply(request, "<think>\nA good")
    assert begun.text != vlm.continue_reply(request, "<think>\nA bad").text
    assert len(begun.log_probs) in (len(begun.ids), len(begun.ids) + 1)
