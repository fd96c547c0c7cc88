/* Elements made in one expression. Whatever comes from the service is set as text, never read as markup. */
const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(2).filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

/* element("button", { type: "button", onclick: apply }, "Apply"): a name that begins with "on" is a listener. */
export const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/* The same for a part of a picture. */
export const drawing = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

/* A square of the colour of a class, for a legend. */
export const swatch = (name) => drawing("svg", { class: "swatch", viewBox: "0 0 1 1", "aria-hidden": "true" },
  drawing("rect", { class: name, width: 1, height: 1 }));

export const byId = (id) => document.getElementById(id);

/* A table: head is a list of cells or texts, rows a list of such lists; the first cell of a row is its heading. */
export function table(caption, head, rows) {
  const cells = (row) => row.map((cell, i) => (cell instanceof Element && /^T[HD]$/.test(cell.tagName) ? cell
    : element(i ? "td" : "th", i ? {} : { scope: "row" }, cell)));
  return element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, head.map((cell) => (cell instanceof Element ? cell
      : element("th", { scope: "col" }, cell))))),
    element("tbody", {}, rows.map((row) => element("tr", {}, cells(row)))));
}

/* Replaces what parent shows. The focus stays on the element of the same id, opened details stay open. */
export function show(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...parent.querySelectorAll("details[open][id]")].map((details) => details.id);
  parent.replaceChildren(...children.flat().filter(Boolean));
  for (const id of open) byId(id)?.setAttribute("open", "");
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

/* Calls action once, milliseconds after the last call. */
export function debounced(action, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
