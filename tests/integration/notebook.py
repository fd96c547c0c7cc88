#!/usr/bin/python3
"""The notebook of integrations/notebook, run from top to bottom against the service, with Debian's pandas and matplotlib.

    notebook.py SOURCE VRAMCAST      TAP; starts VRAMCAST on a free port
"""
# needs: python3-pandas python3-matplotlib
import ast
import json
import os
import pathlib
import sys

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
FOLDER = SOURCE / "integrations/notebook"
sys.path[:0] = [str(SOURCE / "tests"), str(FOLDER)]
os.environ["MPLBACKEND"] = "agg"
import served


def run(text, names):
    """Runs a cell; what its last expression comes to, as a notebook shows it."""
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def expect(names):
    """What the notebook has to have come to: name, whether it has."""
    import matplotlib.pyplot as plt
    fits, lines = names["fits"], names["lines"]
    yield "the cards of one run are told apart", fits["verdict"].iloc[-1] == "fits" and fits["required_bytes"].nunique() > 1
    yield "assumptions are shown", "/lora/rank" in set(names["assumptions"]["pointer"])
    yield "a sweep has a row for each length and a column for each way of checkpointing", lines.shape == (5, 2)
    yield "longer sequences need more, and no checkpoints more than full ones", bool(
        lines["none"].is_monotonic_increasing and (lines["none"] >= lines["full"]).all())
    yield "a figure was drawn", len(plt.get_fignums()) == 1 and len(plt.gca().lines) == 3
    yield "plans came, and each is confirmed", bool(names["plan"]["plans"]) and all(
        confirmed(names["service"], plan) for plan in names["plan"]["plans"])


def confirmed(service, plan):
    return service.estimate(**plan["request"])["fits"][0]["verdict"] in ("fits", "tight")


def main():
    names, number, good = {}, 0, True
    notebook = json.loads((FOLDER / "memory.ipynb").read_text(encoding="utf-8"))
    with served.service(SOURCE, VRAMCAST) as port:
        os.environ["VRAMCAST_URL"] = "http://127.0.0.1:%d" % port
        for number, cell in enumerate([cell for cell in notebook["cells"] if cell["cell_type"] == "code"], 1):
            value = run("".join(cell["source"]), names)
            print("ok %d - cell %d runs" % (number, number))
            if value is not None:
                print("".join("#   %s\n" % line for line in str(value).splitlines()), end="")
        for name, right in expect(names):
            number += 1
            good = good and right
            print("%sok %d - %s" % ("" if right else "not ", number, name))
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()
