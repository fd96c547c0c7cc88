/* What to change so that the run needs less, each with its price and a button that does it. */
import { element } from "./dom.js";
import { encode, leaves } from "./request.js";
import { size, words } from "./units.js";

const FIRST = 5; // items that are shown at once

const changeText = (change, byName) => [...leaves(change, byName)]
  .map(([name, value]) => `${words(name)}: ${value === null ? "left out" : encode(value)}`).join(", ");

function drawItem(item, byName, apply) {
  const text = changeText(item.change, byName);
  return element("li", {},
    element("div", {},
      element("strong", {}, text),
      element("span", {}, `saves ${size(item.saves_bytes)}, then needs ${size(item.required_bytes)}`),
      element("span", { class: "note" }, item.cost),
      item.makes_fit.length > 0
        && element("span", { class: "verdict fits" }, `\u2713 then fits ${item.makes_fit.join(", ")}`)),
    element("button", { type: "button", "aria-label": `Apply ${text}`, onclick: () => apply(item.change) }, "Apply"));
}

/* apply(change): merges it into the request. */
export function drawAdvice(advice, byName, apply) {
  if (!advice.length) return [element("p", {}, "Nothing is known that would save memory here.")];
  const items = advice.map((item) => drawItem(item, byName, apply)), more = items.splice(FIRST);
  return [
    element("ul", { class: "advice" }, items),
    more.length > 0 && element("details", { id: "more-advice" }, element("summary", {}, `${more.length} more`),
      element("ul", { class: "advice" }, more)),
  ];
}
