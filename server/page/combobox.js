/* A text input with a list of what matches, by WAI-ARIA's combobox pattern: arrows move, Enter takes, Escape closes. */
import { debounced, element } from "./dom.js";
import { latest } from "./ask.js";
import { plural } from "./units.js";

const TYPING = 120; // milliseconds without a key before it is looked up

/* input, list, status: elements; noun: what is found; search(text, signal): promises rows; draw(row): the contents of its
 * option; take(row): called with the one that was chosen. */
export function combobox({ input, list, status, noun, search, draw, take }) {
  const once = latest();
  let rows = [], active = -1, before = input.value;

  const options = () => [...list.children];

  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function activate(index) {
    active = index;
    options().forEach((option, i) => option.setAttribute("aria-selected", i === index));
    options()[index]?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", options()[index]?.id ?? "");
  }

  /* Takes a row; without one, what was typed is what is meant. */
  function choose(index) {
    const row = rows[index];
    close();
    if (row) take(row);
    else input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function open(found) {
    rows = found;
    list.replaceChildren(...rows.map((row, i) => element("li", {
      id: `${list.id}-${i}`, role: "option", "aria-selected": "false",
      onmousedown: (event) => event.preventDefault(), onclick: () => choose(i),
    }, draw(row))));
    list.hidden = !rows.length;
    list.scrollTop = 0;
    active = -1;
    input.setAttribute("aria-expanded", String(rows.length > 0));
    status.textContent = `${plural(rows.length, noun)} found`;
  }

  const look = async (text) => {
    const found = await once((signal) => search(text, signal)).catch(() => []);
    if (found && document.activeElement === input) open(found);
  };
  const typed = debounced(() => look(input.value.trim()), TYPING);

  function move(step) {
    if (list.hidden) look(input.value === before ? "" : input.value.trim());
    else activate((active + step + rows.length) % rows.length);
  }

  const KEYS = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(active < 0 ? 0 : -1),
    Enter: () => choose(active < 0 && rows.length === 1 ? 0 : active),
    Escape: close,
  };
  input.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act || (list.hidden && !event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  });
  input.addEventListener("input", typed);
  input.addEventListener("focus", () => {
    before = input.value;
    input.select();
  });
  input.addEventListener("click", () => list.hidden && move(1));
  input.addEventListener("blur", close);
}
