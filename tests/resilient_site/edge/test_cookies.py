"""Which cookies make a client one of its own, and which do not."""

import pytest
from django.http import HttpResponse, parse_cookie
from django.middleware.csrf import get_token

from resilient_site.edge.request import identifies_client
from resilient_site.resilience.cache_control import share
from tests.resilient_site.edge.clients import get, run
from tests.resilient_site.edge.views import now

pytestmark = [
    pytest.mark.once,
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.resilient_site.edge.views"),
]
FOREIGN = ["_ga=1", "csrftoken=x", "_ga=1; theme=dark; csrftoken=x", "mysessionid=x"]
OURS = ["sessionid=x", "_ga=1; sessionid=x", "_ga=1;sessionid =x", "messages=x"]


@run
async def test_foreign_cookie_is_answered_with_the_shared_response():
    for n, cookie in enumerate(FOREIGN):
        target = f"/thing/{n}"
        assert (await get(target, Cookie=cookie)).status == 200  # which fetches it
        for headers in ({"Cookie": cookie}, {}, {"Cookie": "other=1"}):
            assert (await get(target, **headers)).is_hit
    assert [seen["cookie"] for seen in now.asked] == [None] * len(FOREIGN)


@run
async def test_page_with_a_form_is_never_shared():
    """The token in it is good for one client alone."""

    def page(request):
        response = HttpResponse(get_token(request))
        share(response, "thing")
        return response

    now.respond = page
    for headers in ({}, *({"Cookie": cookie} for cookie in FOREIGN)):
        first, second = await get(**headers), await get(**headers)
        assert not first.is_hit
        assert not second.is_hit
        assert first.body != second.body
        assert "csrftoken" in first.headers["set-cookie"]


def test_cookies_that_identify_a_client_are_recognised():
    spaced = ["\u00a0sessionid=x", "a=b; sessionid\u3000=x"]  # Django strips names
    for cookie in (*OURS, *spaced):
        assert parse_cookie(cookie).keys() & {"sessionid", "messages"}
        assert identifies_client(cookie.encode())
    assert not any(identifies_client(cookie.encode()) for cookie in FOREIGN)
