/* The table of cards: every one of the catalogue with its verdict, to filter, to sort, and to choose from. */
import { drawing, element } from "./dom.js";
import { verdict, VERDICTS } from "./summary.js";
import { percent, size, words } from "./units.js";

/* Columns: the key that the link names, a heading, what rows are sorted by, and the cell. */
const COLUMNS = [
  ["name", "card", (row) => row.name.toLowerCase(), (row) => row.name],
  ["memory", "can give", (row) => row.usable_bytes, (row) => size(row.usable_bytes)],
  ["required", "required", (row) => row.required_bytes, (row) => size(row.required_bytes)],
  ["utilization", "of the card", (row) => row.utilization, drawShare],
  ["headroom", "to spare", (row) => row.headroom_bytes, (row) => size(row.headroom_bytes)],
  ["verdict", "verdict", (row) => VERDICTS.indexOf(row.verdict), (row) => verdict(row.verdict)],
];
const WIDE_ONLY = ["memory", "headroom"];

/* The filters: the key that the link names, and what of a row it is about. */
export const FILTERS = ["verdict", "vendor", "kind"];

function drawShare(row) {
  const share = Math.min(1, row.utilization);
  return element("span", { class: "share" }, percent(row.utilization),
    drawing("svg", { class: "meter", "aria-hidden": "true" },
      drawing("rect", { class: "capacity", width: "100%", height: "100%" }),
      drawing("rect", { class: `share-${row.verdict}`, width: `${100 * share}%`, height: "100%" })));
}

/* What fits first, the smallest card first: the card that people look for. */
const usual = (a, b) => VERDICTS.indexOf(a.verdict) - VERDICTS.indexOf(b.verdict) || a.usable_bytes - b.usable_bytes;

function compare(sort) {
  const descending = sort?.startsWith("-"), column = COLUMNS.find(([key]) => key === sort?.replace(/^-/, ""));
  if (!column) return usual;
  const [, , value] = column, sign = descending ? -1 : 1;
  return (a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) || usual(a, b);
}

/* The rows that view wants, in its order. */
export function chooseRows(rows, view) {
  const wanted = (view.find ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  return rows
    .filter((row) => wanted.every((word) => `${row.gpu} ${row.name}`.toLowerCase().includes(word)))
    .filter((row) => FILTERS.every((key) => !view[key] || row[key] === view[key]))
    .sort(compare(view.sort));
}

/* A heading that sorts: ascending, descending, and back to the usual order. */
function drawHead([key, head], view, change) {
  const state = view.sort === key ? "ascending" : view.sort === `-${key}` ? "descending" : "none";
  const next = { none: key, ascending: `-${key}`, descending: "" }[state];
  const sort = { type: "button", id: `sort-${key}`, class: "sort", onclick: () => change({ sort: next }) };
  return element("th", { scope: "col", class: WIDE_ONLY.includes(key) ? "wide" : "", "aria-sort": state },
    element("button", sort, head));
}

function drawRow(row, chosen, toggle) {
  return element("tr", { "data-gpu": row.gpu },
    element("td", { class: "pick" }, element("input", {
      type: "checkbox", id: `pick-${row.gpu}`, checked: chosen.includes(row.gpu),
      "aria-label": `Compare ${row.name}`, onchange: () => toggle(row.gpu),
    })),
    COLUMNS.map(([key, , , draw], i) => element(i ? "td" : "th", {
      class: WIDE_ONLY.includes(key) ? "wide" : "",
      scope: i ? undefined : "row",
      title: key === "verdict" ? row.reason : undefined,
    }, draw(row))));
}

/* rows: those of chooseRows; chosen: ids to compare; toggle(id), change(view): what a click does. */
export function drawCards(rows, chosen, view, toggle, change) {
  return element("table", { class: "cards" },
    element("caption", { class: "unseen" }, "Every card with its verdict; the headings sort"),
    element("thead", {}, element("tr", {},
      element("th", { scope: "col", class: "pick" }, element("span", { class: "unseen" }, "compare")),
      COLUMNS.map((column) => drawHead(column, view, change)))),
    element("tbody", {}, rows.map((row) => drawRow(row, chosen, toggle))));
}

/* The options of the filters, with how many rows each has. */
export function fillFilters(selects, rows, view) {
  for (const [key, select] of Object.entries(selects)) {
    const values = key === "verdict" ? VERDICTS : [...new Set(rows.map((row) => row[key]))].filter(Boolean).sort();
    select.replaceChildren(element("option", { value: "" }, "all"), ...values.map((value) => {
      const many = rows.filter((row) => row[key] === value).length;
      return element("option", { value, selected: view[key] === value }, `${words(value)} (${many})`);
    }));
  }
}
