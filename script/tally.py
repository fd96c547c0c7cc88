#!/usr/bin/python3
"""Counts the cases of one or more `meson test` runs and prints "N passed, N failed[, N skipped]" on the last line.

    tally.py LOGS...        folders meson-logs; exit status 1 when something failed, is missing, or nothing ran

A TAP program counts by its cases, any other test as one. A program that fails without a failed case (it crashed, ran too
long, broke its plan) counts as one failure more.
"""
import json
import pathlib
import sys
import xml.etree.ElementTree as xml


def cases(logs):
    """Program -> (passed, failed, skipped) by the runner's JUnit record, where a TAP program is a suite of its own."""
    found = {}
    for suite in xml.parse(logs / "testlog.junit.xml").getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            bad = case.find("failure") is not None or case.find("error") is not None
            skipped = case.find("skipped") is not None
            row = found.setdefault(suite.get("name"), [0, 0, 0])
            row[1 if bad else 2 if skipped else 0] += 1
    return found


def tally(logs):
    total = cases(logs)
    with open(logs / "testlog.json", encoding="utf-8") as lines:
        programs = [json.loads(line) for line in lines]
    passed, failed, skipped = (sum(row[i] for row in total.values()) for i in range(3))
    for program in programs:
        name = program["name"].rpartition(" / ")[2].replace("vramcast:", "")
        own = [row for suite, row in total.items() if suite.split(".")[-1].split(":")[-1] == name]
        if program["result"] in ("FAIL", "ERROR", "TIMEOUT", "INTERRUPT", "UNEXPECTEDPASS") \
                and not any(row[1] for row in own):
            print("%s: %s without a failed case" % (program["name"], program["result"]))
            failed += 1
    return passed, failed, skipped


def main(folders):
    total, broken = [0, 0, 0], 0
    for folder in folders:
        try:
            counted = tally(pathlib.Path(folder))
        except (OSError, ValueError, KeyError, xml.ParseError) as error:
            print("%s: no record of a test run: %s" % (folder, error))
            counted, broken = (0, 1, 0), 1
        total = [a + b for a, b in zip(total, counted)]
    passed, failed, skipped = total
    print("%d passed, %d failed%s" % (passed, failed, ", %d skipped" % skipped if skipped else ""))
    return 1 if failed or broken or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
