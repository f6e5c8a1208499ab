"""Similarity join: all pairs of texts above a threshold, or the best of them.

The score of two texts is 1 - d / (length + length), where d is their Indel distance:
the letters to delete and insert to turn one into the other. Texts of very different
length cannot be similar, so texts are sorted by length, and each is compared with the
following ones that are not too long. Most comparisons look at a few machine words: the
bits of `letters` and `bigrams` exclude pairs that cannot reach the threshold, and no
others.

Where the shorter text has more than `EXACT` letters, these filters exclude too little.
There sketches decide, and can miss a pair: see `_sketch_bound`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import batched
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import Indel

from compute.tasks.algorithms import signatures
from compute.tasks.algorithms.signatures import Numbers, Words

EXACT = 64
# Shorter texts are compared eight at a time by the processor's wide registers.
WIDE = 64
GROUP = 8
TILE = 8192
# Tolerance of floating point numbers where scores are compared.
ROOM = 1e-9

type Table = npt.NDArray[np.bool_]
type Matches = npt.NDArray[np.void]  # of `MATCH`
MATCH = np.dtype([("score", np.float64), ("first", np.int32), ("second", np.int32)])


class Best:
    """The best `limit` matches; once there are as many, the threshold rises."""

    def __init__(self, threshold: float, limit: int) -> None:
        self.threshold, self.limit = threshold, limit
        self.is_cut = False
        self._found: list[Matches] = []
        self._number = 0

    def add(self, matches: Matches) -> None:
        self._found.append(matches[matches["score"] >= self.threshold - ROOM])
        self._number += len(self._found[-1])
        if self._number > 2 * self.limit:
            # A further match with the score of the last one would not displace it.
            self.threshold = float(self.ranked()["score"][-1]) + 2 * ROOM

    def ranked(self) -> Matches:
        """Return the matches, best first."""
        found = np.concatenate([np.empty(0, MATCH), *self._found])
        order = np.lexsort((found["second"], found["first"], -found["score"]))
        self.is_cut = self.is_cut or len(found) > self.limit
        found = found[order[: self.limit]]
        self._found, self._number = [found], len(found)
        return found


class Corpus:
    """Texts sorted by length, with their signatures."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.texts = texts
        self.lengths: Numbers = np.array([len(text) for text in texts], np.int64)
        self.exact = int(np.searchsorted(self.lengths, EXACT, "right"))
        longest = EXACT * _stretch(threshold) + ROOM
        within_reach = texts[: int(np.searchsorted(self.lengths, longest, "right"))]
        self.letters = np.ascontiguousarray(signatures.letters(within_reach).T)
        self.bigrams = signatures.bigrams(within_reach)
        self.sketches = np.ascontiguousarray(signatures.sketches(texts[self.exact :]).T)
        self.weights = np.bitwise_count(self.sketches).sum(0, np.int64)

    def ends(self, rows: Numbers, threshold: float) -> Numbers:
        """Return for each row the index of the first text that is too long for it."""
        longest = self.lengths[rows] * _stretch(threshold) + ROOM
        return np.searchsorted(self.lengths, longest, "right")


def near_matches(
    texts: Sequence[str],
    best: Best,
    *,
    part: int = 0,
    parts: int = 1,
    on_progress: Callable[[float, int], None] = lambda fraction, rows: None,
) -> None:
    """Add the matches among `texts`, which are distinct and sorted by length.

    A checksum of the shorter text assigns each match to a part, so that parts that read
    different states of the catalogue still agree on the assignment.
    """
    if best.threshold >= 1 or not texts:
        return
    corpus = Corpus(texts, best.threshold)
    own = [crc32(text.encode()) % parts == part for text in texts]
    rows = np.flatnonzero(own)
    comparisons = np.cumsum(corpus.ends(rows, best.threshold) - rows)
    for number, group in enumerate(_groups(rows, corpus.exact), 1):
        if best.threshold >= 1:
            break
        for columns in _tiles(corpus, group, best.threshold):
            best.add(_compare(corpus, group, columns, best.threshold))
        done = min(number * GROUP, len(rows))
        on_progress(float(comparisons[done - 1] / comparisons[-1]), done)


def _groups(rows: Numbers, exact: int) -> Iterator[Numbers]:
    for kind in (rows[rows < exact], rows[rows >= exact]):
        for group in batched(kind, GROUP):
            yield np.array(group)


def _tiles(corpus: Corpus, group: Numbers, threshold: float) -> Iterator[slice]:
    """Yield the ranges of rows to compare with `group`."""
    end = int(corpus.ends(group[-1:], threshold)[0])
    for start in range(int(group[0]) + 1, end, TILE):
        yield slice(start, min(start + TILE, end))


def _compare(
    corpus: Corpus, group: Numbers, columns: slice, threshold: float
) -> Matches:
    select = _sketched if group[0] >= corpus.exact else _exact
    possible = select(corpus, group, columns, threshold)
    if corpus.lengths[group[-1]] <= WIDE:
        others = np.flatnonzero(possible.any(0)) + columns.start
        return _scores(corpus, group, others, threshold)
    found = [
        _scores(corpus, group[[row]], np.flatnonzero(line) + columns.start, threshold)
        for row, line in enumerate(possible)
    ]
    return np.concatenate(found)


def _exact(corpus: Corpus, group: Numbers, columns: slice, threshold: float) -> Table:
    """Return which pairs can reach the threshold, by their common letters."""
    lengths = corpus.lengths[columns] + corpus.lengths[group[-1]]
    edits = np.floor((1 - threshold) * lengths + ROOM)
    differing = _differing(corpus.letters, group, columns, np.uint8)
    possible: Table = differing <= np.minimum(edits, 255).astype(np.uint8)
    places = np.flatnonzero(possible)
    if len(places) < possible.size / 2:
        rows, others = np.divmod(places, possible.shape[1])
        words = corpus.bigrams[group[rows]] ^ corpus.bigrams[others + columns.start]
        unlike = np.bitwise_count(words).sum(1, np.int64)
        possible.flat[places] = unlike <= 3 * edits[others]
    return possible


def _sketched(
    corpus: Corpus, group: Numbers, columns: slice, threshold: float
) -> Table:
    """Return which pairs probably reach the threshold, by their sketches."""
    group = group - corpus.exact
    columns = slice(columns.start - corpus.exact, columns.stop - corpus.exact)
    differing = _differing(corpus.sketches, group, columns, np.uint16)
    weights = corpus.weights[group, None] + corpus.weights[columns]
    possible: Table = differing <= _sketch_bound(threshold) * weights
    return possible


def _differing(words: Words, group: Numbers, columns: slice, dtype: Any) -> Any:
    differing = np.zeros((len(group), columns.stop - columns.start), dtype)
    for word in words:
        differing += np.bitwise_count(word[group, None] ^ word[columns])
    return differing


def _sketch_bound(threshold: float) -> float:
    """Return the share of their sketches in which two similar texts may differ.

    Edited texts have most runs of four letters in common. The worst case are single
    letters missing throughout: with a share of 1 - s of the letters missing, s to the
    power of 4 of the runs remain. Below a threshold of about 0.9 that cannot be
    distinguished from chance.
    """
    return min(0.55, 1.03 - (2 * threshold - 1) ** 4)


def _scores(
    corpus: Corpus, group: Numbers, others: Numbers, threshold: float
) -> Matches:
    others = others[others > group[0]]
    if not len(others):
        return np.empty(0, MATCH)
    lengths = corpus.lengths[group, None] + corpus.lengths[others]
    edits = np.floor((1 - threshold) * lengths + ROOM)
    distances = process.cdist(
        [corpus.texts[row] for row in group],
        [corpus.texts[row] for row in others],
        scorer=Indel.distance,
        score_cutoff=int(edits[-1, -1]),
        dtype=np.int32,
    )
    agree = (distances <= edits) & (others > group[:, None])
    rows, columns = np.divmod(np.flatnonzero(agree), len(others))
    found = np.empty(len(rows), MATCH)
    found["first"], found["second"] = group[rows], others[columns]
    found["score"] = 1 - distances[rows, columns] / lengths[rows, columns]
    return found


def _stretch(threshold: float) -> float:
    return (2 - threshold) / threshold
