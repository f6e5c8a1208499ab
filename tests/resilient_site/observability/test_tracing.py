"""Tracing that is asked for and not installed; the spans are in test_site.py."""

import sys

import pytest

from resilient_site.observability import tracing

pytestmark = pytest.mark.once


def test_endpoint_without_the_extra_is_logged_and_the_site_starts(
    settings, monkeypatch, caplog
):
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:9"
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "resilient_site.observability.otlp", False)
    tracing._otlp.cache_clear()
    try:
        tracing.instrument()
        assert tracing.instrument_asgi(monkeypatch) is monkeypatch
        tracing.start("web")
    finally:
        tracing._otlp.cache_clear()
    (message,) = caplog.messages
    assert "pip install 'resilient-site[otel]'" in message
