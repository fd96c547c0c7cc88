#!/usr/bin/python3
"""accuracy --group-by family: its groups are those of the rows' models, and their counts add up to the rows.

    families.py SOURCE ACCURACY     TAP
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

GROUP = re.compile(r"(.{42}) rows +(\d+)  refused +(\d+)$", re.MULTILINE)


def printed(accuracy, path, source, *options):
    """{group: (rows, refused)} that accuracy prints of a file, and the same of all."""
    done = subprocess.run([accuracy, *options, path], check=True, capture_output=True, text=True,
                          env={"VRAMCAST_SOURCE": str(source)})
    found = [(name.strip(), (int(rows), int(refused))) for name, rows, refused in GROUP.findall(done.stdout)]
    groups = dict(found)
    if len(groups) != len(found):
        raise RuntimeError("a group is printed twice: %s" % [name for name, _ in found])
    return groups, groups.pop("all")


def families(source, path):
    """{family: rows} as the catalogue and the rows' own shapes say."""
    catalogue = json.loads((source / "config/models.json").read_text(encoding="utf-8"))
    shapes = {row["id"]: row["config"] for row in catalogue}
    models = [json.loads(line)["request"]["model"] for line in path.read_text(encoding="utf-8").splitlines()]
    return collections.Counter((shapes[model] if isinstance(model, str) else model)["model_type"] for model in models)


def cases(source, accuracy):
    for name in ("single", "distributed"):
        path = source / "tests/truth" / (name + ".jsonl")
        groups, whole = printed(accuracy, path, source)
        by_family, same = printed(accuracy, path, source, "--group-by", "family")
        wanted = families(source, path)
        counts = {family: rows for family, (rows, _) in by_family.items()}
        yield "%s: the families are the models'" % name, counts == dict(wanted), (counts, dict(wanted))
        for kind, found in (("groups", groups), ("families", by_family)):
            sums = tuple(map(sum, zip(*found.values())))
            yield "%s: %s add up to all rows" % (name, kind), sums == whole, (sums, whole)
        yield "%s: all is the same either way" % name, whole == same, (whole, same)
        yield "%s: groups and families differ" % name, set(groups) != set(by_family), sorted(groups)


def main(source, accuracy):
    results = list(cases(pathlib.Path(source), accuracy))
    print("1..%d" % len(results))
    for number, (name, good, told) in enumerate(results, 1):
        print("%s %d - %s" % ("ok" if good else "not ok", number, name))
        if not good:
            print("# %s" % (told,))
    return 0 if all(good for _, good, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
