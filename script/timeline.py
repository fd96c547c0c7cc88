#!/usr/bin/python3
"""The timeline of one training step as an SVG: a bar for each phase, allocated within reserved.

    timeline.py VRAMCAST CATALOG FILE.svg [REQUEST]     starts VRAMCAST on a free port and asks it
"""
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import xml.etree.ElementTree as xml

REQUEST = """{"model": "llama-3.1-8b", "method": "lora", "precision": "bf16_mixed", "micro_batch_size": 2,
  "sequence_length": 2048, "gradient_checkpointing": true, "gpus": ["a100-40gb"]}"""
WIDTH, BAR, STEP, LEFT, TOP, HEIGHT = 760, 72, 112, 64, 56, 260
GIB = 1 << 30


def ask(vramcast, catalog, body):
    """The service's answer to one POST /estimate; its problem in words is an error."""
    process = subprocess.Popen([vramcast, "--listen", "127.0.0.1:0", "--catalog", catalog],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        found = None
        for line in process.stdout:
            found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", line)
            if found:
                break
        if not found:
            raise SystemExit("timeline: the service did not start")
        question = urllib.request.Request(found.group(1) + "/estimate", body.encode(),
                                          {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(question, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit("timeline: " + error.read().decode()) from None
    finally:
        process.terminate()
        process.wait()


def text(parent, x, y, words, **attributes):
    attributes = {key.replace("_", "-"): str(value) for key, value in attributes.items()}
    xml.SubElement(parent, "text", x=str(x), y=str(y), **attributes).text = words


def bar(parent, kind, phase, value, x, scale, fill):
    """A bar from the ground line up, with its bytes for those who point at it."""
    height = value * scale
    box = xml.SubElement(parent, "rect", {
        "class": kind, "data-phase": phase, "data-bytes": str(value), "x": str(x), "width": str(BAR),
        "y": "%.2f" % (TOP + HEIGHT - height), "height": "%.2f" % height, "fill": fill, "stroke": "#1f4e79"})
    xml.SubElement(box, "title").text = "%s, %s: %s bytes" % (phase, kind, format(value, ","))


def draw(answer):
    """The answer's timeline as an svg element."""
    fit, timeline = answer["fits"][0], answer["timeline"]
    most = max([fit["memory_bytes"]] + [row["reserved_bytes"] for row in timeline])
    scale = HEIGHT / most
    svg = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": "0 0 %d 372" % WIDTH,
                              "font-family": "sans-serif", "font-size": "12"})
    xml.SubElement(svg, "rect", width=str(WIDTH), height="372", fill="white")
    text(svg, LEFT, 22, "One training step of %s on %s: %s" % (answer["model"]["id"], fit["name"], fit["verdict"]),
         font_size=15)
    text(svg, LEFT, 40, "dark: allocated, light: reserved, dashed: the card; GiB, the most within each phase")
    for number, row in enumerate(timeline):
        x = LEFT + number * STEP
        for kind, fill in (("reserved", "#cfe2f3"), ("allocated", "#3d85c6")):
            bar(svg, kind, row["phase"], row[kind + "_bytes"], x, scale, fill)
        text(svg, x, TOP + HEIGHT + 18, row["phase"].replace("_", " "))
        text(svg, x, TOP + HEIGHT + 34, "%.2f / %.2f" % (row["allocated_bytes"] / GIB, row["reserved_bytes"] / GIB))
    y = "%.2f" % (TOP + HEIGHT - fit["memory_bytes"] * scale)
    xml.SubElement(svg, "line", {"class": "card", "x1": str(LEFT - 8), "x2": str(WIDTH - 24), "y1": y, "y2": y,
                                 "stroke": "#c00", "stroke-dasharray": "6 4"})
    text(svg, 8, y, "%.1f" % (fit["memory_bytes"] / GIB), fill="#c00")
    return svg


def main(vramcast, catalog, path, body=REQUEST):
    svg = draw(ask(vramcast, catalog, body))
    xml.indent(svg)
    with open(path, "w", encoding="utf-8") as file:
        file.write(xml.tostring(svg, encoding="unicode") + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
