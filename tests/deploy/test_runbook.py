"""Whoever is woken by an alert finds what to do."""

import re

from tests.deploy.test_files import DEPLOY


def test_every_alert_has_its_place_in_the_runbook():
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    places = re.findall(r"^## (\w+)$", (DEPLOY / "runbook.md").read_text(), re.M)
    assert places == alerts
