/* A request as the service takes it, as the texts of a form, and as the part of a link behind its '#': the same text as
 * the query of GET /estimate. What only the page knows (how its table is sorted) stands there too, under "view.". */
const VIEW = "view.";

const isGroup = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/* JSON, or undefined when text is none. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const numberOf = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

function listOf(field, text) {
  const items = text.split(",").map((item) => item.trim()).filter(Boolean);
  return field.item === "integer" ? items.map(numberOf) : items;
}

/* The value that a field's text stands for; what it cannot be stays text, and the service says what is wrong then. */
export function decode(field, text) {
  const takes = (name) => field?.types.includes(name);
  if (/^\s*[{[]/.test(text)) return parsed(text) ?? text;
  if (takes("boolean") && /^(true|false)$/.test(text)) return text === "true";
  if (takes("array") && !field.words.includes(text)) return listOf(field, text);
  return takes("integer") || takes("number") ? numberOf(text) : text;
}

export function encode(value) {
  if (Array.isArray(value) && value.every((item) => typeof item !== "object")) return value.join(",");
  return typeof value === "string" ? value : JSON.stringify(value);
}

export const member = (request, name) => name.split(".").reduce((at, key) => at?.[key], request);

/* A copy of request in which name is value; undefined takes it out, and the groups that are empty then. */
export function withMember(request, name, value) {
  const [key, ...inner] = name.split(".");
  const { [key]: old, ...rest } = request;
  const next = inner.length ? withMember(isGroup(old) ? old : {}, inner.join("."), value) : value;
  const gone = next === undefined || (inner.length && !Object.keys(next).length);
  return gone ? rest : { ...request, [key]: next };
}

/* JSON merge patch (RFC 7396): what an advice or a plan changes. */
export function merged(request, change) {
  const result = { ...request };
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete result[key];
    else result[key] = isGroup(value) && isGroup(result[key]) ? merged(result[key], value) : value;
  }
  return result;
}

/* (name, value) of every field of a request. An object is a group where fields has members of it. */
export function* leaves(request, byName, prefix = "") {
  for (const [key, value] of Object.entries(request)) {
    const name = prefix + key;
    if (!byName.has(name) && isGroup(value) && name !== "model") yield* leaves(value, byName, `${name}.`);
    else yield [name, value];
  }
}

/* "model=llama-3.1-8b&lora.rank=16": what GET /estimate takes behind the '?'. */
export function toQuery(request, byName) {
  const texts = [...leaves(request, byName)].map(([name, value]) => [name, encode(value)]);
  return new URLSearchParams(texts).toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
}

/* What stands behind the '#' of a link to this state, and back. */
export function toFragment({ request, view }, byName) {
  const seen = Object.entries(view).filter(([, value]) => value).map(([key, value]) => [VIEW + key, value]);
  return [toQuery(request, byName), new URLSearchParams(seen).toString()].filter(Boolean).join("&");
}

export function fromFragment(text, byName) {
  const state = { request: {}, view: {} };
  for (const [name, value] of new URLSearchParams(text)) {
    if (name.startsWith(VIEW)) state.view[name.slice(VIEW.length)] = value;
    else state.request = withMember(state.request, name, decode(byName.get(name), value));
  }
  return state;
}
