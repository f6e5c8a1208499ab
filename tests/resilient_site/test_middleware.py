"""Security headers, and requests that the middleware rejects."""

import pytest

pytestmark = [pytest.mark.once, pytest.mark.django_db]


@pytest.mark.parametrize("path", ["/items/", "/account/sign-in/", "/none/"])
def test_every_page_has_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "path", ["/items/", "/none/", "/api/v1/items/", "/api/v1/none", "/static/site.css"]
)
def test_no_other_site_can_load_a_response_as_a_resource(client, path):
    response = client.get(path)
    assert response["Cross-Origin-Resource-Policy"] == "same-origin"
    response.close()


def test_json_response_has_no_permissions_policy(client):
    assert "Permissions-Policy" not in client.get("/api/v1/items/").headers
