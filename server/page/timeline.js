/* The step as a picture: what is allocated and reserved in each stretch of it, in order. */
import { byId, drawing, element, swatch, table } from "./dom.js";
import { gib, size, words } from "./units.js";

const HEIGHT = 240, LEFT = 44, RIGHT = 8, TOP = 18, BOTTOM = 24, LETTER = 6.2;
const STEPS = [1, 2, 5, 10, 20, 50];

/* Neighbours of one phase: {phase, from, to, allocated, reserved}. */
function phasesOf(timeline) {
  const phases = [];
  timeline.forEach((stretch, i) => {
    if (phases.at(-1)?.phase !== stretch.phase)
      phases.push({ phase: stretch.phase, from: i, allocated: 0, reserved: 0 });
    const last = phases.at(-1);
    last.to = i + 1;
    last.allocated = Math.max(last.allocated, stretch.allocated_bytes);
    last.reserved = Math.max(last.reserved, stretch.reserved_bytes);
  });
  return phases;
}

/* The marks of an axis up to most: round ones, six at most. */
function ticks(most) {
  const scale = 10 ** Math.floor(Math.log10(most) - 1);
  const step = STEPS.map((one) => one * scale).find((one) => most / one <= 5);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}

/* A filled staircase of one value per stretch. */
function stairs(values, x, y) {
  const steps = values.map((value, i) => `L${x(i)},${y(value)}L${x(i + 1)},${y(value)}`);
  return `M${x(0)},${y(0)}${steps.join("")}L${x(values.length)},${y(0)}Z`;
}

function drawAxis(most, y, width) {
  return ticks(gib(most)).map((tick) => {
    const at = y(tick * 2 ** 30);
    return [
      drawing("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }),
      drawing("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, String(Number(tick.toPrecision(3)))),
    ];
  });
}

function drawPhases(phases, x) {
  return phases.map(({ phase, from, to }) => {
    const room = x(to) - x(from), name = words(phase);
    return [
      drawing("line", { class: "phase", x1: x(to), x2: x(to), y1: TOP, y2: HEIGHT - BOTTOM + 6 }),
      name.length * LETTER < room
        && drawing("text", { x: x(from) + room / 2, y: HEIGHT - 6, "text-anchor": "middle" }, name),
    ];
  });
}

function drawLimit(limit, most, y, width) {
  if (limit > most) return [];
  return [
    drawing("line", { class: "limit", x1: LEFT, x2: width - RIGHT, y1: y(limit), y2: y(limit) }),
    drawing("text", { x: width - RIGHT, y: y(limit) - 5, "text-anchor": "end" }, `the card: ${size(limit)}`),
  ];
}

function stretchText({ phase, layer, allocated_bytes: allocated, reserved_bytes: reserved }) {
  const place = layer === undefined ? words(phase) : `${words(phase)}, layer ${layer}`;
  return `${place}: ${size(allocated)} allocated, ${size(reserved)} reserved`;
}

/* The picture at a width in pixels; limit: what the card can give. */
function drawPicture(timeline, phases, limit, width, label) {
  const reserved = Math.max(...timeline.map((stretch) => stretch.reserved_bytes));
  const most = 1.08 * (limit < 2 * reserved ? Math.max(limit, reserved) : reserved);
  const x = (i) => LEFT + (i * (width - LEFT - RIGHT)) / timeline.length;
  const y = (bytes) => HEIGHT - BOTTOM - (bytes / most) * (HEIGHT - TOP - BOTTOM);
  const values = (name) => timeline.map((stretch) => stretch[name]);
  const frame = { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT };
  return drawing("svg", { class: "timeline", role: "img", "aria-label": label, ...frame },
    drawing("text", { x: LEFT - 6, y: 11, "text-anchor": "end" }, "GiB"),
    drawAxis(most, y, width),
    drawing("path", { class: "reserved", d: stairs(values("reserved_bytes"), x, y) }),
    drawing("path", { class: "allocated", d: stairs(values("allocated_bytes"), x, y) }),
    drawPhases(phases, x),
    drawLimit(limit, most, y, width),
    drawing("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM }));
}

/* A slider that walks through the stretches, for keys, fingers and pointers. */
function addWalk(root, picture, timeline, start) {
  const slider = root.querySelector("input"), output = root.querySelector("output");
  const cursor = picture.querySelector(".cursor");
  const width = picture.viewBox.baseVal.width, step = (width - LEFT - RIGHT) / timeline.length;
  const go = (i) => {
    slider.value = i;
    output.textContent = stretchText(timeline[i]);
    slider.setAttribute("aria-valuetext", output.textContent);
    cursor.setAttribute("x1", LEFT + (i + 0.5) * step);
    cursor.setAttribute("x2", LEFT + (i + 0.5) * step);
  };
  slider.oninput = () => go(Number(slider.value));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width - LEFT;
    go(Math.min(timeline.length - 1, Math.max(0, Math.floor(at / step))));
  });
  go(start);
}

const legend = () => element("ul", { class: "legend" },
  ["allocated", "reserved"].map((name) => element("li", {}, swatch(name), name)));

/* Fills root with the timeline of answer, drawn anew when its width changes. */
export function showTimeline(root, { timeline, peak, fits }) {
  root.closest("section").hidden = !timeline;
  if (!timeline) return;
  const phases = phasesOf(timeline), limit = fits.find((fit) => fit.gpu === peak.gpu)?.usable_bytes ?? Infinity;
  const heights = timeline.map((stretch) => stretch.allocated_bytes), top = heights.indexOf(Math.max(...heights));
  const label = `Memory over one training step on ${peak.gpu}; the most in ${stretchText(timeline[top])}`;
  const frame = element("div", { class: "frame" });
  root.replaceChildren(frame,
    element("div", { class: "walk" },
      element("label", { for: "stretch" }, "Walk through the step"),
      element("input", { id: "stretch", type: "range", min: 0, max: timeline.length - 1 }),
      element("output", { for: "stretch" })),
    legend(),
    element("details", { id: "phases" }, element("summary", {}, "The phases as a table"),
      table("The most in each phase", ["phase", "allocated", "reserved"],
        phases.map((phase) => [words(phase.phase), size(phase.allocated), size(phase.reserved)]))));
  const draw = () => {
    if (!frame.isConnected) return; // a newer answer took its place
    const picture = drawPicture(timeline, phases, limit, Math.max(280, frame.clientWidth), label);
    const at = frame.firstChild ? Number(byId("stretch").value) : top;
    frame.replaceChildren(picture);
    addWalk(root, picture, timeline, at);
  };
  new ResizeObserver(draw).observe(frame);
}
