"""Tracing: without its extra, and its resource; the spans are in test_site.py."""

import os
import subprocess
import sys

import pytest

from resilient_site.observability import tracing
from tests.running import ROOT

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


SHOW_SERVICE = """
from opentelemetry import trace
from resilient_site.observability import otlp
otlp.start("web")
print(trace.get_tracer_provider().resource.attributes["service.name"])
"""


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "resilient-site"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=codes"}, "codes"),
        ({"OTEL_SERVICE_NAME": "codes"}, "codes"),
    ],
)
def test_service_has_the_name_that_opentelemetry_reads(variables, name):
    env = {"PATH": os.environ["PATH"]} | variables
    env |= {"DJANGO_SETTINGS_MODULE": "resilient_site.settings"}
    command = [sys.executable, "-c", SHOW_SERVICE]
    shown = subprocess.check_output(command, cwd=ROOT, env=env, text=True)
    assert shown.strip() == name
