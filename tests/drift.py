#!/usr/bin/python3
"""What the project says about itself in two places has to be equal: openapi.yaml, the README's table, the tables in C.

    drift.py SOURCE DUMP_FIELDS             compares (TAP); DUMP_FIELDS is the program that prints the tables
    drift.py --write-readme [DUMP_FIELDS]   writes the README's field table anew from the tables

Each comparison is shown to fail: fields, routes, problems and words are taken away from either side, in copies.
"""
import copy
import json
import pathlib
import subprocess
import sys

import schema

FACTS = ("type", "minimum", "maximum", "enum", "default", "oneOf", "items", "pattern", "minItems", "maxItems",
         "multipleOf", "x-default-depends")
MARKS = ("<!-- fields -->", "<!-- /fields -->")


def facts(root, node, name=""):
    """Dotted name -> what the schema says of the field besides its prose; "required" -> the names that are."""
    found, node = {"required": set()}, schema.resolve(root, node)
    for key, child in node.get("properties", {}).items():
        dotted, child = (name + "." if name else "") + key, schema.resolve(root, child)
        found[dotted] = {key: value for key, value in child.items()
                         if key not in ("description", "examples", "properties", "required")}
        inner = facts(root, child, dotted)
        found["required"] |= inner.pop("required")
        found.update(inner)
        if key in node.get("required", []):
            found["required"].add(dotted)
    return found


def request_faults(tables, description):
    """Where the table of fields and the schema Request differ."""
    ours = facts({}, tables["request"])
    theirs = facts(description, description["components"]["schemas"]["Request"])
    for side in (ours, theirs):  # The model's forms are config's own matter; the table knows only text or object.
        model = side.get("model", {})
        model["oneOf"] = sorted({schema.resolve(description, form)["type"] for form in model.get("oneOf", [])})
    return differences(ours, theirs)


def differences(ours, theirs):
    """One line for each key whose values differ, or that one side lacks."""
    lines = ["%s: only in the tables" % key for key in ours if key not in theirs]
    lines += ["%s: only in the description" % key for key in theirs if key not in ours]
    return lines + ["%s: the tables say %s, the description %s" % (key, ours[key], theirs[key])
                    for key in ours if key in theirs and ours[key] != theirs[key]]


def word_faults(tables, description):
    """Where the answer's words differ: phases, verdicts, categories, codes of faults."""
    schemas = description["components"]["schemas"]
    errors = schemas["Problem"]["properties"]["errors"]["items"]["properties"]
    at_peak = schemas["Peak"]["properties"]["at_peak"]
    theirs = {
        "phase": schemas["Phase"]["enum"],
        "verdict": schemas["Fit"]["properties"]["verdict"]["enum"],
        "code": errors["code"]["enum"],
        "category": [name.removesuffix("_bytes") for name in at_peak["properties"]],
    }
    lines = differences(tables["words"], theirs)
    return lines + ([] if list(at_peak["properties"]) == at_peak["required"] else ["at_peak: not all is required"])


def route_faults(tables, description):
    """Where the table of routes and the paths differ. HEAD and OPTIONS are implied on both sides."""
    ours = {(row["method"], row["path"]) for row in tables["routes"]}
    theirs = {(method.upper(), path) for path, item in description["paths"].items() for method in item}
    return ["%s %s: only in the tables" % row for row in sorted(ours - theirs)] + \
           ["%s %s: only in the description" % row for row in sorted(theirs - ours)]


def problem_faults(tables, description):
    """Where the table of problems and the description's differ, and the types of the schema."""
    problem = description["components"]["schemas"]["Problem"]
    theirs = {row["type"]: [row["status"], row["title"]] for row in problem["x-problems"]}
    lines = differences({row["type"]: [row["status"], row["title"]] for row in tables["problems"]}, theirs)
    if problem["properties"]["type"]["enum"] != list(theirs):
        lines.append("the types of the schema are not those of x-problems")
    return lines


def type_text(field):
    """A field's type for people."""
    if "oneOf" in field:
        return " or ".join(dict.fromkeys(type_text(form) for form in field["oneOf"]))
    if "enum" in field:
        return ", ".join("`%s`" % word for word in field["enum"])
    if field["type"] == "array":
        return "list of " + ("these: " if "enum" in field["items"] else "") + type_text(field["items"])
    if field["type"] == "object":
        return " or ".join("`{\"%s\": %s}`" % (key, " or ".join(value.get("enum", ["n"])))
                           for key, value in field.get("properties", {}).items()) or "object"
    low, high = field.get("minimum"), field.get("maximum")
    text = {"boolean": "bool", "string": "string", "integer": "integer", "number": "number"}[field["type"]]
    if low is not None:
        text += " %s..%s" % (low, high) if high is not None else " >= %s" % low
    return text + (", in steps of %s" % field["multipleOf"] if "multipleOf" in field else "")


def default_text(name, field, required):
    if name in required:
        return "required"
    if "default" not in field:
        return ""
    value = field["default"]
    if isinstance(value, list):
        text = ", ".join(value) or "none"
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text + (" *" if field.get("x-default-depends") else "")


def readme_table(tables):
    """The README's field table, as Markdown."""
    fields, docs = facts({}, tables["request"]), {}

    def collect(node, name=""):
        for key, child in node.get("properties", {}).items():
            docs[name + key] = child.get("description", "")
            collect(child, name + key + ".")

    collect(tables["request"])
    required = fields.pop("required")
    lines = ["| field | type, range | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        if "additionalProperties" not in field:  # a group has rows of its own
            row = name, type_text(field), default_text(name, field, required), docs[name]
            lines.append("| `%s` | %s | %s | %s |" % row)
    return "\n".join(lines)


def readme_faults(tables, readme):
    """Where the table between the README's marks is not the tables'."""
    if readme.count(MARKS[0]) != 1 or readme.count(MARKS[1]) != 1:
        return ["README.md has no table between %s and %s" % MARKS]
    ours = readme_table(tables).split("\n")
    theirs = readme.partition(MARKS[0])[2].partition(MARKS[1])[0].strip().split("\n")
    lines = ["only in the tables: " + line for line in ours if line not in theirs]
    lines += ["only in the README: " + line for line in theirs if line not in ours]
    return lines or ([] if ours == theirs else ["the rows are in another order"])


def write_readme(source, tables):
    path = source / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    path.write_text(before + MARKS[0] + "\n" + readme_table(tables) + "\n" + MARKS[1] + rest.partition(MARKS[1])[2],
                    encoding="utf-8")


def without(tree, path):
    """A copy of tree that lacks what path leads to."""
    tree = copy.deepcopy(tree)
    at = tree
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return tree


def field_paths(node, path=()):
    """The way to every field of a schema, groups too."""
    for key, child in node.get("properties", {}).items():
        yield path + ("properties", key)
        yield from field_paths(child, path + ("properties", key))


def unnoticed(rule, tables, description, side, paths):
    """The paths whose removal from one side ("tables" or "description") adds nothing to what the rule finds anyway."""
    sides = {"tables": tables, "description": description}
    before = set(rule(**sides))
    return ["%s: gone from the %s, unnoticed" % ("/".join(map(str, path)), side) for path in paths
            if set(rule(**{**sides, side: without(sides[side], path)})) <= before]


def removal_cases(tables, description):
    request = ("components", "schemas", "Request")
    problem = ("components", "schemas", "Problem")
    fields = list(field_paths(tables["request"]))
    theirs = list(field_paths(description["components"]["schemas"]["Request"]))
    details = [path + (key,) for path in theirs for key in FACTS
               if key in node_at(description["components"]["schemas"]["Request"], path)]
    routes, problems = range(len(tables["routes"])), range(len(tables["problems"]))
    paths = [("paths", path, method) for path, item in description["paths"].items() for method in item]
    yield "a field goes from the tables", request_faults, "tables", [("request",) + path for path in fields]
    yield "a field goes from the description", request_faults, "description", [request + path for path in theirs]
    yield "a fact of a field goes from the description", request_faults, "description", \
        [request + path for path in details]
    yield "required goes from either side", request_faults, "tables", [("request", "required")]
    yield "required goes from the description", request_faults, "description", [request + ("required",)]
    yield "a route goes from the tables", route_faults, "tables", [("routes", i) for i in routes]
    yield "a route goes from the description", route_faults, "description", paths
    yield "a problem goes from the tables", problem_faults, "tables", [("problems", i) for i in problems]
    yield "a problem goes from the description", problem_faults, "description", \
        [problem + ("x-problems", i) for i in problems]
    yield "a word of the answer goes from the tables", word_faults, "tables", \
        [("words", key, i) for key, words in tables["words"].items() for i in range(len(words))]


def node_at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def readme_removals(tables, readme):
    """The rows of the README's table whose removal goes unnoticed."""
    rows, before = readme_table(tables).split("\n"), set(readme_faults(tables, readme))
    return ["unnoticed: " + row for row in rows
            if row in readme and set(readme_faults(tables, readme.replace(row + "\n", "", 1))) <= before]


def cases(tables, description, readme):
    yield "the request's fields equal the description's", request_faults(tables, description)
    yield "the answer's words equal the description's", word_faults(tables, description)
    yield "the routes equal the description's paths and methods", route_faults(tables, description)
    yield "the problems equal the description's", problem_faults(tables, description)
    yield "the README's field table equals the tables", readme_faults(tables, readme)
    for name, rule, side, paths in removal_cases(tables, description):
        found = unnoticed(rule, tables, description, side, paths)
        yield "noticed: " + name, found if paths else ["nothing to take away"]
    yield "noticed: a row goes from the README", readme_removals(tables, readme)
    yield "the validator refuses what breaks a schema", schema.self_test()


def report(results):
    """Prints TAP; whether every case passed."""
    results = list(results)
    print("1..%d" % len(results))
    for number, (name, lines) in enumerate(results, 1):
        print("%s %d - %s" % ("not ok" if lines else "ok", number, name))
        for line in lines[:20]:
            print("# %s" % line)
    return not any(lines for _, lines in results)


def main(arguments):
    write = arguments[:1] == ["--write-readme"]
    source = pathlib.Path(__file__).resolve().parent.parent if write else pathlib.Path(arguments[0])
    dump = (arguments[1:] or [source / "build/test-gcc/tests/dump_fields"])[0]
    tables = json.loads(subprocess.run([dump], check=True, capture_output=True).stdout)
    if write:
        write_readme(source, tables)
        return 0
    description = schema.load_yaml(source / "openapi/openapi.yaml")
    return 0 if report(cases(tables, description, (source / "README.md").read_text(encoding="utf-8"))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
