"""Bit signatures of texts, which compare dozens of letters in a machine word.

Each n-gram of a text sets a bit chosen by a hash; a second occurrence of the same
n-gram sets another bit. So bits that differ between two signatures are n-grams that
only one of the texts has: never more bits than n-grams.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

type Words = npt.NDArray[np.uint64]
type Numbers = npt.NDArray[np.int64]

BLOCK_CHARACTERS = 1 << 20
BLOCK_TEXTS = 1 << 14
# A sorted key has the number of the text above the hash of its n-gram.
HASH_BITS = 44
SKETCHED = 128

_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0xC2B2AE3D27D4EB4F)
_MULTIPLY, _MULTIPLY_AGAIN, _PER_OCCURRENCE = (np.uint64(number) for number in _ODD)


class Block(NamedTuple):
    start: int
    stop: int
    codes: Words  # each text after some line feeds, which also follow the last one
    rows: Words  # the text of each element of `codes`, except the last line feeds


def letters(texts: Sequence[str]) -> Words:
    """Return 128 bits for each text: an edit of a letter changes at most one bit."""
    return _all(texts, length=1, bits=128)


def bigrams(texts: Sequence[str]) -> Words:
    """Return 512 bits for each text: an edit of a letter changes at most three."""
    return _all(texts, length=2, bits=512)


def sketches(texts: Sequence[str]) -> Words:
    """Return 512 bits for each text, of its 128 runs of four letters of smallest hash.

    Texts that have most runs in common have nearly the same sample.
    """
    return _all(texts, length=4, bits=512, at_most=SKETCHED)


def _all(
    texts: Sequence[str], *, length: int, bits: int, at_most: int | None = None
) -> Words:
    found = np.zeros((len(texts), bits // 64), np.uint64)
    for block in _blocks(texts, length):
        keys = (block.rows << np.uint64(HASH_BITS)) | _hashes(block, length)
        keys.sort()
        if at_most is not None:
            keys = keys[_ranks(keys >> np.uint64(HASH_BITS)) < at_most]
        found[block.start : block.stop] = _bits(keys, block.stop - block.start, bits)
    return found


def _blocks(texts: Sequence[str], length: int) -> Iterator[Block]:
    # Long enough that no n-gram spans two texts.
    between = "\n" * max(length - 1, 1)
    start = 0
    while start < len(texts):
        stop, size = start, 0
        while stop < min(len(texts), start + BLOCK_TEXTS) and size < BLOCK_CHARACTERS:
            size += len(texts[stop]) + len(between)
            stop += 1
        body = between + between.join(texts[start:stop]) + between
        codes = np.frombuffer(body.encode("utf-32-le"), np.uint32).astype(np.uint64)
        places = [len(text) + len(between) for text in texts[start:stop]]
        rows = np.repeat(np.arange(stop - start, dtype=np.uint64), places)
        yield Block(start, stop, codes, rows)
        start = stop


def _hashes(block: Block, length: int) -> Words:
    number = len(block.rows)
    grams = block.codes[:number].copy()
    for place in range(1, length):
        grams = grams * _PER_OCCURRENCE + block.codes[place : number + place]
    return _mixed(grams) >> np.uint64(64 - HASH_BITS)


def _bits(keys: Words, texts: int, bits: int) -> Words:
    again = _ranks(keys).astype(np.uint64) * _PER_OCCURRENCE
    chosen = _mixed((keys << np.uint64(64 - HASH_BITS)) + again) % np.uint64(bits)
    table = np.zeros((texts, bits), np.bool_)
    table[(keys >> np.uint64(HASH_BITS)).astype(np.intp), chosen.astype(np.intp)] = True
    return np.packbits(table, axis=1).view(np.uint64)


def _ranks(values: Words) -> Numbers:
    """Return for each of the sorted values how many equal ones precede it."""
    places = np.arange(len(values))
    is_first = np.ones(len(values), np.bool_)
    is_first[1:] = values[1:] != values[:-1]
    ranks: Numbers = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return ranks


def _mixed(values: Words) -> Words:
    values = (values ^ (values >> np.uint64(31))) * _MULTIPLY
    values = (values ^ (values >> np.uint64(29))) * _MULTIPLY_AGAIN
    return values ^ (values >> np.uint64(32))
