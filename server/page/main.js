/* The page: what is asked when the form changes, and where the answers are shown. */
import { drawAdvice } from "./advice.js";
import { get, latest, post, Problem } from "./ask.js";
import { chooseRows, drawCards, fillFilters, FILTERS } from "./cards.js";
import { cardsControl } from "./chosen.js";
import { byId, debounced, element, show } from "./dom.js";
import { readFields } from "./fields.js";
import { createForm } from "./form.js";
import { drawBars, drawExplanation, drawRanges, drawRanks, drawRows } from "./memory.js";
import { modelControl } from "./model.js";
import { drawNotes } from "./notes.js";
import { fromFragment, merged, toFragment, withMember } from "./request.js";
import { drawHints, drawShare } from "./share.js";
import { drawSummary, fitText, statusText } from "./summary.js";
import { showTimeline } from "./timeline.js";
import { plural } from "./units.js";

const TYPING = 200; // milliseconds without a change before the service is asked
const DRAWN = 8;    // cards that get a bar of their own
/* What a visitor sees first: a run that people ask about, on cards that they have. */
const EXAMPLE = "model=llama-3.1-8b&method=lora&gradient_checkpointing=full&sequence_length=4096"
  + "&gpus=rtx-4090,l40s,h100-sxm5-80gb";
/* Asked for on top of the form, whatever a link says. */
const WHOLE = { timeline: "full", explain: true, include: ["timeline", "hints", "rule_of_thumb"] };
const VERDICTS_ONLY = { timeline: "phases", explain: false, include: [] };
const TRIALS = { timeline: "phases", explain: false, include: ["limits", "advice"] };

const state = { request: {}, view: {} };
const once = latest();
let fields, form, model, cards, catalogue;
let rows = []; // of every card, with vendor and kind

const gpusOf = ({ parallelism = {} }) => parallelism.gpus ?? 1;

/* The same run, judged for these rows' cards; those that are not of the catalogue by their memory. */
function onCards(request, fits, options) {
  const { gpus, gpu_memory_bytes: memories, ...rest } = request;
  const known = fits.filter((fit) => catalogue.has(fit.gpu)), others = fits.filter((fit) => !catalogue.has(fit.gpu));
  return {
    ...rest, ...options,
    ...(known.length && { gpus: known.map((fit) => fit.gpu) }),
    ...(others.length && { gpu_memory_bytes: others.map((fit) => fit.memory_bytes) }),
  };
}

/* Rows of the cards to draw: those that were named; else the first, for which the peak is told. */
function drawnRows(request, answer) {
  return answer.fits.slice(0, request.gpus || request.gpu_memory_bytes ? DRAWN : 1);
}

/* ---- what is shown */

function showStatus(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

function showProblem(problem) {
  const clear = (pointer) => change(withMember(state.request, pointer.slice(1).replaceAll("/", ".")));
  const left = form.showFaults(problem.errors, state.request, clear);
  show(byId("problems"), [
    element("p", {}, problem.message, byId("results").classList.contains("answered")
      && ". What is shown is of the last request that was right."),
    left.length > 0 && element("ul", {}, left.map(({ pointer, detail }) => element("li", {}, `${pointer} ${detail} `,
      pointer && element("button", { type: "button", class: "link", onclick: () => clear(pointer) }, "Leave it out")))),
    problem.errors.length === 0 && element("button", { type: "button", onclick: () => estimate() }, "Try again"),
  ]);
  byId("problems").hidden = false;
  byId("results").classList.add("stale");
  const faults = problem.errors.length;
  showStatus(faults ? `${plural(faults, "fault")} in the request` : problem.message, true);
}

function showAnswer(answer) {
  const gpus = gpusOf(state.request);
  form.showDefaults(answer.assumptions, state.request);
  cards.name(answer.fits);
  show(byId("figures"), drawSummary(answer, gpus));
  show(byId("rows"), drawRows(answer, gpus), drawRanges(answer), drawRanks(answer), drawExplanation(answer));
  showTimeline(byId("timeline"), answer);
  show(byId("notes"), drawNotes(answer, form.focus));
  show(byId("hints"), drawHints(answer.hints));
  byId("problems").hidden = true;
  byId("results").className = "answered";
}

function showCards() {
  const { view } = state, chosen = rows.length ? chooseRows(rows, view) : [];
  show(byId("cards"), drawCards(chosen, cards.read() ?? [], view, cards.toggle, look));
  byId("card-count").textContent = `${chosen.length} of ${plural(rows.length, "card")}`;
}

function showVerdicts(answer, all, alone) {
  showRows(all);
  showStatus(`${statusText(answer)} ${fitText(all.fits)}`);
  show(byId("bars"), drawBars(alone, new Map(), use));
  show(byId("advice"), element("p", { class: "note" }, "trying what would save memory\u2026"));
}

function showTrials(alone, { fits, advice }) {
  show(byId("bars"), drawBars(alone, new Map(fits.map((fit) => [fit.gpu, fit])), use));
  show(byId("advice"), drawAdvice(advice, fields.byName, apply));
}

function showRows(all) {
  rows = all.fits.map((fit) => {
    const { vendor, kind } = catalogue.get(fit.gpu) ?? {};
    return { ...fit, vendor, kind };
  });
  fillFilters(Object.fromEntries(FILTERS.map((key) => [key, byId(`filter-${key}`)])), rows, state.view);
  byId("find").value = state.view.find ?? "";
  showCards();
}

const use = (name, value) => change(withMember(state.request, name, value));

/* ---- what is asked */

/* What takes dozens of replays is asked for with the verdicts, and shown when it comes. */
async function askWhole(signal) {
  const request = state.request, answer = await post("estimate", { ...request, ...WHOLE }, signal);
  showAnswer(answer);
  const drawn = drawnRows(request, answer), verdicts = askVerdicts(request, drawn, signal);
  await Promise.all([
    verdicts.then(({ all, alone }) => showVerdicts(answer, all, alone)),
    Promise.all([verdicts, askTrials(request, drawn, signal)]).then(([{ alone }, trials]) => showTrials(alone, trials)),
  ]);
  return answer;
}

/* The verdict of every card, and each drawn card by itself, of which the peak is told then. */
async function askVerdicts(request, drawn, signal) {
  const requests = [[], ...drawn.map((row) => [row])].map((fits) => onCards(request, fits, VERDICTS_ONLY));
  const { results: [all, ...alone] } = await post("estimates", { requests }, signal);
  return { all, alone };
}

const askTrials = (request, drawn, signal) => post("estimate", onCards(request, drawn, TRIALS), signal);

/* Faults that are plain before the service is asked. */
function checkLocally() {
  const detail = model.fault();
  if (!detail) return;
  const errors = [{ pointer: "/model", detail }];
  throw new Problem({ title: "The request is not valid", detail: "the config.json has a fault", errors });
}

async function estimate() {
  byId("results").setAttribute("aria-busy", "true");
  form.clearFaults();
  try {
    const answer = await once(async (signal) => {
      checkLocally();
      return askWhole(signal);
    });
    if (!answer) return; // overtaken: the one that did it is busy still
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
  byId("results").removeAttribute("aria-busy");
}

const estimateSoon = debounced(estimate, TYPING);

/* ---- what changes */

/* The link of what is shown; push: a step that the back button undoes. */
function writeLink(push) {
  const fragment = `#${toFragment(state, fields.byName)}`;
  if (fragment !== location.hash) history[push ? "pushState" : "replaceState"](null, "", fragment);
  show(byId("share"), drawShare(state.request));
}

/* done: the change is complete, a step of the history; else it is still being typed. */
function readForm(done) {
  const request = form.read(), same = JSON.stringify(request) === JSON.stringify(state.request);
  state.request = request;
  if (done) writeLink(true);
  if (!same) estimateSoon();
}

function change(request) {
  form.write(request);
  readForm(true);
}

function apply(patch) {
  change(merged(state.request, patch));
  byId("results-title").focus();
}

/* How the table of cards is looked at; nothing is asked for it. */
function look(view, push = true) {
  Object.assign(state.view, view);
  writeLink(push);
  showCards();
}

function readLink() {
  Object.assign(state, fromFragment(location.hash.slice(1) || EXAMPLE, fields.byName));
  form.write(state.request);
  writeLink(false);
  estimate();
}

function listen() {
  const isSearch = (target) => target.matches("[role=combobox]");
  byId("form").addEventListener("input", ({ target }) => !isSearch(target) && readForm(false));
  byId("form").addEventListener("change", ({ target }) => target.id !== "card" && readForm(true));
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("input", ({ target }) => look({ find: target.value }, false));
  for (const key of FILTERS)
    byId(`filter-${key}`).addEventListener("change", ({ target }) => look({ [key]: target.value }));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // what stands behind the '#' is the request
    byId("results-title").focus();
  });
  addEventListener("popstate", readLink);
}

async function start() {
  [fields, catalogue] = await Promise.all([readFields(),
    get("gpus").then(({ gpus }) => new Map(gpus.map((gpu) => [gpu.id, gpu])))]);
  const chosen = () => readForm(true);
  model = modelControl(fields.custom, chosen);
  cards = cardsControl(chosen);
  form = createForm(byId("form"), fields, { model, gpus: cards });
  listen();
  readLink();
}

start().catch((error) => showStatus(error.message, true));
