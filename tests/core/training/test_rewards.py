"""Format, score, rank and grounding rewards: by hand, against a brute-force reference, hostile."""

import itertools
import math
import random

import pytest
from scipy.stats import norm

from tests.core.judges import BROKEN, CROP, FINAL, GOOD, picture
from tests.core.training.rollouts import BOX, FIRST_THOUGHT, reply
from zoomiqa_core.training.rewards import (
    Outcome,
    RewardConfig,
    Sample,
    format_reward,
    grounding_reward,
    rank_rewards,
    ranks_of,
    read_outcome,
    reward_functions,
    score_reward,
)

SIZE = (200, 100)


# --- outcome -------------------------------------------------------------------------------------


def test_the_last_round_counts_and_the_first_box():
    said = read_outcome([reply(2.0, BOX), reply(3.25, later=True)], SIZE)
    assert said == Outcome(3.25, None, BOX, True)
    assert read_outcome([reply(9.5)], SIZE) == Outcome(5.0, None, None, False)


def test_a_box_in_pixels_becomes_shares_and_an_unusable_one_none():
    in_pixels = (
        FIRST_THOUGHT + '<answer>{"bbox_2d": [150, 80, 50, 20], "rating": 2, "tool": "crop"}'
    )
    said = read_outcome([in_pixels + "</answer>", reply(2.0, later=True)], SIZE)
    assert said.bbox == (0.25, 0.2, 0.75, 0.8)
    broken = FIRST_THOUGHT + '<answer>{"bbox_2d": "here", "rating": 2, "tool": "crop"}</answer>'
    said = read_outcome([broken, reply(2.0, later=True)], SIZE)
    assert (said.bbox, said.zoomed, said.rating) == (None, True, 2.0)


def test_a_failed_round_fails_the_roll_out():
    said = read_outcome([reply(2.0, BOX), "I give up"], SIZE)
    assert math.isnan(said.rating) and said.error == "missing_answer"
    with pytest.raises(ValueError, match="expected the replies"):
        read_outcome([], SIZE)


# --- format --------------------------------------------------------------------------------------


def test_replies_as_asked_for_earn_the_format_reward():
    assert format_reward([reply(3.5)]) == 1.0
    assert format_reward([reply(3.5, BOX), reply(3.0, later=True)]) == 1.0


WELL_FORMED = reply(3.5)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        WELL_FORMED.removeprefix("<think>"),
        WELL_FORMED.replace("</think>", ""),
        "So: " + WELL_FORMED,
        WELL_FORMED + " Done.",
        WELL_FORMED + "<answer>{}</answer>",
        WELL_FORMED.replace("Issues to Avoid: Noise in the corner.\n", ""),
        WELL_FORMED.replace("Noise in the corner.", ""),
        WELL_FORMED.replace("Decision & Rationale", "Issues to Avoid"),
        WELL_FORMED.replace("Image Quality Summary", "Crop Inspection Summary"),
        WELL_FORMED.replace("3.50", "5.50"),
        WELL_FORMED.replace("3.50", "NaN"),
        WELL_FORMED.replace("3.50", '"3.50"'),
        WELL_FORMED.replace("3.50", "true"),
        WELL_FORMED.replace('"final"', '"crop"'),
        WELL_FORMED.replace('"final"', "null"),
        WELL_FORMED.replace("[0, 0, 0, 0]", "[0.1, 0.1, 0.5, 0.5]"),
        WELL_FORMED.replace("[0, 0, 0, 0]", "[0, 0, 0]"),
        WELL_FORMED.replace('"tool"', '"note": 1, "tool"'),
        WELL_FORMED.replace('"rating"', '"tool": "final", "rating"'),
        reply(3.5, (0.5, 0.2, 0.4, 0.8)),
        reply(3.5, (10, 20, 60, 80)),
        reply(3.5, later=True),
    ],
)
def test_anything_else_earns_none(bad):
    assert format_reward([bad]) == 0.0
    assert format_reward([bad, reply(3.0, later=True)]) == 0.0


def test_every_round_must_keep_to_the_grammar():
    assert format_reward([]) == 0.0
    assert format_reward([reply(3.5, BOX), reply(3.0)]) == 0.0  # headings of the first round
    assert format_reward([reply(3.5, BOX), reply(3.0, BOX, later=True)]) == 0.0  # one crop too many
    assert format_reward([reply(3.5, BOX), reply(3.0, BOX, later=True)], max_rounds=3) == 1.0


# --- score ---------------------------------------------------------------------------------------


def test_score_by_hand():
    assert [score_reward(3.0, m) for m in (3.0, 3.34, 3.36, 2.66, 2.64)] == [1, 1, 0, 1, 0]
    assert score_reward(3.5, 3.0, "smooth") == pytest.approx(math.exp(-0.5))
    assert score_reward(3.0, 3.0, "smooth") == 1.0


@pytest.mark.parametrize("kind", ["threshold", "smooth"])
@pytest.mark.parametrize("rating", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_scores_nothing(kind, rating):
    assert score_reward(rating, 3.0, kind) == 0.0
    assert score_reward(3.0, rating, kind) == 0.0


# --- rank ----------------------------------------------------------------------------------------


def brute_force(ratings, mos):
    """METHODS' formula, written down once more with scipy and loops."""
    rewards = {}
    for i, row in ratings.items():
        rewards[i] = []
        for q in row:
            terms = []
            for z, other in ratings.items():
                if z == i:
                    continue
                mean_z = sum(other) / len(other)
                mean_i = sum(row) / len(row)
                var_i = sum((x - mean_i) ** 2 for x in row) / (len(row) - 1)
                var_z = sum((x - mean_z) ** 2 for x in other) / (len(other) - 1)
                p = norm.cdf((q - mean_z) / math.sqrt(var_i + var_z + 1e-6))
                g = 0.5 if mos[i] == mos[z] else float(mos[i] > mos[z])
                terms.append(math.sqrt(p * g + 1e-6) + math.sqrt((1 - p) * (1 - g) + 1e-6))
            rewards[i].append(sum(terms) / len(terms))
    return rewards


def random_ratings(images=7, k=6, seed=0):
    draw = random.Random(seed)
    ratings = {f"i{n}": [draw.uniform(1, 5) for _ in range(k)] for n in range(images)}
    mos = {f"i{n}": round(draw.uniform(1, 5)) for n in range(images)}  # ties among them
    return ratings, mos


def test_rank_equals_the_brute_force_reference():
    ratings, mos = random_ratings()
    ours, theirs = rank_rewards(ratings, mos), brute_force(ratings, mos)
    assert len(set(mos.values())) < len(mos)
    for image in ratings:
        assert ours[image] == pytest.approx(theirs[image], abs=1e-6)


def test_rank_by_hand():
    """Two images of fixed ratings: Φ(1 / √1e-6) = 1, so the right order earns 1.001 at most."""
    said = rank_rewards({"a": [4.0, 4.0], "b": [3.0, 3.0]}, {"a": 5.0, "b": 1.0})
    assert said["a"] == pytest.approx([math.sqrt(1 + 1e-6) + 1e-3] * 2)
    wrong = rank_rewards({"a": [4.0, 4.0], "b": [3.0, 3.0]}, {"a": 1.0, "b": 5.0})
    assert wrong["b"] == pytest.approx([2e-3] * 2)


def test_rank_does_not_depend_on_any_order():
    ratings, mos = random_ratings(images=5, k=4)
    expected = rank_rewards(ratings, mos)
    for images in itertools.islice(itertools.permutations(ratings), 0, 120, 17):
        turned = {image: ratings[image][::-1] for image in images}
        said = rank_rewards(turned, mos)
        assert {image: row[::-1] for image, row in said.items()} == expected  # to the last bit


def test_failed_ratings_earn_nothing_and_change_nothing():
    ratings, mos = random_ratings(images=4, k=4)
    expected = rank_rewards(ratings, mos)
    broken = {i: [math.nan, *row, math.inf] for i, row in ratings.items()} | {"x": [math.nan] * 2}
    said = rank_rewards(broken, mos | {"x": 3.0})
    assert said["x"] == [0.0, 0.0]
    for image in ratings:
        assert said[image] == [0.0, *expected[image], 0.0]


def test_rank_names_its_edge_cases():
    assert rank_rewards({}, {}) == {}
    assert rank_rewards({"a": [3.0, 4.0]}, {"a": 3.0}) == {"a": [0.0, 0.0]}  # no rival
    single = rank_rewards({"a": [4.0], "b": [3.0]}, {"a": 4.0, "b": 3.0})  # variance 0
    assert single["a"][0] > 1 and all(map(math.isfinite, single["b"]))


def test_images_are_ranked_inside_one_label_source_only():
    """Two people's labels and two modelled ones: each group earns what it earns alone."""
    ratings = {"a": [4.0, 4.5], "b": [2.0, 2.5], "x": [3.0, 3.5], "y": [1.0, 5.0]}
    mos = {"a": 4.0, "b": 2.0, "x": 4.6, "y": 1.5}
    people, model = {"a", "b"}, {"x", "y"}
    sources = {image: "people" if image in people else "model" for image in ratings}
    ranked = rank_rewards(ratings, mos, sources)
    for group in (people, model):
        alone = rank_rewards({i: ratings[i] for i in sorted(group)}, mos)
        assert {image: ranked[image] for image in alone} == alone
    assert ranked != rank_rewards(ratings, mos)
    single = rank_rewards(ratings, mos, {**sources, "y": "another"})
    assert single["x"] == [0.0, 0.0] and single["y"] == [0.0, 0.0]  # nobody to compare with


# --- grounding -----------------------------------------------------------------------------------


def test_grounding_by_hand():
    half = Outcome(3.0, None, (0.0, 0.0, 0.5, 1.0), True)
    assert grounding_reward(half, [(0.25, 0.0, 0.75, 1.0)]) == pytest.approx(1 / 3)
    assert grounding_reward(half, [(0.0, 0.0, 0.5, 1.0)]) == 1.0
    assert grounding_reward(half, [(0.6, 0.0, 1.0, 1.0)]) == 0.0
    assert grounding_reward(half, [(0.6, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)]) == 1.0


def test_the_whole_image_earns_little_grounding():
    everything = Outcome(3.0, None, (0.0, 0.0, 1.0, 1.0), True)
    assert grounding_reward(everything, [(0.0, 0.0, 0.2, 0.2)]) == pytest.approx(0.04)


def test_grounding_is_0_without_a_usable_crop():
    truth = (0.0, 0.0, 1.0, 1.0)
    assert grounding_reward(Outcome(3.0), [truth]) == 0.0
    assert grounding_reward(Outcome(math.nan, "x", truth, True), [truth]) == 0.0
    empty = Outcome(3.0, None, (0.5, 0.5, 0.5, 0.5), True)
    assert grounding_reward(empty, [(0.5, 0.5, 0.5, 0.5)]) == 0.0
    assert grounding_reward(empty, []) == 0.0


# --- as TRL calls them ---------------------------------------------------------------------------


def test_rewards_of_a_batch_are_counted_and_finite():
    texts = [[FINAL], [CROP, GOOD], [BROKEN], [CROP, BROKEN]]
    completions = [[{"role": "assistant", "content": text} for text in turns] for turns in texts]
    logged: dict[str, float] = {}
    columns = {
        "completions": completions,
        "picture": [picture()] * 4,
        "mos": [3.5, 3.5, 4.75, 4.75],
        "label_source": ["people"] * 4,
        "image_id": ["a", "a", "b", "b"],
        "region_truth": [(), [(0.1, 0.2, 0.4, 0.9)], None, [(0.1, 0.2, 0.4, 0.9)]],
        "log_metric": logged.__setitem__,
    }
    format_, score, rank, grounding = (
        f(**columns) for f in reward_functions(RewardConfig(grounding=1.0))
    )
    assert format_ == [0.0] * 4 and score == [1.0, 0.0, 0.0, 0.0]
    assert rank == [0.0] * 4  # image b has no rating, so there is nothing to compare a with
    assert grounding[0] is None and grounding[1] == pytest.approx(1.0) and grounding[3] == 0.0
    assert logged == {"unparsable": 0.5, "zoom_share": 0.25, "distinct_ratings": 1.0}


def test_rank_rewards_do_not_depend_on_which_process_holds_a_sample():
    rows = [("a", 2.0, 2.5), ("a", 2.0, 1.5), ("b", 4.0, 3.0), ("b", 4.0, math.nan), ("c", 3, 3.0)]
    samples = [Sample(image, "people", mos, rating) for image, mos, rating in rows]
    whole = ranks_of(samples, samples)
    for split in range(6):
        assert ranks_of(samples[:split], samples) + ranks_of(samples[split:], samples) == whole
    with pytest.raises(ValueError, match="an id of its own"):
        ranks_of([], [Sample("a", "people", 2.0, 2.5), Sample("a", "people", 2.5, 1.5)])
    with pytest.raises(ValueError, match="an id of its own"):
        ranks_of([], [Sample("a", "people", 2.0, 2.5), Sample("a", "model", 2.0, 1.5)])
    with pytest.raises(ValueError, match="at least one > 0"):
        RewardConfig(format=0, score=0, rank=0)
