"""How it is measured, for those who read the report."""

METHODS = (
    "What is compared runs in turns within one run, in every second round in the "
    "opposite order, and ratios are taken round by round: the neighbours of a shared "
    "machine then fall on both sides. Ratios are to be trusted more than rates, and a "
    "narrow spread more than a wide one.",
    "Rates are those of a closed loop: 16 connections that ask again as soon as they "
    "are answered. They say what a server can do, and nothing of how long one waits. "
    "Who is refused is not answered.",
    "Where latency is told, it is that of an open loop: requests come at random, "
    "whether or not earlier ones have been answered, and each counts from the moment "
    "at which it was due. Who is held up is charged to the server (no coordinated "
    "omission), and who is refused or gives up has waited for ever.",
    "What one answer costs is found the same way, but at a fifth of what one "
    "connection could do, so that hardly any waits for another.",
    "A web server has one process. Those of Django under gunicorn have eight threads, "
    "as this site has, and keep their connections to the database. All use one private "
    "PostgreSQL that forces every commit to the disk, and one private Redis.",
    "Where a web server is measured, it has the servers' cores, with the database, and "
    "the load generator has its own; all come before other programs where the kernel "
    "allows it. Where the pool is measured, all share all cores.",
    "Rate limits are off. The rest of this site is as it comes, but in the sections "
    "about large catalogues its read cache is empty, so that the database is asked.",
)
