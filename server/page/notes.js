/* What was assumed and what is warned of; a note leads to its field. */
import { element } from "./dom.js";
import { plural } from "./units.js";

function drawNote({ pointer, value, detail }, focus) {
  return element("li", {},
    pointer && element("button", { type: "button", class: "link code", onclick: () => focus(pointer) }, pointer),
    value && element("code", {}, ` ${value}`), ` ${detail}`);
}

/* focus(pointer): goes to the field. */
export function drawNotes({ assumptions, warnings, ignored = [] }, focus) {
  return [
    warnings.length > 0 && element("ul", { class: "warnings", "aria-label": "Warnings" },
      warnings.map((note) => drawNote(note, focus))),
    ignored.length > 0 && element("p", {}, `Not used of what was pasted: ${ignored.join(", ")}`),
    element("details", { id: "assumed" },
      element("summary", {}, `${plural(assumptions.length, "assumption")}: every default that was taken`),
      element("ul", { class: "notes" }, assumptions.map((note) => drawNote(note, focus)))),
  ];
}
