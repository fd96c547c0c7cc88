"""JSON Schema, the part of it that openapi.yaml uses, and nothing silently more: a keyword not known here is an error.

Standard library and Debian's python3-yaml only.
"""
import math
import re

import yaml

ANNOTATIONS = {"description", "default", "examples", "example", "title", "x-default-depends", "x-problems"}
KNOWN = {"$ref", "type", "enum", "const", "required", "properties", "additionalProperties", "items", "minItems",
         "maxItems", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern", "oneOf", "anyOf", "allOf"}


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as it is in the wire's JSON."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError("%s: twice: %s" % (node.start_mark, ", ".join(sorted(twice))))
        return super().construct_mapping(node, deep)


def load_yaml(path):
    with open(path, encoding="utf-8") as text:
        return yaml.load(text, UniqueKeys)  # a SafeLoader


def resolve(root, schema):
    """schema with its $ref followed; what stands beside a $ref is kept."""
    while "$ref" in schema:
        at = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            at = at[part.replace("~1", "/").replace("~0", "~")]
        schema = {**at, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def is_type(value, name):
    if name == "integer":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == math.floor(value)
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}[name])


def number_faults(schema, value):
    if value < schema.get("minimum", -math.inf):
        yield "%s is below %s" % (value, schema["minimum"])
    if value > schema.get("maximum", math.inf):
        yield "%s is above %s" % (value, schema["maximum"])
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield "%s is no multiple of %s" % (value, schema["multipleOf"])


def string_faults(schema, value):
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        yield "has %d characters" % len(value)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield "%r does not match %s" % (value, schema["pattern"])


def object_faults(root, schema, value, closed, at):
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", not (closed and properties))
    for name in schema.get("required", []):
        if name not in value:
            yield "%s/%s: is missing" % (at, name)
    for name, member in value.items():
        if name in properties:
            yield from faults(root, properties[name], member, closed, "%s/%s" % (at, name))
        elif isinstance(others, dict):
            yield from faults(root, others, member, closed, "%s/%s" % (at, name))
        elif not others:
            yield "%s/%s: is not described" % (at, name)


def choice_faults(root, schema, value, closed, at):
    for part in schema.get("allOf", []):
        yield from faults(root, part, value, closed, at)
    for keyword, right in (("oneOf", lambda count: count == 1), ("anyOf", lambda count: count > 0)):
        if keyword in schema:
            tried = [list(faults(root, part, value, closed, at)) for part in schema[keyword]]
            if not right(sum(not found for found in tried)):
                yield "%s: %s: %s" % (at, keyword, "; ".join(found[0] for found in tried if found) or "several match")


def faults(root, schema, value, closed=False, at=""):
    """One line for each way in which value breaks schema. closed: an object has only the properties that are described,
    unless additionalProperties says other (for answers: nothing undescribed may go out)."""
    schema = resolve(root, schema)
    unknown = set(schema) - KNOWN - ANNOTATIONS
    if unknown:
        raise ValueError("%s: keywords that no check is known for: %s" % (at, sorted(unknown)))
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(is_type(value, name) for name in types):
        yield "%s: %.60r is no %s" % (at, value, " or ".join(types))
        return
    if "enum" in schema and value not in schema["enum"] or "const" in schema and value != schema["const"]:
        yield "%s: %r is none of %s" % (at, value, schema.get("enum", schema.get("const")))
    if is_type(value, "number"):
        yield from ("%s: %s" % (at, fault) for fault in number_faults(schema, value))
    elif isinstance(value, str):
        yield from ("%s: %s" % (at, fault) for fault in string_faults(schema, value))
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            yield "%s: has %d items" % (at, len(value))
        for index, item in enumerate(value if "items" in schema else []):
            yield from faults(root, schema["items"], item, closed, "%s/%d" % (at, index))
    elif isinstance(value, dict):
        yield from object_faults(root, schema, value, closed, at)
    yield from choice_faults(root, schema, value, closed, at)


# Each must break the schema beside it: what a check lets through is found here, not by a client.
BROKEN = [
    ({"type": "integer"}, True), ({"type": "integer"}, 1.5), ({"type": "number"}, "1"), ({"type": "string"}, None),
    ({"type": "integer", "minimum": 1}, 0), ({"type": "integer", "maximum": 1}, 2),
    ({"type": "integer", "multipleOf": 4}, 6),
    ({"type": "string", "enum": ["a"]}, "b"), ({"const": "a"}, "b"), ({"type": "string", "maxLength": 1}, "ab"),
    ({"type": "string", "pattern": "^a$"}, "b"), ({"type": "array", "minItems": 1}, []),
    ({"type": "array", "maxItems": 0}, [1]),
    ({"type": "array", "items": {"type": "integer"}}, ["a"]), ({"type": "object", "required": ["a"]}, {}),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": "b"}),
    ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, {"b": 1}),
    ({"type": "object", "properties": {"a": {}}}, {"b": 1}),
    ({"type": "object", "additionalProperties": {"type": "null"}}, {"b": 1}),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1), ({"oneOf": [{"type": "integer"}]}, "a"),
    ({"anyOf": [{"type": "integer"}]}, "a"), ({"allOf": [{"type": "integer"}, {"minimum": 2}]}, 1),
    ({"$ref": "#/a"}, 0),
]


def self_test():
    """The rows of BROKEN that are let through, and sound values that are not."""
    root = {"a": {"type": "integer", "minimum": 1}}
    found = ["%s lets %r through" % row for row in BROKEN if not list(faults(root, *row, closed=True))]
    either = {"oneOf": [{"type": "boolean"}, {"$ref": "#/a"}]}
    sound = {"type": "object", "required": ["a"], "properties": {"a": either}}
    for value in ({"a": 4.0}, {"a": True}, {"a": 1, "b": 2}):
        found += list(faults(root, sound, value))
    try:
        list(faults(root, {"minimun": 1}, 0))
        found.append("an unknown keyword is let through")
    except ValueError:
        pass
    return found
