"""How long finding duplicates takes, and what it misses.

    .venv/bin/python -m tests.load.duplicates FILE

FILE is a CSV with the columns name and description. Some texts of each length are
compared with all others, and the pairs that reach a threshold looked for in what the
search of the whole file finds.
"""

import csv
import os
import random
import sys
import time
from resource import RUSAGE_SELF, getrusage

import django
import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
django.setup()

from compute.tasks.algorithms.duplicates import normalize  # noqa: E402 - after the settings
from compute.tasks.algorithms.similarity import EXACT, ROOM, Best, near_matches  # noqa: E402

SAMPLED = 500
THRESHOLDS = (0.95, 0.9, 0.85, 0.8)
ALL = 10**9


def main(path: str) -> None:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for field in ("name", "description"):
        texts = {normalize(row[field]) for row in rows} - {""}
        measure(field, sorted(texts, key=lambda text: (len(text), text)))


def measure(field: str, texts: list[str]) -> None:
    dice = random.Random(1)
    bound = sum(len(text) <= EXACT for text in texts)
    print(f"{len(texts):,} {field}s, {len(texts) - bound:,} of over {EXACT} letters")
    sampled = {
        kind: dice.sample(rows, min(SAMPLED, len(rows)))
        for kind, rows in (("short", range(bound)), ("long", range(bound, len(texts))))
    }
    for threshold in THRESHOLDS:
        started = time.process_time()
        best = Best(threshold, ALL)
        near_matches(texts, best)
        matches = best.ranked()
        seconds = time.process_time() - started
        megabytes = getrusage(RUSAGE_SELF).ru_maxrss // 1024
        found = set(matches[["first", "second"]].tolist())
        print(f"{threshold}: {len(found):,} pairs, {seconds:.1f} s, {megabytes} MB")
        for kind, rows in sampled.items():
            expected = [
                pair for row in rows for pair in pairs_of(texts, row, threshold)
            ]
            number = sum(pair in found for pair in expected)
            print(f"  of {len(expected):,} sampled {kind} ones, {number:,} are there")


def pairs_of(texts: list[str], row: int, threshold: float) -> list[tuple[int, int]]:
    scores = process.cdist(
        [texts[row]], texts, scorer=Indel.normalized_similarity, dtype=np.float64
    )[0]
    places = np.flatnonzero(scores >= threshold - ROOM).tolist()
    return [(row, place) for place in places if place > row]


if __name__ == "__main__":
    main(sys.argv[1])
