#!/usr/bin/python3
"""Makes the C file that holds what the program serves as it is: the description in both forms, and the page.

    embed.py openapi.yaml page.html OUTPUT.c

Each becomes a struct srv_asset: bytes, length, a hash of them for the ETag. The page's inline style and script are allowed by
their own hashes in its Content-Security-Policy, which is made here too, so that it never drifts.
"""
import base64
import hashlib
import json
import re
import sys

import yaml


def c_bytes(data):
    lines = (", ".join("0x%02x" % byte for byte in data[at:at + 16]) for at in range(0, len(data), 16))
    return ",\n\t".join(lines)


def asset(name, data, policy=None):
    tag = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    quoted = "0" if policy is None else '"%s"' % policy
    return ("static const unsigned char %s_bytes[] = {\n\t%s\n};\n"
            "const struct srv_asset srv_%s = {\n\t%s_bytes, sizeof %s_bytes, UINT64_C(0x%016x),\n\t%s\n};\n"
            % (name, c_bytes(data), name, name, name, tag, quoted))


def policy_of(page):
    def sources(tag):
        inline = re.findall(r"<%s>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in inline)
        return " ".join("'sha256-%s'" % base64.b64encode(digest).decode() for digest in digests) or "'none'"

    return ("default-src 'none'; script-src %s; style-src %s; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'" % (sources("script"), sources("style")))


def main(description, page_file, output):
    with open(description, "rb") as file:
        text = file.read()
    with open(page_file, encoding="utf-8") as file:
        page = file.read()
    document = json.dumps(yaml.safe_load(text), ensure_ascii=False, separators=(",", ":")).encode()
    parts = ['/* Made by embed.py. */\n#include "server/assets.h"\n', asset("openapi_yaml", text),
             asset("openapi_json", document), asset("page", page.encode(), policy_of(page))]
    with open(output, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
