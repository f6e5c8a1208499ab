"""The address of a client comes from the network and never from its headers."""

import os
import runpy

import pytest
from django.test import RequestFactory

from resilient_site.observability import multiprocess
from resilient_site.ratelimit.middleware import client_address
from tests.running import ROOT

pytestmark = pytest.mark.once


def address_of(remote: str) -> str | None:
    return client_address(RequestFactory().get("/", REMOTE_ADDR=remote))


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),
        ("unknown", None),
        ("192.0.2.1:80", None),
        ("192.0.2.300", None),
        ("1" * 10_000, None),
    ],
)
def test_address_is_normalized(remote, expected):
    assert address_of(remote) == expected


@pytest.mark.parametrize(("is_embedded", "trusted"), [(1, ""), (0, "127.0.0.1,::1")])
def test_default_trusts_a_proxy_of_this_machine_with_a_database_alone(
    settings, monkeypatch, is_embedded, trusted
):
    monkeypatch.setattr(multiprocess, "share", lambda data_dir: None)
    # That of this process is also of the servers that later tests start.
    monkeypatch.setattr(os, "umask", lambda mask: mask)
    settings.EMBEDDED = is_embedded
    config = runpy.run_path(str(ROOT / "deploy" / "gunicorn.conf.py"))
    assert config["forwarded_allow_ips"] == trusted
