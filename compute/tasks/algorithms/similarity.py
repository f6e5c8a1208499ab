"""Similarity join: all pairs of texts above a threshold, or the best of them.

The score of two texts is 1 - d / (length + length), where d is their Indel distance:
the letters to delete and insert to turn one into the other. Texts of very different
length cannot be similar, so texts are sorted by length, and each is compared with the
following ones that are not too long. RapidFuzz compares many short texts at a time.
Pairs of long texts are first compared by how often each letter occurs, which excludes
most pairs that cannot reach the threshold, and no others.
"""

from collections.abc import Callable, Sequence
from itertools import batched
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import Indel

# Shorter texts are compared many at a time by the processor's wide registers.
WIDE = 64
GROUP = 16
TILE = 8192
# Letters are counted by their code points modulo this.
BINS = 64
# Tolerance of floating point numbers where scores are compared.
ROOM = 1e-9

type Numbers = npt.NDArray[np.int64]
type Counts = npt.NDArray[np.int16]
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
        if not len(matches):
            return
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
    own = [crc32(text.encode()) % parts == part for text in texts]
    rows = np.flatnonzero(own)
    if best.threshold >= 1 or not len(rows):
        return
    lengths: Numbers = np.array([len(text) for text in texts], np.int64)
    counts = _count_letters(texts)
    comparisons = np.cumsum(_ends(lengths, rows, best.threshold) - rows)
    is_short = lengths[rows] <= WIDE
    done = 0
    for group in (*batched(rows[is_short], GROUP), *batched(rows[~is_short], 1)):
        if best.threshold >= 1:
            break
        firsts = np.array(group)
        end = int(_ends(lengths, firsts[-1:], best.threshold)[0])
        for start in range(int(firsts[0]) + 1, end, TILE):
            others = np.arange(start, min(start + TILE, end))
            if lengths[firsts[0]] > WIDE:
                others = _possible(lengths, counts, firsts[0], others, best.threshold)
            best.add(_compare(texts, lengths, firsts, others, best.threshold))
        done += len(group)
        on_progress(float(comparisons[done - 1] / comparisons[-1]), done)


def _ends(lengths: Numbers, rows: Numbers, threshold: float) -> Any:
    """Return for each row the index of the first text that is too long for it."""
    longest = lengths[rows] * (2 - threshold) / threshold + ROOM
    return np.searchsorted(lengths, longest, "right")


def _count_letters(texts: Sequence[str]) -> Counts:
    counts = np.zeros((len(texts), BINS), np.int16)
    for row, text in enumerate(texts):
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        counts[row] = np.bincount(codes % BINS, minlength=BINS)
    return counts


def _possible(
    lengths: Numbers, counts: Counts, row: int, others: Numbers, threshold: float
) -> Numbers:
    """Return those of `others` that can match: an edit changes one count by one."""
    edits = _edits(lengths[row] + lengths[others], threshold)
    differing = np.abs(counts[others] - counts[row]).sum(1, np.int64)
    possible: Numbers = others[differing <= edits]
    return possible


def _edits(lengths: Numbers, threshold: float) -> Any:
    """Return the largest distance of pairs of these total lengths that match."""
    return np.floor((1 - threshold) * lengths + ROOM)


def _compare(
    texts: Sequence[str],
    lengths: Numbers,
    firsts: Numbers,
    others: Numbers,
    threshold: float,
) -> Matches:
    if not len(others):
        return np.empty(0, MATCH)
    totals = lengths[firsts, None] + lengths[others]
    edits = _edits(totals, threshold)
    distances = process.cdist(
        [texts[row] for row in firsts],
        [texts[row] for row in others],
        scorer=Indel.distance,
        score_cutoff=int(edits[-1, -1]),
        dtype=np.int32,
    )
    rows, columns = np.nonzero((distances <= edits) & (others > firsts[:, None]))
    found = np.empty(len(rows), MATCH)
    found["first"], found["second"] = firsts[rows], others[columns]
    found["score"] = 1 - distances[rows, columns] / totals[rows, columns]
    return found
