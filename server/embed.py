#!/usr/bin/python3
"""Makes the C file that holds what the program serves as it is: the description in both forms, and the files of the page.

    embed.py OUTPUT.c openapi.yaml PAGE_FILE...

Each becomes a struct srv_asset: name, media type, bytes, length, a hash of them for the ETag.
"""
import hashlib
import json
import pathlib
import sys

import yaml

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def c_bytes(data):
    lines = (", ".join("0x%02x" % byte for byte in data[at:at + 16]) for at in range(0, len(data), 16))
    return ",\n\t".join(lines)


def asset(name, media_type, variable, data):
    """The bytes as an array, and the initialiser of the asset that has them."""
    tag = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    return ("static const unsigned char %s_bytes[] = {\n\t%s\n};\n" % (variable, c_bytes(data)),
            '{ "%s", "%s", %s_bytes, sizeof %s_bytes, UINT64_C(0x%016x) }' % (name, media_type, variable, variable, tag))


def alone(media_type, variable, data):
    array, initialiser = asset(variable, media_type, variable, data)
    return "%sconst struct srv_asset srv_%s = %s;\n" % (array, variable, initialiser)


def page(files):
    rows = [asset(file.name, TYPES[file.suffix], "page_%d" % number, file.read_bytes())
            for number, file in enumerate(files)]
    return "%s\nconst struct srv_asset srv_page[] = {\n\t%s,\n};\nconst size_t srv_page_count = %d;\n" % (
        "\n".join(array for array, _ in rows), ",\n\t".join(row for _, row in rows), len(rows))


def main(output, description, *files):
    text = pathlib.Path(description).read_bytes()
    document = json.dumps(yaml.safe_load(text), ensure_ascii=False, separators=(",", ":")).encode()
    parts = ['/* Made by embed.py. */\n#include "server/assets.h"\n', alone("application/yaml", "openapi_yaml", text),
             alone("application/json", "openapi_json", document), page([pathlib.Path(file) for file in files])]
    pathlib.Path(output).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
