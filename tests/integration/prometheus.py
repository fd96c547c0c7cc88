#!/usr/bin/python3
"""A real Prometheus that scrapes the service: the rules, their tests, and every query of the example dashboard.

    prometheus.py SOURCE VRAMCAST               TAP; starts VRAMCAST and Prometheus on free ports
"""
# needs: prometheus
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import yaml

SOURCE = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(SOURCE / "tests")]
import dashboards
import drift
import served
from ports import free_ports

FOLDER = SOURCE / "integrations/prometheus"
REQUEST = {"model": "llama-3.2-1b", "gpus": "t4", "include": []}


def promtool(*arguments, text=None):
    """What promtool complains about."""
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, cwd=FOLDER)
    return [] if done.returncode == 0 and "FAILED" not in done.stdout else [done.stdout + done.stderr]


@contextlib.contextmanager
def prometheus(port):
    """A Prometheus with the example's settings, but for the target and a quicker pace; yields how to ask it."""
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(FOLDER / "rules.yml")]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": ["127.0.0.1:%d" % port]}]
    own, = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "prometheus.yml"
        file.write_text(yaml.safe_dump(settings))
        process = subprocess.Popen(["prometheus", "--config.file=%s" % file, "--storage.tsdb.path=%s/data" % folder,
                                    "--web.listen-address=127.0.0.1:%d" % own], stderr=subprocess.DEVNULL)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        ask = lambda path, **query: json.load(opener.open("http://127.0.0.1:%d/api/v1/%s?%s" % (
            own, path, urllib.parse.urlencode(query)), timeout=10))["data"]
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(timeout=30)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # it is not listening yet
            if condition():
                return True
        time.sleep(0.5)
    return False


def tool_cases(port):
    text = served.Answer(port, "GET", "/metrics").body.decode()
    yield "promtool finds no fault in /metrics", promtool("check", "metrics", text=text)
    yield "nor in the rules", promtool("check", "rules", "rules.yml")
    yield "nor in the example's settings", promtool("check", "config", "prometheus.yml")
    yield "the rules' tests pass", promtool("test", "rules", "rules_test.yml")


def live_cases(ask, port):
    """Traffic for as long as the rates need, then every rule and panel."""
    def busy(expression):
        served.Answer(port, "POST", "/estimate", REQUEST)
        return ask("query", query=expression)["result"]
    recorded = "vramcast:http_request_duration_seconds:p99_5m{route='/estimate'} > 0"
    yield "Prometheus scrapes the service, and records", [] if until(lambda: busy(recorded)) else ["nothing recorded"]
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    unwell = ["%s: %s" % (rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
    yield "every rule is well", unwell + ([] if len(rules) > 5 else ["only %d rules" % len(rules)])
    yield "no alert goes off", [str(alert) for alert in ask("alerts")["alerts"]]
    board = json.loads((SOURCE / "integrations/grafana/dashboards/vramcast.json").read_text())
    for panel, target in dashboards.targets(board, "prometheus"):
        result = ask("query", query=target["expr"])["result"]
        name = "the panel '%s' has data: %s" % (panel["title"], target["legendFormat"])
        yield name, [] if result else [target["expr"]]


def main(source, vramcast):
    with served.service(source, vramcast) as port, prometheus(port) as ask:
        served.Answer(port, "POST", "/estimate", REQUEST)
        return 0 if drift.report([*tool_cases(port), *live_cases(ask, port)]) else 1


if __name__ == "__main__":
    sys.exit(main(SOURCE, *sys.argv[2:]))
