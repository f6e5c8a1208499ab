"""What the site's own views state about their requests."""

import pytest
from django.urls import reverse

from resilient_site.edge.policy import DEFAULT, Shared, policy, policy_at, policy_of

pytestmark = pytest.mark.once
PAGE = "/jobs/01900000-0000-7000-8000-000000000000"
JOB = f"/api/v1{PAGE}"


UPLOAD = {"form_limit": "IMPORT_MAX_BYTES"}


@pytest.mark.parametrize(
    ("method", "path", "stated"),
    [
        ("GET", "/api/v1/items/-/export", {"is_heavy": True, "read_rate": "export"}),
        ("HEAD", "/api/v1/items/-/export/", {"is_heavy": True, "read_rate": "export"}),
        ("GET", "/api/v1/heavy_computation", {"is_heavy": True, "read_rate": "heavy"}),
        ("GET", f"{JOB}/result", {"is_heavy": True}),
        ("GET", f"{JOB}/files/report.csv", {"is_heavy": True}),
        ("POST", "/api/v1/jobs", {"write_rate": "heavy", **UPLOAD}),
        ("POST", "/jobs/new/find_duplicates/", {"write_rate": "heavy", **UPLOAD}),
        ("POST", f"{PAGE}/again/", {"write_rate": "heavy"}),
        ("POST", "/items/-/import/", {"is_heavy": True, **UPLOAD}),
        ("POST", "/account/sign-in/", {"write_rate": "sign-in"}),
        ("POST", "/account/tokens/", {"write_rate": "tokens"}),
    ],
)
def test_policy_is_the_one_that_the_view_states(method, path, stated):
    found = policy_at(path, method)
    assert {name: getattr(found, name) for name in stated} == stated
    assert found.shared is None


def test_sign_in_of_the_admin_counts_as_one():
    assert policy_at(reverse("admin:login"), "POST").write_rate == "sign-in"


@pytest.mark.parametrize(("method", "is_heavy"), [("GET", False), ("POST", True)])
def test_actions_of_the_admin_are_heavy_and_its_lists_are_not(method, is_heavy):
    path = reverse("admin:items_item_changelist")
    assert policy_at(path, method).is_heavy == is_heavy


@pytest.mark.parametrize("path", ["/nowhere", "/status/", "/x" * 1000, "/api/v1/tasks"])
def test_view_without_a_policy_has_the_default(path):
    assert policy_at(path, "GET") == DEFAULT


def test_policy_of_a_viewset_is_the_one_of_its_action():
    assert policy_at("/api/v1/items/bolt", "GET").shared is not None
    assert policy_at("/api/v1/items/bolt", "PATCH") == DEFAULT
    assert policy_at("/api/v1/jobs", "GET") == DEFAULT


def test_route_is_the_pattern_or_one_of_few_names():
    routes = {
        "/api/v1/items/bolt": "/api/v1/items/<id>",
        "/api/v1/items/nut/history": "/api/v1/items/<id>/history",
        "/static/site.css": "(static)",
        "/livez": "(probe)",
        "/wp-login.php": "(unknown)",
        "/static/" + 504 * "x": "(static)",
        "/static/" + 505 * "x": "(unknown)",  # too long to be looked up
    }
    assert {path: policy_at(path, "GET").route for path in routes} == routes


@pytest.mark.parametrize("name", ["READ_CACHE", "PUBLIC_READ"])
def test_nothing_is_shared_where_a_setting_says_so(settings, name):
    setattr(settings, name, False)
    policy_at.cache_clear()
    assert policy_at("/api/v1/items", "GET") == DEFAULT


def test_headers_of_a_policy_count_beside_those_of_every_request():
    @policy(shared=("q",), shared_headers=("HX-Target",))
    def view(request):
        """A page with a fragment."""

    shared = policy_of(view, "GET").shared
    assert shared == Shared(("q",), (b"hx-target",), is_strict=False)
    assert {b"cookie", b"hx-target"} < shared.relevant_headers
    assert shared.without_headers == ((b"hx-target", b""),)
    view.query_parameters = ("q",)
    assert policy_of(policy(shared=())(view), "GET").shared == Shared(is_strict=True)
    assert policy_of(policy()(view), "GET") == DEFAULT
