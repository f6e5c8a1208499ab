"""Which texts nearly agree: compared with a comparison of every pair."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from compute.tasks.algorithms.similarity import ROOM, Best, near_matches

pytestmark = pytest.mark.once

WORDS = [
    "bolt", "nut", "screw", "washer", "spring", "brass", "steel", "copper", "small",
    "large", "round", "flat", "M8", "M10", "40", "mm", "für", "Gewinde", "螺栓", "螺母",
    "black", "blue", "kit", "set", "of", "ten", "with",
]  # fmt: skip

names = st.text("ab c-Ж", min_size=1, max_size=12)
thresholds = st.sampled_from([0.5, 0.6, 2 / 3, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])


def in_order(texts) -> list[str]:
    return sorted(set(texts), key=lambda text: (len(text), text))


def found(texts, threshold, *, limit=10**6, parts=1) -> dict[tuple[int, int], float]:
    matches = []
    for part in range(parts):
        best = Best(threshold, limit)
        near_matches(texts, best, part=part, parts=parts)
        matches += best.ranked().tolist()
    scores = {(first, second): score for score, first, second in matches}
    assert len(scores) == len(matches)
    return scores


def every_pair(texts, threshold) -> dict[tuple[int, int], float]:
    scores = {
        (one, other): Indel.normalized_similarity(texts[one], texts[other])
        for one, other in combinations(range(len(texts)), 2)
    }
    return {pair: score for pair, score in scores.items() if score >= threshold - ROOM}


def make_texts(dice: random.Random, number: int, words: int) -> list[str]:
    """Texts of some words, half of them with a few letters changed in another one."""
    texts = [" ".join(dice.choices(WORDS, k=words)) for _ in range(number // 2)]
    for text in texts[: number // 2]:
        letters = list(text)
        for _ in range(dice.randint(1, 1 + len(letters) // 8)):
            place = dice.randrange(len(letters))
            letters[place] = dice.choice(["", "x", letters[place] * 2])
        texts.append("".join(letters))
    return in_order(texts)


@given(st.lists(names, max_size=25), thresholds)
def test_all_pairs_of_short_texts_are_found(texts, threshold):
    texts = in_order(texts)
    assert found(texts, threshold) == pytest.approx(every_pair(texts, threshold))


@pytest.mark.parametrize("words", [3, 8, 40])
def test_all_pairs_of_a_small_catalogue_are_found(words):
    texts = [text for text in make_texts(random.Random(words), 250, words) if text]
    for threshold in (0.5, 0.7, 0.85, 0.95):
        expected = every_pair(texts, threshold)
        assert len(expected) > 10
        assert found(texts, threshold) == pytest.approx(expected)


@given(st.lists(names, max_size=25), st.integers(2, 5))
def test_parts_find_the_same_pairs_together(texts, parts):
    texts = in_order(texts)
    assert found(texts, 0.6, parts=parts) == found(texts, 0.6)


def test_pairs_across_tiles_are_found(monkeypatch):
    monkeypatch.setattr("compute.tasks.algorithms.similarity.TILE", 16)
    texts = make_texts(random.Random(5), 200, 3)
    assert found(texts, 0.8) == pytest.approx(every_pair(texts, 0.8))


def test_best_pairs_are_kept_up_to_the_limit():
    texts = make_texts(random.Random(7), 300, 3)
    everything = every_pair(texts, 0.5)
    best = Best(0.5, 40)
    near_matches(texts, best)
    kept = best.ranked()["score"].tolist()
    assert best.is_cut
    assert kept == pytest.approx(sorted(everything.values(), reverse=True)[:40])
