// The tray with what is going on, and the list of all runs.

import { post } from "./api.js";
import { badge, button, byId, command, empty, h, notice, number, plural, put, say, seconds } from "./dom.js";
import { active, over, state, watch } from "./store.js";

const KINDS = { done: "good", failed: "bad", cancelled: "soft", running: "info", waiting: "soft" };
const rows = new Map();

// Runs that the view itself shows: the tray need not.
const inView = new Set();
export function viewing(id) {
  inView.add(id);
  drawTray();
  return () => {
    inView.delete(id);
    drawTray();
  };
}

export async function cancel(id) {
  try {
    await post(`runs/${id}/cancel`, {});
    say("Cancelling.");
  } catch (error) {
    say(error.message);
  }
}

// One bar for the phase that a run is in, and words for screen readers.
export function progress(run) {
  const phase = [...run.phases].reverse().find((known) => known.done < known.total) ||
    run.phases[run.phases.length - 1];
  if (run.state === "waiting") return h("p", { class: "phase" }, "Waits for its turn");
  if (!phase) return h("p", { class: "phase" }, "Begins…");
  const share = phase.total ? phase.done / phase.total : 0;
  return h(
    "div",
    { class: "phase" },
    h("span", {}, `${phase.name}`),
    h("progress", { max: "1", value: share, "aria-label": phase.name }),
    h("span", { class: "count" }, phase.total > 1 ? `${number(phase.done)} of ${number(phase.total)}` : ""),
  );
}

// All phases of a run, those that are over too.
export function phases(run) {
  if (!run.phases.length) return progress(run);
  return h("ul", { class: "plain phases" }, run.phases.map((phase) => h("li", { class: phase.done >= phase.total ? "over" : null },
    h("span", {}, phase.name),
    h("progress", { max: "1", value: phase.total ? phase.done / phase.total : 1, "aria-label": phase.name }),
    h("span", { class: "count" }, phase.total > 1 ? `${number(phase.done)} of ${number(phase.total)}` : phase.done >= phase.total ? "done" : ""))));
}

// A part that is drawn anew whenever its run changes, while what stands around it (a button that
// somebody is about to press) stays.
export function live(id, draw = progress) {
  const node = h("div", { class: "live" });
  let placed = false;
  const redraw = () => {
    const run = state.runs.get(id);
    if (run) put(node, draw(run));
  };
  const unwatch = watch((changed) => {
    placed = placed || node.isConnected;
    if (placed && !node.isConnected) unwatch();
    else if (changed.includes(id)) redraw();
  });
  redraw();
  return node;
}

const trayRows = new Map();

function trayRow(run) {
  if (!trayRows.has(run.id)) {
    trayRows.set(run.id, h(
      "div",
      { class: "tray-row", "data-run": run.id },
      h("p", { class: "tray-title" }, run.title),
      live(run.id),
      button("Cancel", () => cancel(run.id), { class: "quiet", "aria-label": `Cancel: ${run.title}` }),
    ));
  }
  return trayRows.get(run.id);
}

let trayShown = "";

function drawTray() {
  const going = active().filter((run) => !inView.has(run.id));
  const key = going.map((run) => run.id).join();
  document.body.classList.toggle("busy", active().length > 0);
  if (key === trayShown) return;
  trayShown = key;
  for (const id of [...trayRows.keys()]) if (!going.some((run) => run.id === id)) trayRows.delete(id);
  put(byId("tray"), going.slice(0, 3).map(trayRow),
    going.length > 3 ? h("p", { class: "phase" }, `${plural(going.length - 3, "run")} more wait`) : null);
}

function listRow(run) {
  const took = run.ended && run.began ? seconds(run.ended - run.began) : "";
  return h(
    "li",
    {},
    h("div", { class: "list-head" }, badge(KINDS[run.state], run.state), h("strong", {}, run.title),
      h("span", { class: "soft-text" }, took)),
    over(run) ? null : live(run.id),
    run.error && run.state === "failed" ? notice("bad", run.error.message, run.error.remedy) : null,
    run.notes.map((note) => notice("warn", note)),
    run.command ? command(run.command) : null,
  );
}

let listShown = "";

function drawList() {
  const runs = [...state.runs.values()].sort((a, b) => b.created - a.created);
  const key = runs.map((run) => run.id + run.state).join();
  if (key === listShown) return;
  listShown = key;
  put(byId("runs-list"), h("h2", {}, "Runs"),
    runs.length ? h("ul", { class: "plain" }, runs.map(listRow))
      : empty("Nothing has run yet.", h("p", {}, "Previews, exports and traces are listed here.")));
}

function announce(changed) {
  for (const id of changed) {
    const run = state.runs.get(id);
    const before = rows.get(id);
    rows.set(id, run.state);
    if (before && before !== run.state && over(run)) {
      say(`${run.title}: ${run.state}.${run.state === "failed" ? ` ${run.error.message}` : ""}`);
    }
  }
}

export function showRuns() {
  const knob = byId("runs-button");
  const list = byId("runs-list");
  knob.addEventListener("click", () => {
    list.hidden = !list.hidden;
    knob.setAttribute("aria-expanded", String(!list.hidden));
    listShown = "-";
    if (!list.hidden) drawList();
  });
  list.addEventListener("keydown", (event) => {
    if (event.key === "Escape") knob.click();
  });
  const draw = (changed) => {
    announce(changed);
    const count = active().length;
    knob.textContent = count ? `Runs (${count})` : "Runs";
    drawTray();
    if (!list.hidden) drawList();
  };
  watch(draw);
  draw([]);
}
