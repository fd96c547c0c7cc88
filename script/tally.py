#!/usr/bin/python3
"""Counts the cases of one or more `meson test` runs and prints "N passed, N failed[, N skipped]" on the last line.

    tally.py LOGS...        folders meson-logs; exit status 1 when something failed, is missing, or nothing ran

A TAP program counts by its cases, any other test as one. A program that fails without a failed case (it crashed, ran
too long, broke its plan) is one failure more.
"""
import json
import pathlib
import sys
import xml.etree.ElementTree as xml

OUTCOME = {"OK": 0, "EXPECTEDFAIL": 0, "SKIP": 2}  # every other result of the runner is a failure


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return 1
    return 2 if case.find("skipped") is not None else 0


def tally(logs):
    """[passed, failed, skipped] of one run: the programs by testlog.json, the cases of each by its suite in the XML."""
    suites = {suite.get("name").partition(".")[2]: [outcome(case) for case in suite.iter("testcase")]
              for suite in xml.parse(logs / "testlog.junit.xml").getroot().iter("testsuite")}
    total = [0, 0, 0]
    for line in (logs / "testlog.json").read_text(encoding="utf-8").splitlines():
        program = json.loads(line)
        result = OUTCOME.get(program["result"], 1)
        outcomes = suites.get(program["name"], [])
        if not outcomes or (result == 1 and 1 not in outcomes):
            outcomes = outcomes + [result]
        for kind in outcomes:
            total[kind] += 1
    return total


def main(folders):
    total = [0, 0, 0]
    for folder in folders:
        try:
            counted = tally(pathlib.Path(folder))
        except (OSError, ValueError, KeyError, xml.ParseError) as error:
            print("%s: no record of a test run: %s" % (folder, error))
            counted = [0, 1, 0]
        total = [a + b for a, b in zip(total, counted)]
    passed, failed, skipped = total
    print("%d passed, %d failed%s" % (passed, failed, ", %d skipped" % skipped if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
