#!/usr/bin/python3
"""The count that script/test ends with, on records of runs that went well and badly in every way.

    tally.py TALLY          TALLY: script/tally.py. Prints TAP.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

# name, programs of the run as (result, outcomes of their cases), closing line, exit status
RUNS = [
    ("all well", [("OK", "pp"), ("OK", "p")], "3 passed, 0 failed", 0),
    ("a case fails", [("FAIL", "pf"), ("OK", "p")], "2 passed, 1 failed", 1),
    ("a case is skipped", [("OK", "ps")], "1 passed, 0 failed, 1 skipped", 0),
    ("a program crashes after a case", [("ERROR", "p")], "1 passed, 1 failed", 1),
    ("a program crashes before any case", [("ERROR", "")], "0 passed, 1 failed", 1),
    ("a program takes too long", [("TIMEOUT", "pp")], "2 passed, 1 failed", 1),
    ("a program without cases", [("OK", ""), ("SKIP", "")], "1 passed, 0 failed, 1 skipped", 0),
    ("nothing ran", [], "0 passed, 0 failed", 1),
    ("all is skipped", [("OK", "ss")], "0 passed, 0 failed, 2 skipped", 1),
]
CASE = {"p": "<testcase/>", "f": "<testcase><failure/></testcase>", "s": "<testcase><skipped/></testcase>"}


def record(folder, programs):
    """A folder as meson leaves it."""
    suites = ""
    with open(folder / "testlog.json", "w", encoding="utf-8") as log:
        for number, (result, outcomes) in enumerate(programs):
            name = "vramcast / program %d" % number
            log.write(json.dumps({"name": name, "result": result}) + "\n")
            if outcomes:
                suites += '<testsuite name="vramcast.%s">%s</testsuite>' % (name, "".join(CASE[o] for o in outcomes))
    (folder / "testlog.junit.xml").write_text("<testsuites>%s</testsuites>" % suites, encoding="utf-8")


def closing(tally, *folders):
    done = subprocess.run([tally, *folders], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1], done.returncode


def cases(tally):
    for name, programs, line, status in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            record(pathlib.Path(folder), programs)
            yield name, closing(tally, folder), (line, status)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        record(pathlib.Path(one), RUNS[0][1])
        record(pathlib.Path(other), RUNS[1][1])
        yield "two runs add up", closing(tally, one, other), ("5 passed, 1 failed", 1)
        yield "a run that left no record", closing(tally, one, other + "/none"), ("3 passed, 1 failed", 1)


def main(tally):
    results = list(cases(tally))
    print("1..%d" % len(results))
    for number, (name, got, wanted) in enumerate(results, 1):
        print("%s %d - %s" % ("ok" if got == wanted else "not ok", number, name))
        if got != wanted:
            print("# %s instead of %s" % (got, wanted))
    return 0 if all(got == wanted for _, got, wanted in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
