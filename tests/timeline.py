#!/usr/bin/python3
"""script/timeline.py on a real answer: the picture parses and shows what the service says, phase by phase.

    tests/timeline.py SOURCE VRAMCAST       TAP
"""
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

SVG = "{http://www.w3.org/2000/svg}"
REFUSED = '{"model": "llama-3.1-8b", "torch_compile": true, "liger_kernel": true}'


def bars(path, kind):
    """{phase: (bytes, height)} of one kind of bar."""
    found = [node for node in xml.parse(path).iter(SVG + "rect") if node.get("class") == kind]
    return {node.get("data-phase"): (int(node.get("data-bytes")), float(node.get("height"))) for node in found}


def is_to_scale(shown):
    """Whether heights are in proportion to bytes, to what two decimals round."""
    unit = max(height / value for value, height in shown.values())
    return all(abs(height - value * unit) < 0.02 for value, height in shown.values())


def cases(source, vramcast, folder):
    sys.path.insert(0, str(source / "script"))
    sys.dont_write_bytecode = True
    import timeline
    script, config, path = source / "script/timeline.py", source / "config", folder / "drawn.svg"
    subprocess.run([script, vramcast, config, path], check=True)
    answer = timeline.ask(vramcast, config, timeline.REQUEST)
    said = {kind: {row["phase"]: row[kind + "_bytes"] for row in answer["timeline"]}
            for kind in ("allocated", "reserved")}
    yield "the answer has phases", len(said["allocated"]) >= 5, answer["timeline"]
    for kind in said:
        shown = bars(path, kind)
        got = {phase: value for phase, (value, _) in shown.items()}
        yield "a bar for what each phase has %s" % kind, got == said[kind], got
        yield "bars of %s are to scale" % kind, is_to_scale(shown), shown
    cards = [node for node in xml.parse(path).iter(SVG + "line") if node.get("class") == "card"]
    yield "the card is a line", len(cards) == 1, len(cards)
    refused = subprocess.run([script, vramcast, config, folder / "none.svg", REFUSED], capture_output=True, text=True,
                             check=False)
    yield "a refused request leaves no picture and says why", refused.returncode == 1 and \
        "/torch_compile" in refused.stderr and not (folder / "none.svg").exists(), refused.stderr
    yield "docs/timeline.svg has the same phases", \
        list(bars(source / "docs/timeline.svg", "allocated")) == list(said["allocated"]), "script/timeline draws it anew"


def main(source, vramcast):
    with tempfile.TemporaryDirectory() as folder:
        results = list(cases(pathlib.Path(source), vramcast, pathlib.Path(folder)))
    print("1..%d" % len(results))
    for number, (name, good, told) in enumerate(results, 1):
        print("%s %d - %s" % ("ok" if good else "not ok", number, name))
        if not good:
            print("# %s" % (told,))
    return 0 if all(good for _, good, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
