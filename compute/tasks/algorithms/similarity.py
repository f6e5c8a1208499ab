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
# RapidFuzz omits some scores that equal its cutoff.
CUTOFF_ROOM = 1e-3

type Numbers = npt.NDArray[np.int64]
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
    lengths = np.array([len(text) for text in texts])
    counts = _count_letters(texts)
    is_short = lengths[rows] <= WIDE
    done = 0
    for group in (*batched(rows[is_short], GROUP), *batched(rows[~is_short], 1)):
        if best.threshold >= 1:
            return  # the texts are distinct
        firsts = np.array(group)
        first, length = firsts[0], lengths[firsts[-1]]
        longest = length * (2 - best.threshold) / best.threshold + ROOM
        end = np.searchsorted(lengths, longest, "right")
        for start in range(first + 1, end, TILE):
            others = np.arange(start, min(start + TILE, end))
            if length > WIDE:
                # An edit changes one count by one.
                differing = np.abs(counts[others] - counts[first]).sum(1, np.int64)
                edits = (1 - best.threshold) * (length + lengths[others]) + ROOM
                others = others[differing <= edits]
            best.add(_compare(texts, firsts, others, best.threshold - CUTOFF_ROOM))
        done += len(group)
        on_progress(done / len(rows), done)


def _count_letters(texts: Sequence[str]) -> npt.NDArray[np.int16]:
    counts = np.zeros((len(texts), BINS), np.int16)
    for row, text in enumerate(texts):
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        counts[row] = np.bincount(codes % BINS, minlength=BINS)
    return counts


def _compare(
    texts: Sequence[str], firsts: Numbers, others: Numbers, threshold: float
) -> Matches:
    scores = process.cdist(
        [texts[row] for row in firsts],
        [texts[row] for row in others],
        scorer=Indel.normalized_similarity,
        score_cutoff=threshold,
        dtype=np.float64,
    )
    rows, columns = np.nonzero((scores > 0) & (others > firsts[:, None]))
    found = np.empty(len(rows), MATCH)
    found["first"], found["second"] = firsts[rows], others[columns]
    found["score"] = scores[rows, columns]
    return found
