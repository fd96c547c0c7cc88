/* What the memory is made of: a bar for each card against its capacity, and the rows. */
import { drawing, element, swatch, table } from "./dom.js";
import { nameOf, verdict } from "./summary.js";
import { plural, sentence, size, whole, words } from "./units.js";

/* The components of at_peak, in the order of a bar; what lies outside them is the last. */
const PARTS = ["weights", "gradients", "optimizer", "activations", "buffers", "workspace"];
const OUTSIDE = "cache and context";
const ROW_OF_PART = { workspace: "overhead" };

const classOf = (part) => `part ${part === OUTSIDE ? "outside" : part}`;

/* [part, bytes] that add up to what the card must have. Of a rule of thumb the rows are all that is known. */
function partsOf({ peak, per_gpu: rows, fits: [fit] }) {
  const held = peak ? PARTS.map((part) => [part, peak.at_peak[`${part}_bytes`]])
    : PARTS.map((part) => [part, rows[`${ROW_OF_PART[part] ?? part}_bytes`]]);
  const sum = held.reduce((total, [, bytes]) => total + bytes, 0);
  return [...held, [OUTSIDE, Math.max(0, fit.required_bytes - sum)]].filter(([, bytes]) => bytes > 0);
}

function drawParts(parts, most) {
  let at = 0;
  return parts.map(([part, bytes]) => {
    const x = at;
    at += bytes;
    return drawing("rect", {
      class: classOf(part), x: `${(100 * x) / most}%`, width: `${(100 * bytes) / most}%`, y: 4, height: 24,
    }, drawing("title", {}, `${sentence(part)}: ${size(bytes)}`));
  });
}

function drawBar(answer, most) {
  const [fit] = answer.fits, parts = partsOf(answer), share = (bytes) => `${(100 * bytes) / most}%`;
  const told = parts.map(([part, bytes]) => `${words(part)} ${size(bytes)}`).join(", ");
  return drawing("svg", {
    class: "bar", role: "img", height: 32,
    "aria-label": `${nameOf(fit)}: needs ${size(fit.required_bytes)} of ${size(fit.usable_bytes)}: ${told}`,
  },
  drawing("rect", { class: "capacity", x: 0, y: 4, height: 24, width: share(fit.usable_bytes) }),
  drawParts(parts, most),
  drawing("rect", { class: "beyond", x: share(fit.required_bytes), y: 4, height: 24,
    width: share(Math.max(0, fit.required_high_bytes - fit.required_bytes)) },
  drawing("title", {}, `Up to ${size(fit.required_high_bytes)} when it comes worse`)),
  drawing("line", { class: "limit", x1: share(fit.usable_bytes), x2: share(fit.usable_bytes), y1: 0, y2: 32 }));
}

/* Figures of limits that a click puts into the form. */
const LIMITS = [
  ["max_micro_batch_size", "micro_batch_size", "largest batch"],
  ["max_sequence_length", "sequence_length", "longest sequence"],
  ["min_gpus", "parallelism.gpus", "fewest GPUs"],
];

function drawLimits(limits, apply) {
  if (!limits) return element("p", { class: "limits" }, "looking for the largest batch and the longest sequence\u2026");
  return element("p", { class: "limits" }, LIMITS.map(([name, field, label]) => {
    const value = limits[name];
    return element("span", {}, `${label}: `, value ? element("button", {
      type: "button", class: "link", id: `limit-${limits.gpu}-${name}`, onclick: () => apply(field, value),
    }, whole(value)) : "none");
  }));
}

/* answers: one for each card, told for that card; limits: rows of fits by card, once they are known. */
export function drawBars(answers, limits, apply) {
  const most = 1.02 * Math.max(...answers.flatMap(({ fits: [fit] }) => [fit.usable_bytes, fit.required_high_bytes]));
  return [
    element("ul", { class: "bars" }, answers.map((answer) => {
      const [fit] = answer.fits;
      return element("li", { "data-gpu": fit.gpu },
        element("div", { class: "bar-head" }, element("strong", {}, nameOf(fit)), verdict(fit.verdict),
          element("span", { class: "bar-size" },
            `needs ${size(fit.required_bytes)} to ${size(fit.required_high_bytes)} of ${size(fit.usable_bytes)}`)),
        fit.verdict === "unsupported" ? element("p", { class: "note" }, fit.reason)
          : [drawBar(answer, most), drawLimits(limits.get(fit.gpu), apply)]);
    })),
    drawLegend(answers),
  ];
}

function drawLegend(answers) {
  const seen = new Set(answers.flatMap(partsOf).map(([part]) => part));
  return element("ul", { class: "legend" },
    [...PARTS, OUTSIDE].filter((part) => seen.has(part))
      .map((part) => element("li", {}, swatch(classOf(part)), words(part))),
    element("li", {}, drawing("svg", { class: "swatch", "aria-hidden": "true" },
      drawing("rect", { class: "beyond", x: 1, y: 1, width: "80%", height: "80%" })), "up to the upper figure"),
    element("li", {}, drawing("svg", { class: "swatch", "aria-hidden": "true" },
      drawing("line", { class: "limit", x1: "50%", x2: "50%", y1: 0, y2: "100%" })), "what the card can give"));
}

const ROWS = ["weights", "gradients", "optimizer", "activations", "buffers", "overhead", "total"];
const PEAK_OF_ROW = { overhead: "workspace" };

function peakOf(peak, row) {
  if (row === "total") return peak.allocated.expected_bytes;
  return peak.at_peak[`${PEAK_OF_ROW[row] ?? row}_bytes`];
}

/* The rows that people know: each component's own maximum, and what of it is alive at the peak. */
export function drawRows(answer, gpus) {
  const { single_gpu: single, per_gpu: shared, peak, rule_of_thumb: thumb } = answer;
  const columns = [
    [gpus > 1 ? "each at its most, per GPU" : "each at its most", (row) => shared[`${row}_bytes`]],
    gpus > 1 && ["on one GPU alone", (row) => single[`${row}_bytes`]],
    peak && ["at the peak", (row) => peakOf(peak, row)],
    thumb && peak && [gpus > 1 ? "rule of thumb, one GPU" : "rule of thumb", (row) => thumb[`${row}_bytes`]],
  ].filter(Boolean);
  return table("Components, and what of them is alive at the peak", ["component", ...columns.map(([head]) => head)], ROWS.map((row) => [
    element("th", { scope: "row" }, row !== "total" && swatch(classOf(row === "overhead" ? OUTSIDE : row)), row),
    ...columns.map(([, value]) => (value(row) === undefined ? "\u2013" : size(value(row)))),
  ]));
}

const KINDS = [
  ["allocated", "torch.cuda.max_memory_allocated()"],
  ["reserved", "torch.cuda.max_memory_reserved()"],
  ["device", "what nvidia-smi shows"],
];

/* low..high of the three meanings of "memory used". */
export function drawRanges({ peak }) {
  return peak && table(`Peak in ${words(peak.phase)} on ${peak.gpu}`, ["", "low", "expected", "high"],
    KINDS.map(([kind, meaning]) => [
      element("th", { scope: "row" }, kind, element("span", { class: "note" }, ` ${meaning}`)),
      ...["low", "expected", "high"].map((end) => size(peak[kind][`${end}_bytes`])),
    ]));
}

/* The kinds of ranks of a pipeline; nothing where all are alike. */
export function drawRanks({ per_gpu: { ranks = [] } }) {
  return ranks.length > 0 && table("Kinds of ranks", ["rank", "layers", "allocated"],
    ranks.map((rank) => [words(rank.rank_kind), String(rank.layers), size(rank.allocated_bytes)]));
}

/* What each component is made of, in words, with its source. */
export function drawExplanation({ explanation = [] }) {
  return explanation.length > 0 && element("details", { id: "explanation" },
    element("summary", {}, `What they are made of (${plural(explanation.length, "part")})`),
    element("dl", { class: "explanation" }, explanation.map((part) => [
      element("dt", {}, `${part.component}: ${size(part.bytes)}`),
      element("dd", {}, part.formula, element("span", { class: "note" }, part.source)),
    ])));
}
