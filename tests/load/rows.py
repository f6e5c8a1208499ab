"""Generated items, reproducible by their numbers."""

import random
from collections.abc import Iterator

WORDS = """
    amber anchor basalt beacon binder bracket cable carbon ceramic clamp copper dock
    engine filter flange gasket girder granite hinge insulator joint keel kiln
    lantern lever magnet marble motor needle nozzle oxide panel pigment piston
    pulley quartz radial rivet rotor sensor shaft sleeve socket spindle tension
    thermal timber turbine valve vessel washer zinc
""".split()  # noqa: SIM905 - easier to read
COLUMNS = ("id", "name", "description", "tags")
# One in so many items has this tag.
TAGS = {"common": 1, "some": 10, "rare": 5_003}
RARE_WORDS = 4_001


def rows(start: int, stop: int) -> Iterator[tuple[str, str, str, str]]:
    for n in range(start, stop):
        chance = random.Random(n)
        name = " ".join(chance.choices(WORDS, k=3))
        text = " ".join(chance.choices(WORDS, k=12))
        rare = " carbon fibre marble" if n % RARE_WORDS == 0 else ""
        tags = " ".join(tag for tag, every in TAGS.items() if n % every == 0)
        yield f"load-{n}", f"{name} {n}", f"Serial {n}: {text}{rare}", tags
