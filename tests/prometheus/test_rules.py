"""The alert rules, checked and tested by promtool. Each rule has a test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from scraping import RULES, SHIPPED

TESTS = Path(__file__).with_name("alerts.yml")


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *words], cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", "--lint-fatal", SHIPPED / "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", RULES)


def test_each_alert_is_raised_and_is_quiet_before() -> None:
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.M)
    tested = re.findall(r"^ +- name: (\w+)$", TESTS.read_text(), re.M)
    assert alerts == tested
    assert "SUCCESS" in promtool("test", "rules", TESTS)
