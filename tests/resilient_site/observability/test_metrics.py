"""/metrics of a running site: its content, and which clients may read it."""

import signal
from collections.abc import Iterator

import pytest
from django.test import RequestFactory
from prometheus_client.parser import text_string_to_metric_families

from resilient_site.observability.views import may_read
from tests.private_server import wait_for
from tests.running import Site

pytestmark = pytest.mark.once

ITEM = "/api/v1/items/country.DE"


def metrics(site: Site) -> dict[tuple[str, ...], float]:
    answer = site.get("/metrics")
    assert answer.status == 200
    families = text_string_to_metric_families(answer.body.decode())
    return {
        (sample.name.removeprefix("resilient_site_"), *sorted(sample.labels.values())):
            sample.value
        for family in families
        for sample in family.samples
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"),
        WEB_PROCESSES="2", RATE_LIMITS="anonymous-export=1/h",
    )  # fmt: skip
    try:
        yield site.start()
    finally:
        site.stop()


def test_requests_stay_counted_when_their_process_ends(site):
    def hits() -> float:
        """Return how many there are, as soon as all requests are counted."""
        found = metrics(site)
        stored, hit = (
            found.get(
                ("requests_total", *sorted((how, "GET", "/api/v1/items/<id>", "200"))),
                0,
            )
            for how in ("stored", "hit")
        )
        return hit if stored + hit == 20 else 0

    for _ in range(20):
        site.get(ITEM)
    before = wait_for(hits)
    worker = site.web_workers()[0]
    worker.send_signal(signal.SIGTERM)
    worker.wait(20)
    wait_for(lambda: metrics(site)["processes", "web"] == 2)
    assert hits() == before


def test_counter_does_not_fall_when_gunicorn_restarts(site):
    name = "processes_started_total", "web"
    before = metrics(site)[name]
    master = site.web_master()
    master.terminate()
    master.wait(90)
    wait_for(site.answers)
    assert wait_for(lambda: metrics(site)[name] >= before + 2)


def test_unknown_paths_and_methods_make_no_series(site):
    names = set(metrics(site))
    for n in range(30):
        site.request(f"MAKE{n}" if n % 2 else "GET", f"/wp-{n}.php")
    new = {name for name in metrics(site) if name not in names}
    assert not [name for name in new if any("wp-" in part for part in name)]
    assert not [name for name in new if any("MAKE" in part for part in name)]


def test_rate_limits_and_jobs_are_counted(site):
    exports = [site.get("/api/v1/items/export").status for _ in range(3)]
    assert 429 in exports
    assert site.get("/api/v1/heavy_computation?size=1000").status in (200, 202)

    def jobs() -> float:
        found = metrics(site)
        return sum(v for name, v in found.items() if name[0] == "jobs_ended_total")

    wait_for(lambda: jobs() >= 1)
    name = "rate_limited_total", "anonymous-export"
    assert wait_for(lambda: metrics(site).get(name) == exports.count(429))


@pytest.mark.parametrize(
    ("client", "headers", "may"),
    [
        ("127.0.0.1", {}, True), ("::1", {}, True), ("10.1.2.3", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("10.9.0.1", {}, True), ("unix", {}, False), (None, {}, False),
    ],
)  # fmt: skip
def test_metrics_allow_decides_which_clients_may_read(settings, client, headers, may):
    settings.METRICS_ALLOW = [*settings.METRICS_ALLOW, "10.9.0.0/16"]
    request = RequestFactory().get("/metrics", headers=headers)
    request.META["REMOTE_ADDR"] = client
    assert may_read(request) is may


def test_others_get_404(site):
    assert site.get("/metrics", **{"X-Forwarded-For": "10.0.0.1"}).status == 404
    assert site.request("POST", "/metrics").status == 404
