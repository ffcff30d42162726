"""The alert rules: their metrics exist, Prometheus takes and fires them, and each one has its runbook.

tests/integration/test_night_drill.py walks the runbooks on real workers.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from sfworker.cli import _parser
from sfworker.errors import published_error_types
from sfworker.listening import State
from sfworker.telemetry import INCIDENTS, METRICS
from tests.documents.shell import ROOT, Block, commands
from tests.documents.test_commands import DEPLOY
from tests.documents.test_metrics_table import prometheus_name
from tests.documents.test_tables import rows

RULES = ROOT / "deploy" / "observability" / "alerts.yaml"
_BLOCK = re.compile(r"^<!-- (.*) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that are not ours."""


def alerts() -> list[dict[str, Any]]:
    """The rules."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def runbook(alert: str) -> list[str]:
    """The commands of an alert's section in deploy/README.md, without comments."""
    section = DEPLOY.read_text().partition(f"\n### `{alert}`\n")[2].partition("\n#")[0]
    [(note, text)] = _BLOCK.findall(section)
    assert Block(note, "sh", text).note == "run by tests/integration/test_night_drill.py"
    return [re.sub(r" +# .*$", "", command) for command in commands(text)]


def exported() -> dict[str, set[str]]:
    """Each metric that workers and gateways tell to Prometheus, with its labels."""
    found = {}
    for name, metric in METRICS.items():
        for part in ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",):
            found[prometheus_name(name) + part] = {each.replace(".", "_") for each in metric.attributes}
    for _, _, name, attributes in rows(DEPLOY, "metric of a gateway"):
        labels = re.findall(r"`(sfworker\.\w+)`", attributes)
        found[name.strip("`")] = {each.replace(".", "_") for each in labels}
    return found


def unknown(expression: str) -> set[str]:
    """Names in a query that nobody exports: metrics, and labels of all that it asks for."""
    there = exported()
    asked = set(re.findall(r"\bsfworker_\w+(?![\w=])(?!=~)", expression)) & set(there)
    labels = OF_PROMETHEUS.union(*(there[name] for name in asked))
    words = re.findall(r"(\w+) *(?:=~|!=|!~|=)\"", expression)
    for listed in re.findall(r"\b(?:by|without|on|ignoring) *\(([^)]*)\)", expression):
        words += re.findall(r"\w+", listed)
    names = set(re.findall(r"\bsfworker_\w+", expression)) - set(words)
    return (names - set(there)) | (set(words) - labels)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_what_a_rule_asks_for_exists(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == set()
    values = dict(re.findall(r'(\w+)=~?"([^"]*)"', rule["expr"]))
    [state] = [get_args(hint) for name, hint in get_type_hints(State).items() if name == "state"]
    known = {
        "sfworker_incident": set(INCIDENTS),
        "sfworker_state": set(state),
        "error_type": set(published_error_types()),
        "sfworker_outcome": {"absent"},
    }
    for label, value in values.items():
        assert set(value.split("|")) <= known[label]
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {
        *OF_PROMETHEUS,
        *(label for labels in exported().values() for label in labels),
    }
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_names_that_nobody_exports_are_found() -> None:
    assert unknown('sum by (instance) (sfworker_slots_free{sfworker_tenat=""}) > sfworker_no_such') == {
        "sfworker_tenat",
        "sfworker_no_such",
    }


def test_each_alert_has_a_runbook_of_three_commands_and_each_runbook_an_alert() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert sorted(re.findall(r"^### `(Sfworker\w+)`$", DEPLOY.read_text(), re.MULTILINE)) == sorted(names)
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"deploy/README.md#{rule['alert'].lower()}"
        said = runbook(rule["alert"])
        assert len(said) == 3
        for command in said:
            words = shlex.split(command)
            if words[0] == "sfworker":
                _parser().parse_args(words[1:])
            else:
                assert words[0] in {"grep", "journalctl", "openssl", "python", "redis-cli", "uptime"}


@pytest.mark.parametrize(
    "words", [["check", "rules", RULES], ["test", "rules", Path(__file__).with_name("alerts.yaml")]]
)
def test_promtool_takes_and_fires_them(words: list[Any]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    answer = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_each_alert_is_one_that_promtool_has_seen_fire() -> None:
    fired = re.findall(r"\b(Sfworker\w+)", Path(__file__).with_name("alerts.yaml").read_text())
    assert set(fired) == {rule["alert"] for rule in alerts()}
