/* The request to take along: as a link, as JSON, as a curl line; and what starts the job. */
import { byId, element } from "./dom.js";
import { sentence } from "./units.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const curlLine = (request) => [
  `curl ${new URL("estimate", location.href)}`,
  "-H 'Content-Type: application/json'",
  `-d ${quoted(JSON.stringify(request, null, 2))}`,
].join(" \\\n  ");

/* Without the clipboard's interface (a page over plain HTTP has none) the text is selected and copied as by hand. */
async function copy(text, source) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  getSelection().selectAllChildren(source);
  return document.execCommand("copy") ? undefined : Promise.reject(new Error("not allowed"));
}

function copyButton(name, text, source) {
  return element("button", {
    type: "button", id: `copy-${name}`,
    onclick: async () => {
      const done = await copy(text, source).then(() => "copied", () => "select it and copy it by hand");
      byId("found").textContent = `${name}: ${done}`;
      byId(`copy-${name}`).textContent = done === "copied" ? "Copied" : done;
    },
  }, `Copy ${name}`);
}

function block(name, text) {
  const source = element("pre", { id: `text-${name}`, tabindex: 0, role: "region", "aria-label": `The ${name}` }, text);
  return element("div", { class: "block" }, copyButton(name, text, source), source);
}

export function drawShare(request) {
  const texts = { link: location.href, curl: curlLine(request), JSON: JSON.stringify(request, null, 2) };
  return Object.entries(texts).map(([name, text]) => block(name, text));
}

/* The lines to paste into what starts the job; text as it is, all else as JSON. */
export function drawHints(hints) {
  const text = (hint) => hint.options ?? JSON.stringify(hint, null, 2);
  return hints && element("details", { id: "start-it" },
    element("summary", {}, `To start it: ${Object.keys(hints).map(sentence).join(", ")}`),
    Object.entries(hints).map(([name, hint]) => [
      element("h3", {}, sentence(name)),
      element("pre", { tabindex: 0, role: "region", "aria-label": `For ${name}` }, text(hint)),
    ]));
}
