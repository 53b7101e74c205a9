"""The dashboard and the alerts that we ship, asked of a real Prometheus that scrapes a server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.http_client import OTHER_TOKEN, HttpClient
from tests.support.processes.server import http_server
from tests.support.processes.worker import wait_until
from tests.support.services.prometheus import DEPLOY, Prometheus, need, prometheus

pytestmark = pytest.mark.slow

VARIABLES: Final = {"$__rate_interval": "1m", "$instance": ".*", "$label": "hate"}
# What has nothing to tell about a server that is well: nobody is refused, nothing failed.
MAY_BE_EMPTY: Final = {"changes(process_start_time_seconds"}


@dataclass
class Watched:
    """A server under load, and the Prometheus that scrapes it."""

    server: HttpClient
    watcher: Prometheus

    def load(self) -> None:
        """Send some of everything that a panel shows."""
        server = self.server
        texts = ["good morning", "win a free phone now", "", "доброе утро"]
        body = {"texts": texts, "thresholds": {"neutral": 0.01}}
        assert server.post("/score", json=body).status_code == 200
        server.post("/v1/moderations", json={"input": texts[:2]})
        server.finished(server.run({"prompt": "good morning"}))
        server.get("/score?text=hello", headers={})
        server.get("/nowhere")


@pytest.fixture(scope="module")
def watched(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with http_server(folder, small_checkpoint) as server:
        server.ready()
        with prometheus(folder, f"127.0.0.1:{server.port}", OTHER_TOKEN) as watcher:
            watched = Watched(server, watcher)

            def seen() -> bool:
                watched.load()
                # The series that appears last: its rate needs two scrapes, as all others do.
                last = 'sum(rate(hate_speech_requests_total{code="404"}[1m])) > 0'
                return bool(watcher.query(last))

            wait_until(seen, "a rate", watch=watcher.require_running)
            yield watched


def dashboard() -> dict[str, Any]:
    """Return the dashboard that we ship."""
    found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    return found


def expressions() -> list[tuple[str, str]]:
    """Return the title of each panel with each of its expressions, its variables filled in."""
    found = [
        (panel["title"], target["expr"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]
    found += [(each["name"], each["expr"]) for each in dashboard()["annotations"]["list"]]
    assert len(found) > 25
    for name, value in VARIABLES.items():
        found = [(title, expression.replace(name, value)) for title, expression in found]
    assert not any("$" in expression for _, expression in found)
    return found


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_a_panel_shows_data(watched: Watched, title: str, expression: str) -> None:
    series = watched.watcher.query(expression)
    assert series or any(expression.startswith(start) for start in MAY_BE_EMPTY)
    values = [each["value"][1] for each in series]
    assert any(value != "NaN" for value in values) or not series


def test_the_server_is_scraped_with_its_token(watched: Watched) -> None:
    (target,) = watched.watcher.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["scrapePool"] == "hatespeech"


def test_every_alert_is_loaded_and_evaluated_and_none_fires(watched: Watched) -> None:
    def evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in loaded())

    def loaded() -> list[dict[str, Any]]:
        (group,) = watched.watcher.api("rules")["groups"]
        rules: list[dict[str, Any]] = group["rules"]
        return rules

    shipped = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    names = [rule["alert"] for rule in shipped["groups"][0]["rules"]]
    assert [rule["name"] for rule in loaded()] == names
    wait_until(evaluated, "the rules to be evaluated", watch=watched.watcher.require_running)
    for rule in loaded():
        watched.watcher.query(rule["query"])
        assert "lastError" not in rule
    states = {alert["state"] for alert in watched.watcher.api("alerts")["alerts"]}
    assert "firing" not in states


def test_every_metric_of_an_alert_or_a_panel_is_one_that_the_server_has(watched: Watched) -> None:
    named = set(re.findall(r"(?:hate_speech|process)_\w+", (DEPLOY / "alerts.yml").read_text()))
    for _, expression in expressions():
        named.update(re.findall(r"(?:hate_speech|process)_\w+", expression))
    there = set(watched.watcher.api("label/__name__/values"))
    assert named <= there


def test_the_alerts_fire_on_what_they_are_for() -> None:
    promtool = need("promtool")
    for command in (
        ["check", "rules", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", "alerts.test.yml"],
    ):
        ran = subprocess.run(
            [promtool, *command],
            cwd=DEPLOY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_has_what_grafana_needs() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert board["uid"] == "hatespeech"
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
    sources, boards = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((DEPLOY / "grafana" / "provisioning").glob("*/*.yml"), reverse=True)
    )
    sources, boards = (sources, boards) if "datasources" in sources else (boards, sources)
    assert sources["datasources"][0]["uid"] == "prometheus"
    assert boards["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
