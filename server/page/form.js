/* The form: a control for each field, made from what the service's description says of it. */
import { byId, element } from "./dom.js";
import { decode, encode, leaves, member, withMember } from "./request.js";
import { sentence } from "./units.js";

const idOf = (field) => `field-${field.name}`;

function optionsOf(field) {
  return ["", ...field.words].map((word) => element("option", { value: word }, word || "default"));
}

const named = (field) => ({ id: idOf(field), "aria-describedby": `help-${field.name} fault-${field.name}` });

const INPUTS = {
  choice: (field) => element("select", named(field), optionsOf(field)),
  number: (field) => element("input", { ...named(field), inputmode: "decimal" }),
  list: (field) => element("input", named(field)),
  text: (field) => element("input", named(field)),
  file: (field) => element("textarea", { ...named(field), rows: 3, spellcheck: "false" }),
};

/* The next size: half or double of what the field has, or of the default that it shows, within its range. */
function stepped(field, input, factor) {
  const now = Number(input.value || input.placeholder) || field.minimum;
  const next = Math.floor(now * factor);
  return String(Math.min(Math.max(next, field.minimum), field.maximum));
}

function stepButton(field, input, factor, sign, verb) {
  const press = () => {
    input.value = stepped(field, input, factor);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const label = `${verb} ${field.label}`;
  return element("button", { type: "button", class: "step", "aria-label": label, onclick: press }, sign);
}

/* Sizes, of which people try powers of two, have buttons to halve and to double them. */
function withSteps(field, input) {
  if (field.kind !== "number" || field.minimum !== 1 || !field.types.includes("integer")) return [input];
  return [stepButton(field, input, 0.5, "\u00f72", "Halve"), input, stepButton(field, input, 2, "\u00d72", "Double")];
}

function helpButton(field, help) {
  const toggle = (event) => {
    help.hidden = !help.hidden;
    event.currentTarget.setAttribute("aria-expanded", String(!help.hidden));
  };
  return element("button", {
    type: "button", class: "help-button", "aria-expanded": "false", "aria-controls": help.id,
    "aria-label": `About ${field.label}`, onclick: toggle,
  }, "?");
}

/* One field: {root, input, field, read, write}; texts go in and out, "" is absent. */
export function drawField(field) {
  const input = INPUTS[field.kind](field);
  const help = element("p", { id: `help-${field.name}`, class: "help", hidden: true },
    element("code", {}, field.name), " ", field.doc);
  const fault = element("p", { id: `fault-${field.name}`, class: "fault", hidden: true });
  const root = element("div", { class: "field", "data-pointer": field.pointer, hidden: field.whenUsed },
    element("div", { class: "label" }, element("label", { for: input.id }, field.label), helpButton(field, help)),
    element("div", { class: "control" }, withSteps(field, input)), help, fault);
  return {
    field, root, input,
    read: () => input.value.trim(),
    write(text) {
      writeText(input, text);
      if (text) root.hidden = false;
    },
  };
}

/* A word that the list has not, from a link or an advice, becomes one of it. */
function writeText(input, text) {
  if (input.tagName === "SELECT" && ![...input.options].some((option) => option.value === text))
    input.append(element("option", { value: text }, text));
  if (input.value !== text) input.value = text;
}

function drawGroup(group, controls) {
  const made = group.fields.map(drawField);
  controls.push(...made);
  const body = element("div", { class: "fields" }, made.map((control) => control.root));
  if (group.front) return element("fieldset", { class: "panel" }, element("legend", {}, group.title), body);
  return element("details", { class: "panel", "data-pointer": group.pointer },
    element("summary", {}, sentence(group.title), element("span", { class: "set-count" }),
      element("span", { class: "note" }, group.doc)),
    element("p", { class: "fault", hidden: true }), body);
}

/* Shows the default that the last answer took, as the assumptions tell it: what an empty control stands for. */
function showDefault({ field, input, root }, assumed, used) {
  const text = assumed ?? (field.fallback === undefined ? "" : encode(field.fallback));
  if (field.kind === "choice") input.options[0].textContent = text ? `default: ${text}` : "default";
  else input.placeholder = text;
  if (field.whenUsed) root.hidden = !used;
}

function markCounts(root) {
  for (const details of root.querySelectorAll("details.panel")) {
    const set = [...details.querySelectorAll("input, select, textarea")].filter((input) => input.value.trim()).length;
    details.querySelector(".set-count").textContent = set ? ` (${set} set)` : "";
  }
}

/* The element that shows the faults of pointer: its field's, or that of the nearest object or list around it. */
function placeOf(form, pointer) {
  const places = [...form.querySelectorAll("[data-pointer]")]
    .filter((place) => !place.parentElement.closest("[hidden]"));
  for (let at = pointer; at; at = at.slice(0, at.lastIndexOf("/"))) {
    const place = places.find((one) => one.dataset.pointer === at);
    if (place) return place;
  }
  return undefined;
}

const inputsOf = (place) => [...place.querySelectorAll("input:not([type=radio], [type=file]), select, textarea")]
  .filter((input) => input === place || !input.closest("[hidden]"));

/* What a fault below a place is about: the item of a list by its own text, all else by its name. */
function aboutOf(request, place, pointer) {
  const inner = pointer.slice(place.dataset.pointer.length + 1);
  const value = member(request, pointer.slice(1).replaceAll("/", "."));
  return /^\d+$/.test(inner) && typeof value === "string" ? `${value} ` : inner && `${inner} `;
}

/* Shows a fault at its place; clear(pointer) takes the field back to its default. False when it has no place. */
function showFault(form, request, { pointer, detail }, clear) {
  const place = placeOf(form, pointer);
  if (!place) return false;
  const line = place.querySelector(":scope > .fault"), exact = place.dataset.pointer === pointer;
  place.hidden = line.hidden = false;
  line.append(element("span", {}, aboutOf(request, place, pointer) + detail));
  const reset = { type: "button", class: "link", onclick: () => clear(pointer) };
  if (exact && place.matches(".field")) line.append(" ", element("button", reset, "Use the default"));
  if (place.matches("details")) line.append(" ", element("button", reset, "Leave it out"));
  else inputsOf(place).forEach((input) => input.setAttribute("aria-invalid", "true"));
  place.closest("details")?.setAttribute("open", "");
  return true;
}

function clearFaults(form) {
  for (const line of form.querySelectorAll(".fault")) {
    line.replaceChildren();
    line.hidden = true;
  }
  form.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
}

/* own: controls of the page for fields that have no plain one, {name: {read, write}}, values in and out. */
export function createForm(form, { groups, byName }, own) {
  const controls = [];
  let kept = {}; // what no control shows, from a link: the service says what is wrong with it
  byId("groups").append(...groups.map((group) => drawGroup(group, controls)));
  const names = new Set([...controls.map((control) => control.field.name), ...Object.keys(own)]);

  return {
    read() {
      const chosen = Object.entries(own).map(([name, control]) => [name, control.read()]);
      const typed = controls.filter((control) => control.read())
        .map(({ field, read }) => [field.name, decode(field, read())]);
      markCounts(form);
      return [...chosen, ...typed, ...leaves(kept, byName)]
        .reduce((request, [name, value]) => withMember(request, name, value), {});
    },
    write(request) {
      kept = {};
      for (const [name, value] of leaves(request, byName)) if (!names.has(name)) kept = withMember(kept, name, value);
      for (const { field, write } of controls) {
        const value = member(request, field.name);
        write(value === undefined ? "" : encode(value));
      }
      for (const [name, control] of Object.entries(own)) control.write(member(request, name));
      markCounts(form);
    },
    showDefaults(assumptions, request) {
      const assumed = new Map(assumptions.filter((note) => note.value).map((note) => [note.pointer, note.value]));
      for (const control of controls) {
        const { pointer, name } = control.field;
        showDefault(control, assumed.get(pointer), assumed.has(pointer) || member(request, name) !== undefined);
      }
    },
    clearFaults: () => clearFaults(form),
    /* Shows errors at their fields; returns those that belong to none. */
    showFaults: (errors, request, clear) => errors.filter((error) => !showFault(form, request, error, clear)),
    focus(pointer) {
      const place = placeOf(form, pointer);
      place?.closest("details")?.setAttribute("open", "");
      (place?.matches("details") ? place.querySelector("summary") : place && inputsOf(place)[0])?.focus();
    },
  };
}
