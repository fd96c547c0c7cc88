#!/usr/bin/python3
"""The dashboard page as it is served, without a browser: headers, references, and that what it names exists in the API.

    page.py SOURCE VRAMCAST                     TAP; starts VRAMCAST on a free port

In the page's scripts every name with an underscore is one of the API's (its own are written likeThis).
"""
import html.parser
import pathlib
import posixpath
import re
import sys

import drift
import schema
import served

POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
    "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NAMESPACE = "http://www.w3.org/2000/svg"
# What would read text as markup, as script, or as style: the policy refuses it, so nothing may need it.
DANGEROUS = (r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(.style|"
             r"javascript:")


class Markup(html.parser.HTMLParser):
    """What a page's markup refers to, what is written inline in it, which controls have no label."""

    def __init__(self, text):
        super().__init__()
        self.references, self.inline, self.ids, self.labels, self.controls, self.within = [], [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.references += [attributes[name] for name in ("src", "href", "action") if name in attributes]
        self.inline += ["%s=" % name for name in attributes if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or tag == "script" and "src" not in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.labels |= {attributes["for"]} if tag == "label" and "for" in attributes else set()
        if tag in ("input", "select", "textarea") and "label" not in self.within:
            self.controls.append(attributes.get("id"))
        if tag in ("label", "main"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        if tag in self.within:
            self.within.remove(tag)


def policy_of(answer):
    rules = (rule.split(None, 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
    return {name: value.strip() for name, value in rules}


def header_faults(answer, suffix):
    lines = [] if answer.status == 200 else ["status %d" % answer.status]
    lines += [] if answer.media == TYPES[suffix] else ["Content-Type %s" % answer.media]
    lines += [] if policy_of(answer) == POLICY else [answer.headers["Content-Security-Policy"]]
    wanted = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    told = {name: answer.headers.get(name) for name in wanted}
    return lines + ([] if told == wanted else [str(told)])


def file_cases(files, port):
    """Every file is served as it lies there, and again only when it changed."""
    for name, data in files.items():
        answer = served.Answer(port, "GET", "/page/" + name)
        again = served.Answer(port, "GET", "/page/" + name, headers={"If-None-Match": answer.headers["ETag"]})
        yield "%s is served" % name, header_faults(answer, pathlib.Path(name).suffix) + \
            ([] if answer.body == data else ["another body"]) + \
            ([] if again.status == 304 else ["again: %d" % again.status])
    page = served.Answer(port, "GET", "/")
    yield "/ is the page", header_faults(page, ".html") + ([] if page.body == files["index.html"] else ["another body"])
    missing = served.Answer(port, "GET", "/page/nothing.js")
    yield "no other file is", [] if missing.status == 404 else ["status %d" % missing.status]


def reached(files):
    """The files of the page that are referred to, from the page on; paths that lead elsewhere."""
    todo, met, stray = ["index.html"], set(), []
    while todo:
        name = todo.pop()
        if name in met:
            continue
        met.add(name)
        text = files[name].decode()
        if name == "index.html":
            found = [("", reference) for reference in Markup(text).references]
        else:
            found = [("page", reference) for reference in re.findall(r'(?:from|import) "([^"]+)"|url\(([^)]+)\)', text)
                     for reference in reference if reference]
        for folder, reference in found:
            path = posixpath.normpath(posixpath.join(folder, reference.partition("?")[0].partition("#")[0]))
            if path.startswith("page/") and path[5:] in files:
                todo.append(path[5:])
            else:
                stray.append(path)
    return met, stray


def found_in(texts, pattern):
    return ["%s: %s" % (name, found) for name in sorted(texts) for found in re.findall(pattern, texts[name])]


def reference_cases(files, description):
    met, stray = reached(files)
    routes = {path.lstrip("/") for path in description["paths"]} | {".", ""}
    yield "it refers to its own files and the service's paths alone", [path for path in stray if path not in routes]
    yield "every file is referred to", sorted(set(files) - met)
    text = {name: data.decode().replace(NAMESPACE, "") for name, data in files.items()}
    scripts = {name: body for name, body in text.items() if name.endswith(".js")}
    yield "no address of another server stands in it", found_in(text, r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+")
    asked = {found for name in text for found in re.findall(r'\b(?:get|post)\([`"]([^`"?]+)', text[name])}
    yield "what it asks for is described", sorted(asked - routes) if len(asked) > 4 else ["only %s" % asked]
    markup = Markup(text["index.html"])
    yield "nothing is written inline, nor made of text", markup.inline + found_in(scripts, DANGEROUS)
    yield "every control has a label", [str(control) for control in markup.controls if control not in markup.labels]
    yield "no id stands twice", sorted({one for one in markup.ids if markup.ids.count(one) > 1})
    used = {found for name in text for found in re.findall(r'byId\("([^"]+)"\)', text[name])}
    made = {found for name in text for found in re.findall(r'\bid: "([^"]+)"', text[name])}
    yield "every element that a script looks for is there", sorted(used - set(markup.ids) - made)


def names_of(node):
    """Every property and word of a description."""
    if isinstance(node, dict):
        yield from node.get("properties", {}) if isinstance(node.get("properties"), dict) else ()
        yield from (word for word in node.get("enum", ()) if isinstance(word, str))
        for child in node.values():
            yield from names_of(child)
    elif isinstance(node, list):
        for child in node:
            yield from names_of(child)


def front_names(text):
    """The fields that the form puts up front: the first text of each innermost list of the table FRONT."""
    table = text.partition("const FRONT = [")[2].partition("\n];")[0]
    return re.findall(r'\["([a-z_.]+)"', table)


def name_cases(files, description):
    known = set(names_of(description))
    request = {".".join(path[1::2]) for path in drift.field_paths(description["components"]["schemas"]["Request"])}
    # But for comments, and PyTorch's own names.
    text = {name: re.sub(r"/\*.*?\*/|torch\.cuda\.\w+", "", data.decode(), flags=re.DOTALL)
            for name, data in files.items() if name.endswith(".js")}
    front = front_names(text["fields.js"])
    yield "every field up front is one of the request's", [name for name in front if name not in request] + \
        ([] if len(front) > 10 else ["only %s" % front])
    own = set(re.search(r"const OWN = \[(.*?)\]", text["fields.js"]).group(1).replace('"', "").split(", "))
    yield "so is what the page asks for itself", sorted(own - request)
    found = {(name, word) for name in text for word in re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b", text[name])}
    yield "every name with an underscore is one of the API's", \
        ["%s: %s" % pair for pair in sorted(found) if pair[1] not in known] + \
        ([] if len(found) > 30 else ["only %d" % len(found)])
    schemas = description["components"]["schemas"]
    for name, file, wanted in (("PARTS", "memory.js", schemas["Peak"]["properties"]["at_peak"]["properties"]),
                               ("ROWS", "memory.js", schemas["Rows"]["properties"]),
                               ("VERDICTS", "summary.js", schemas["Fit"]["properties"]["verdict"]["enum"])):
        words = re.search(r"const %s = \[(.*?)\]" % name, text[file]).group(1).replace('"', "").split(", ")
        yield "%s are the answer's" % name, sorted(set(words) ^ {word.removesuffix("_bytes") for word in wanted})


def example_case(files, port):
    text = files["main.js"].decode().replace('"\n  + "', "")
    example = re.search(r'const EXAMPLE = "(.*?)";', text).group(1)
    answer = served.Answer(port, "GET", "/estimate?" + example)
    yield "what a visitor sees first is a request", [] if answer.status == 200 else [answer.body.decode()]


def cases(files, description, port):
    yield from file_cases(files, port)
    yield from reference_cases(files, description)
    yield from name_cases(files, description)
    yield from example_case(files, port)


def main(source, vramcast):
    source = pathlib.Path(source)
    files = {file.name: file.read_bytes() for file in (source / "server/page").iterdir()}
    description = schema.load_yaml(source / "openapi/openapi.yaml")
    with served.service(source, vramcast) as port:
        return 0 if drift.report(cases(files, description, port)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
