/* The cards to compare: a search that adds, and a list that removes. */
import { get } from "./ask.js";
import { combobox } from "./combobox.js";
import { byId, element } from "./dom.js";
import { size } from "./units.js";

function drawCard(row) {
  return [
    element("span", { class: "option-name" }, row.id),
    element("span", { class: "option-fact" }, size(row.usable_bytes)),
    element("span", { class: "option-note" }, row.name),
  ];
}

async function search(text, signal) {
  return (await get(`gpus?q=${encodeURIComponent(text)}`, signal)).gpus;
}

/* The control of "gpus": {read, write, name, toggle}. changed(): called when cards were added or removed. */
export function cardsControl(changed) {
  const input = byId("card"), list = byId("chosen");
  let chosen = [];

  function set(ids) {
    chosen = ids;
    list.replaceChildren(...ids.map((id) => element("li", {}, id,
      element("button", { type: "button", "aria-label": `Remove ${id}`, onclick: () => toggle(id) }, "\u00d7"))));
  }

  function toggle(id) {
    set(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]);
    changed();
  }

  combobox({
    input, list: byId("card-list"), status: byId("found"), noun: "card", search, draw: drawCard,
    take: (row) => {
      input.value = "";
      if (!chosen.includes(row.id)) toggle(row.id);
    },
  });

  return {
    read: () => (chosen.length ? chosen : undefined),
    write: (value) => set(value === undefined ? [] : [value].flat()),
    /* Tells the ids that aliases turned out to stand for. */
    name: (fits) => set(chosen.map((id, i) => fits[i]?.gpu ?? id)),
    toggle,
  };
}
