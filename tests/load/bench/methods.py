"""Methods, for the report."""

METHODS = (
    "What is compared runs in turns within one run, in every second round in the "
    "opposite order, and ratios are taken round by round: the neighbours of a shared "
    "machine then fall on both sides. Ratios are to be trusted more than rates, and a "
    "narrow spread more than a wide one.",
    "Rates are those of a closed loop of 16 connections, and count successful "
    "responses. They show capacity, not latency.",
    "Latency is that of an open loop: requests are sent at random times, "
    "independent of responses, and latency counts from the time at which a request "
    "was due (no coordinated omission). Rejected and timed-out requests count as "
    "infinite.",
    "The cost of one response is measured the same way, at a fifth of the rate of "
    "one connection, so that requests hardly ever queue.",
    "A web server has one process. Those of Django under gunicorn have eight threads, "
    "as this site has, and keep their connections to the database. All use one private "
    "PostgreSQL that syncs every commit, and one private Redis.",
    "Where a web server is measured, it has the servers' cores, with the database, and "
    "the load generator has its own; all come before other programs where the kernel "
    "allows it. Where the pool is measured, all share all cores.",
    "Rate limits are off. Everything else has its defaults, but in the sections "
    "about large catalogues its read cache is off.",
)
