"""What nginx passes on, keeps and refuses."""

import pytest

pytestmark = pytest.mark.faults


def test_reads_are_answered(production):
    p = production
    for path in ["/api/v1/items?page_size=2"] * 2 + [
        "/items/",
        "/static/icon.svg",
        "/api/v1/nothing",
        "/metrics",
    ]:
        a = p.site.get(path)
        print(path, a.status, a.headers.items(), a.body[:200])
    a = p.write("POST", "/api/v1/items/", {"name": "x"})
    print(a.status, a.headers.items(), a.body[:200])
    a = p.write("DELETE", "/api/v1/items/" + str(a.json()["id"]), None)
    print(a.status, a.headers.items(), a.body[:200])
    for i in range(6):
        a = p.narrow.get("/api/v1/items/country.DE")
        print(a.status, a.headers.items(), a.body[:200])
    for w in p.webs:
        w.kill()
    for path in ["/api/v1/items?page_size=2", "/items/", "/api/v1/items/country.FR"]:
        a = p.site.get(path)
        print(path, a.status, a.headers.items(), a.body[:200])
    import time

    time.sleep(11)
    for path in ["/api/v1/items?page_size=2", "/items/", "/api/v1/items/country.FR"]:
        a = p.site.get(path)
        print(path, a.status, a.headers.items(), a.body[:200])
    assert 0
