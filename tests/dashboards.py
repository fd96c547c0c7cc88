#!/usr/bin/python3
"""The example dashboard for Grafana and the rules for Prometheus, by what the running service answers.

    dashboards.py SOURCE VRAMCAST               TAP; starts VRAMCAST on a free port

Every query of the dashboard is asked as Grafana's Infinity source does, with each choice of its variables in turn, and
has to bring the columns that the panel shows. Every metric and label that a rule or a panel names has to be in /metrics.
"""
import itertools
import json
import pathlib
import re
import sys
import urllib.parse

import yaml

import drift
import served

FORMATS = {"percentencode": lambda values: urllib.parse.quote(values[0], safe=""), "csv": ",".join,
           None: lambda values: values[0] if len(values) == 1 else "{%s}" % ",".join(values)}
VARIABLE = re.compile(r"\$\{(\w+)(?::(\w+))?\}")
# What Prometheus itself adds to every series, and the words of PromQL.
SCRAPED = {"job", "instance", "le"}
WORDS = {"sum", "by", "rate", "increase", "or", "vector", "histogram_quantile"}


def fill(text, values):
    """text with its variables, written as Grafana writes them."""
    return VARIABLE.sub(lambda found: FORMATS[found.group(2)](values[found.group(1)]), text)


def defaults(board):
    chosen = {row["name"]: row["current"]["value"] for row in board["templating"]["list"]}
    return {name: [value] if isinstance(value, str) else value for name, value in chosen.items()}


def settings(board):
    """The variables as they come, then each other choice of each."""
    usual = defaults(board)
    yield usual
    for row in board["templating"]["list"]:
        for option in row["options"]:
            if [option["value"]] != usual[row["name"]]:
                yield {**usual, row["name"]: [option["value"]]}


def targets(board, kind):
    return [(panel, target) for panel in board["panels"] for target in panel["targets"]
            if target["datasource"]["type"] == kind]


def ask(port, target, values):
    options = target["url_options"]
    body = fill(options["data"], values).encode() if "data" in options else None
    return served.Answer(port, options["method"], fill(target["url"], values), body)


def column_faults(target, rows):
    """Columns that no row has, or not as what they are shown as."""
    for column in target["columns"]:
        found = [row[column["selector"]] for row in rows if column["selector"] in row]
        right = [value for value in found if isinstance(value, (int, float)) or column["type"] == "string"]
        if len(right) < len(rows):
            yield "%s: in %d of %d rows" % (column["selector"], len(right), len(rows))


def query_cases(board, port):
    for panel, target in targets(board, "yesoreyeram-infinity-datasource"):
        lines = []
        for values in settings(board):
            answer = ask(port, target, values)
            rows = answer.value if answer.status == 200 else []
            lines += [] if rows else ["%s: %d %.200s" % (values, answer.status, answer.body.decode())]
            lines += column_faults(target, rows)
        yield "the panel '%s' gets its columns" % panel["title"], lines
        texts = {column["text"] for column in target["columns"]}
        series = [axis for row in panel.get("options", {}).get("series", []) for axis in row.values()]
        named = {row["matcher"]["options"] for row in panel["fieldConfig"]["overrides"] + series}
        yield "and shows no other", sorted(named - texts)


def overlap(a, b):
    return all(one[at] < other[at] + other[extent] for one, other in ((a, b), (b, a)) for at, extent in ("xw", "yh"))


def board_cases(board, sources):
    boxes = [panel["gridPos"] for panel in board["panels"]]
    yield "no panel lies on another or sticks out", \
        ["%s %s" % pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)] + \
        [str(box) for box in boxes if box["x"] + box["w"] > 24]
    ids = [panel["id"] for panel in board["panels"]]
    yield "no id of a panel stands twice", sorted({one for one in ids if ids.count(one) > 1})
    known = {(row["uid"], row["type"]) for row in sources["datasources"]}
    used = {(target["datasource"]["uid"], target["datasource"]["type"])
            for panel in board["panels"] for target in panel["targets"]}
    yield "its data sources are the provisioned ones", [str(pair) for pair in sorted(known ^ used)]
    used = set(name for name, _ in VARIABLE.findall(json.dumps(board["panels"])))
    yield "its variables are those that are used", sorted(used ^ set(defaults(board)))


def metrics_of(port):
    """The names of /metrics, and the labels that stand in it."""
    text = served.Answer(port, "GET", "/metrics").body.decode()
    names = set(re.findall(r"^([a-z_]+)", text, re.MULTILINE)) | set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    return names, set(re.findall(r'[{,](\w+)="', text))


def expression_faults(expression, names, labels):
    inner = re.findall(r"(?:\{|\bby \()([^})]*)", re.sub(r'"[^"]*"', "", expression))
    used = {label for text in inner for label in re.findall(r"\w+", text)}
    bare = re.sub(r"\{[^}]*\}|\bby \([^)]*\)|\[\w+\]", "", expression)
    found = set(re.findall(r"\b[a-zA-Z_][\w:]*", bare)) - WORDS
    return ["no metric %s" % name for name in sorted(found - names)] + \
        ["no label %s" % name for name in sorted(used - labels)] + ([] if found else ["no metric in " + expression])


def rule_cases(board, source, port):
    folder = source / "integrations/prometheus"
    rules = [rule for group in yaml.safe_load((folder / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((folder / "rules_test.yml").read_text())["tests"]
    names, labels = metrics_of(port)
    names |= {"up"} | {rule["record"] for rule in rules if "record" in rule}
    labels |= SCRAPED
    shown = [(panel["title"], target["expr"]) for panel, target in targets(board, "prometheus")]
    asked = [(rule.get("record", rule.get("alert")), rule["expr"]) for rule in rules]
    for title, expression in asked + shown:
        yield "what '%s' asks for is measured" % title, expression_faults(expression, names, labels)
    cases = [case for test in tests for case in test["alert_rule_test"]] if tests else []
    for alert in [rule["alert"] for rule in rules if "alert" in rule]:
        told = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert}
        yield "a test has %s go off, and one not" % alert, [] if told == {True, False} else [str(told)]
    noticed = ["sum(vramcast_nothing)", 'vramcast_http_requests_total{rout="/"}', "sum by (rout) (vramcast_connections)"]
    yield "noticed: a metric or a label that is not", \
        [expression for expression in noticed if not expression_faults(expression, names, labels)]


def cases(source, port):
    folder = source / "integrations/grafana"
    board = json.loads((folder / "dashboards/vramcast.json").read_text())
    sources = yaml.safe_load((folder / "provisioning/datasources/vramcast.yml").read_text())
    yield from board_cases(board, sources)
    yield from query_cases(board, port)
    yield from rule_cases(board, source, port)


def main(source, vramcast):
    source = pathlib.Path(source)
    with served.service(source, vramcast) as port:
        return 0 if drift.report(cases(source, port)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
