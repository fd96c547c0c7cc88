/* The model: a preset by search, a config.json as it is, or a shape of one's own. */
import { get } from "./ask.js";
import { combobox } from "./combobox.js";
import { byId, element } from "./dom.js";
import { drawField } from "./form.js";
import { decode, encode, parsed } from "./request.js";
import { count } from "./units.js";

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function drawPreset(row) {
  return [
    element("span", { class: "option-name" }, row.id),
    element("span", { class: "option-fact" }, `${count(row.parameters)} parameters`),
    element("span", { class: "option-note" }, row.unsupported ? `not modelled: ${row.unsupported}` : row.hf_id),
  ];
}

/* What is nearest to the words stands first: the shortest names. */
async function search(text, signal) {
  const { presets } = await get(`presets?q=${encodeURIComponent(text)}`, signal);
  return text ? presets.sort((a, b) => a.id.length - b.id.length) : presets;
}

/* What a text in the config.json box lacks to be one, or undefined. */
function configFault(text) {
  if (isObject(parsed(text))) return undefined;
  try {
    JSON.parse(text);
    return "must be a JSON object: the contents of a config.json";
  } catch (error) {
    return `is not JSON: ${error.message}`;
  }
}

/* The control of "model". fields: those of a shape of one's own. changed(): called when a choice was made. */
export function modelControl(fields, changed) {
  const preset = byId("preset"), config = byId("config"), shape = byId("shape");
  const kinds = [...document.querySelectorAll("input[name=kind]")];
  const shapeFields = fields.map((field) => ({
    key: field.name, ...drawField({ ...field, name: `model.${field.name}`, pointer: `/model${field.pointer}` }),
  }));
  shape.append(...shapeFields.map((control) => control.root));

  const kind = () => kinds.find((radio) => radio.checked).value;

  function turn(name) {
    for (const radio of kinds) {
      radio.checked = radio.value === name;
      byId(`kind-${radio.value}`).hidden = !radio.checked;
    }
  }

  const readShape = () => Object.fromEntries(shapeFields.filter((control) => control.read())
    .map(({ key, field, read }) => [key, decode(field, read())]));

  const READ = {
    preset: () => preset.value.trim() || undefined,
    config: () => (config.value.trim() ? parsed(config.value) ?? config.value : undefined),
    custom: () => (Object.keys(readShape()).length ? readShape() : undefined),
  };
  const WRITE = {
    preset: (value) => { preset.value = value; },
    config: (value) => {
      const same = JSON.stringify(parsed(config.value)) === JSON.stringify(value) || config.value === value;
      if (!same) config.value = isObject(value) ? JSON.stringify(value, null, 2) : value;
    },
    custom: (value) => {
      for (const { key, write } of shapeFields) write(key in value ? encode(value[key]) : "");
    },
  };
  const kindOf = (value) => (typeof value === "string" ? (/^\s*[{[]/.test(value) ? "config" : "preset")
    : "parameters" in value ? "custom" : "config");

  for (const radio of kinds)
    radio.addEventListener("change", (event) => {
      event.stopPropagation();
      turn(radio.value);
      changed();
    });
  byId("config-file").addEventListener("change", async (event) => {
    event.stopPropagation();
    config.value = await event.target.files[0].text();
    changed();
  });
  combobox({
    input: preset, list: byId("preset-list"), status: byId("found"), noun: "model", search, draw: drawPreset,
    take: (row) => {
      preset.value = row.id;
      changed();
    },
  });

  return {
    read: () => READ[kind()](),
    write: (value) => {
      if (value === undefined) return;
      turn(kindOf(value));
      WRITE[kindOf(value)](value);
    },
    /* A fault that needs no question to the service. */
    fault: () => (kind() === "config" && config.value.trim() ? configFault(config.value) : undefined),
  };
}
