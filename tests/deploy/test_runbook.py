"""The runbook has a section for each alert."""

import re

from tests.deploy.test_files import DEPLOY


def test_runbook_has_each_alert_in_order():
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    sections = re.findall(r"^## (\w+)$", (DEPLOY / "runbook.md").read_text(), re.M)
    assert sections == alerts
