"""Paths are counted by the pattern that they belong to."""

import pytest

from resilient_site.observability.route_names import route_of

pytestmark = pytest.mark.once


def test_route_of_names_the_pattern():
    assert route_of("/api/v1/items/bolt") == "/api/v1/items/<id>"
    assert route_of("/api/v1/items/nut/history") == "/api/v1/items/<id>/history"
    assert route_of("/static/site.css") == "(static)"
    assert route_of("/livez") == "(probe)"


def test_route_of_unknown_and_long_paths_is_one():
    assert route_of("/wp-login.php") == route_of("/" + 600 * "x") == "(unknown)"
