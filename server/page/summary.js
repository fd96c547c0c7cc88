/* The answer in one line, for everyone, and in four figures. */
import { element } from "./dom.js";
import { count, plural, range, size, words } from "./units.js";

export const VERDICTS = ["fits", "tight", "does_not_fit", "unsupported"];
const SIGNS = { fits: "\u2713", tight: "\u2248", does_not_fit: "\u2715", unsupported: "\u2013" };

export const verdict = (name) => element("span", { class: `verdict ${name}` },
  element("span", { "aria-hidden": "true" }, SIGNS[name]), ` ${words(name)}`);

/* A card that is told by its memory alone has that for a name. */
export const nameOf = ({ name }) => name.replace(/^(\d+)-bytes$/, (_, bytes) => `A card of ${size(bytes)}`);

/* "Needs 33.2 GiB on each GPU; fits rtx-4090." */
export function statusText({ fits }) {
  const [first] = fits;
  return `${size(first.required_bytes)} needed on ${nameOf(first)}: ${words(first.verdict)}.`;
}

function figure(label, value, note) {
  return element("div", { class: "figure" }, element("dt", {}, label), element("dd", {}, value),
    element("dd", { class: "note" }, note));
}

/* gpus: of the job. */
export function drawSummary({ model, peak, fits: [first], per_gpu: rows }, gpus) {
  const share = model.trainable_parameters / model.parameters;
  return element("dl", { class: "figures" },
    figure(gpus > 1 ? `Needed on each of ${gpus} GPUs` : "Needed", size(first.required_bytes),
      `${size(first.required_bytes)} to ${size(first.required_high_bytes)} on ${nameOf(first)}`),
    peak ? [
      figure("Peak allocated", size(peak.allocated.expected_bytes),
        `${range(peak.allocated)}, in ${words(peak.phase)}`),
      figure("Shown by nvidia-smi", size(peak.device.expected_bytes), range(peak.device)),
    ] : figure("Sum of the rows", size(rows.total_bytes), "by the rule of thumb"),
    figure("Trained", count(model.trainable_parameters),
      share === 1 ? "all parameters" : `of ${count(model.parameters)} parameters`));
}

export function fitText(fits) {
  const fitting = fits.filter((fit) => fit.verdict === "fits").length;
  return `Fits ${fitting} of ${plural(fits.length, "card")}.`;
}
