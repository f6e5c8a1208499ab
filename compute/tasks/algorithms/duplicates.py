"""Search for duplicates: items with equal or similar names or descriptions.

Texts are compared without case, spacing and compatibility characters (Unicode's NFKC).
Items with the same text form a group: each further one is paired with the first of the
group, so that a thousand equal items make 999 pairs and not half a million. Groups of
similar texts are paired by their first items.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple, Self
from zlib import crc32

from items.imports.exporting import chunks
from items.models import ItemQuerySet

FIELDS = ("name", "description", "both")
READ_SHARE = 0.1

type Progress = Callable[[float, str], None]


class Pair(NamedTuple):
    """Two items, the one with the lower id first, and the field in which they agree."""

    score: float
    field: str
    first: str
    second: str

    @classmethod
    def of(cls, score: float, field: str, one: str, other: str) -> Self:
        return cls(score, field, min(one, other), max(one, other))


@dataclasses.dataclass
class Search:
    """One part of a search; checksums of the texts assign them to parts."""

    field: str
    threshold: float
    limit: int
    part: int = 0
    parts: int = 1
    compared: int = 0
    is_cut: bool = False
    found: list[Pair] = dataclasses.field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return FIELDS[:2] if self.field == "both" else (self.field,)

    def run(self, items: ItemQuerySet, on_progress: Progress) -> None:
        """Fill `found` with the best pairs of this part, unordered.

        A pair that agrees in both fields may occur twice.
        """
        groups = self._read(items, on_progress)
        if self.is_cut:
            return  # exact pairs alone reach the limit
        for number, name in enumerate(list(groups)):
            self._add_near(name, groups.pop(name), on_progress, number)

    def _read(
        self, items: ItemQuerySet, on_progress: Progress
    ) -> dict[str, dict[str, str]]:
        """Pair items with equal texts; return the first item of each text."""
        groups: dict[str, dict[str, str]] = {name: {} for name in self.names}
        twins: dict[bytes, str] = {}
        read, total = 0, items.count()
        for chunk in chunks(items.only(*self.names)):
            for item in chunk:
                texts = [normalize(getattr(item, name)) for name in self.names]
                self.compared += any(texts)
                if self.field == "both":
                    # Items equal in both fields come first: the most relevant pairs.
                    key = blake2b("\n".join(texts).encode(), digest_size=16).digest()
                    agree = "both" if all(texts) else "name"
                    if not self._is_first(twins, key, item.pk, texts[0], agree):
                        continue
                for name, text in zip(self.names, texts, strict=True):
                    if text:
                        self._is_first(groups[name], text, item.pk, text, name)
            read += len(chunk)
            fraction = READ_SHARE * read / max(total, read)
            on_progress(fraction, f"Reading: {read:,} of {total:,} items")
        return groups

    def _is_first[K](
        self, firsts: dict[K, str], key: K, item_id: str, text: str, field: str
    ) -> bool:
        """Return whether the item is the first with `key`, else pair it with that."""
        first = firsts.setdefault(key, item_id)
        if first == item_id:
            return True
        if crc32(text.encode()) % self.parts == self.part:
            self.is_cut = len(self.found) >= self.limit
            if not self.is_cut:
                self.found.append(Pair.of(1.0, field, first, item_id))
        return False

    def _add_near(
        self, name: str, firsts: dict[str, str], on_progress: Progress, number: int
    ) -> None:
        # Loads NumPy, which the processes of the web do not need.
        from compute.tasks.algorithms import similarity

        share = (1 - READ_SHARE) / len(self.names)

        def show(fraction: float, rows: int) -> None:
            done = READ_SHARE + share * (number + fraction)
            on_progress(done, f"Comparing {name}s: {rows:,} done")

        texts = sorted(firsts, key=lambda text: (len(text), text))
        best = similarity.Best(self.threshold, self.limit)
        similarity.near_matches(
            texts, best, part=self.part, parts=self.parts, on_progress=show
        )
        for score, one, other in best.ranked().tolist():
            ids = firsts[texts[one]], firsts[texts[other]]
            self.found.append(Pair.of(score, name, *ids))
        self.is_cut |= best.is_cut


def ranked(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the distinct pairs, best first."""
    by_items: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        earlier = by_items.setdefault((pair.first, pair.second), pair)
        if earlier.field != pair.field:
            score = max(pair.score, earlier.score)
            both = pair._replace(score=score, field="both")
            by_items[pair.first, pair.second] = both
    return sorted(by_items.values(), key=lambda pair: (-pair.score, *pair[2:]))


def normalize(text: str) -> str:
    """Return `text` normalized for comparison."""
    if not text.isascii():
        # Case folding may require another normalization (Unicode 16, D145).
        text = unicodedata.normalize("NFKC", text).casefold()
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())
