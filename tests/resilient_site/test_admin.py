"""What every admin of the site has in common, on both databases."""

import pytest

from tests.factories import make_item

pytestmark = pytest.mark.django_db

BEYOND = "99999999999999999999"


ADDRESSES = [
    f"/admin/items/item/?version={BEYOND}",
    f"/admin/items/item/?version__gt={BEYOND}",
    f"/admin/items/item/?version__in=1,{BEYOND}",
    f"/admin/items/item/?created_at__year={BEYOND}",
    "/admin/items/item/?created_at__year__gt=99999",
    "/admin/items/item/?created_at=2020-99-99",
    "/admin/items/item/?name=%00",
    "/admin/items/item/?q=%00",
    "/admin/items/item/?tag=%00",
    f"/admin/items/item/?p={BEYOND}",
    f"/admin/items/item/?o={BEYOND}",
    "/admin/items/item/%00/change/",
    f"/admin/items/itemchange/?id={BEYOND}",
    "/admin/items/itemchange/?q=%00",
    f"/admin/items/itemchange/{BEYOND}/change/",
    f"/admin/auth/user/?id={BEYOND}",
    "/admin/auth/user/?q=%00",
    f"/admin/axes/accesslog/?id__gt={BEYOND}",
    "/admin/compute/job/?q=%00",
    # What one database or the other cannot look up.
    "/admin/items/item/?name__regex=(",
    "/admin/items/item/?name__iregex=%5B",
    "/admin/items/item/?version__range=1",
    "/admin/items/itemchange/?before__contains=x",
    "/admin/items/itemchange/?before__name__regex=(",
    "/admin/items/itemchange/?at__date=x",
    "/admin/auth/user/?username__regex=*",
    "/admin/compute/job/?params__contains=(",
]


def test_lookup_that_the_database_cannot_make_is_no_fault(client, admin):
    make_item()  # SQLite looks at rows only
    client.force_login(admin)
    client.raise_request_exception = False
    statuses = {address: client.get(address).status_code for address in ADDRESSES}
    faults = {a: s for a, s in statuses.items() if s not in (200, 302, 400, 404)}
    assert not faults
