/* The fields of a request, read from the service's own description. Only what the page says first is written here;
 * every other field of the description follows by itself. */
import { get } from "./ask.js";
import { sentence } from "./units.js";

/* Up front, in this order: a name, a label where one reads better than the name, and whether it is shown only when the
 * run has a use for it. */
const FRONT = [
  ["Training", [["method"], ["lora.rank", "LoRA rank", true], ["quantization.bits", "Bits of the base", true],
    ["precision"], ["optimizer"], ["objective"]]],
  ["Batch", [["micro_batch_size", "Batch per GPU"], ["sequence_length"],
    ["gradient_accumulation_steps", "Accumulation steps"], ["gradient_checkpointing"]]],
  ["GPUs", [["parallelism.gpus", "Number of GPUs"], ["parallelism.strategy", "Sharding"],
    ["parallelism.tensor", "Tensor parallel"], ["parallelism.pipeline", "Pipeline stages"]]],
];
/* The page has controls of its own for these, or asks for them itself. */
const OWN = ["model", "gpus", "include", "timeline", "explain"];
const REST = "everything else";

function resolve(description, schema) {
  if (!schema.$ref) return schema;
  return schema.$ref.slice(2).split("/").reduce((at, part) => at[part], description);
}

const formsOf = (schema) => [schema, ...(schema.oneOf ?? [])];
const typesOf = (schema) => formsOf(schema).flatMap((form) => form.type ?? []);

/* The words that a field takes; {"selective": "op"} is one too, as JSON. */
function wordsOf(schema) {
  return formsOf(schema).flatMap((form) => [
    ...(form.enum ?? []),
    ...(schema.oneOf ? Object.entries(form.properties ?? {}) : []).flatMap(([name, member]) =>
      (member.enum ?? []).map((word) => JSON.stringify({ [name]: word }))),
  ]);
}

function kindOf(types, choices) {
  if (types.includes("array")) return "list";
  if (types.includes("integer") || types.includes("number")) return "number";
  if (choices.length) return "choice";
  if (types.includes("boolean")) return "choice";
  return types.includes("object") ? "file" : "text";
}

function fieldOf(name, schema) {
  const types = typesOf(schema), choices = wordsOf(schema);
  return {
    name, types, kind: kindOf(types, choices),
    pointer: `/${name.replaceAll(".", "/")}`,
    label: sentence(name.split(".").at(-1)),
    words: choices.length ? choices : types.includes("boolean") ? ["true", "false"] : [],
    item: formsOf(schema).map((form) => form.items?.type).find(Boolean),
    minimum: schema.minimum, maximum: schema.maximum, fallback: schema.default,
    doc: schema.description ?? "",
  };
}

/* Every field below schema, groups opened: "lora.rank". */
function* walk(description, schema, prefix = "") {
  for (const [key, member] of Object.entries(schema.properties)) {
    const found = resolve(description, member), name = prefix + key;
    if (found.properties) yield* walk(description, found, `${name}.`);
    else yield fieldOf(name, found);
  }
}

/* What is not up front, by the objects that it lies in, each told by the first sentence of its description. */
function restOf(fields, front, { properties }) {
  const groups = new Map();
  for (const field of fields) {
    if (front.has(field.name) || OWN.includes(field.name)) continue;
    const [group, inner] = field.name.split(".");
    const title = inner ? group : REST;
    groups.set(title, [...(groups.get(title) ?? []), field]);
  }
  const doc = (title) => properties[title]?.description?.split(/[.;]\s/)[0].replace(/\.$/, "") ?? "";
  return [...groups].map(([title, members]) => ({
    title, doc: doc(title), fields: members, front: false, pointer: title === REST ? undefined : `/${title}`,
  }));
}

/* groups: of the form, {title, fields, front}, those up front, then the others by the objects they lie in; byName:
 * every field; custom: those of a model that is described by its shape. */
export async function readFields() {
  const description = await get("openapi.json"), schemas = description.components.schemas;
  const byName = new Map([...walk(description, schemas.Request)].map((field) => [field.name, field]));
  const front = FRONT.map(([title, names]) => ({
    title, front: true,
    fields: names.filter(([name]) => byName.has(name)).map(([name, label, whenUsed]) =>
      Object.assign(byName.get(name), { label: label ?? sentence(name), whenUsed })),
  }));
  const shown = new Set(front.flatMap((group) => group.fields.map((field) => field.name)));
  return {
    byName, groups: [...front, ...restOf(byName.values(), shown, schemas.Request)],
    custom: [...walk(description, schemas.CustomModel)],
  };
}
