// Compare: previews of this session, and results of experiments.

import { get } from "./api.js";
import { button, badge, empty, h, number, problem, put, seconds, small } from "./dom.js";
import { state, watch } from "./store.js";
import { measured } from "./preview.js";

const MOST = 8;

function previewRow(run) {
  const result = run.result;
  const numbers = measured(result);
  const cells = [
    result.method, result.facts.length, `${result.holds} of ${result.facts.length}`,
    numbers.paraphrases ? `${numbers.follow} of ${numbers.paraphrases}` : "–",
    `${numbers.moved} of ${numbers.nearby}`, small(result.drift.kl), `× ${numbers.ratio.toFixed(2)}`,
    seconds(Object.values(result.seconds).reduce((a, b) => a + b, 0)),
  ];
  const set = Object.entries(run.asked.hyperparameters).map(([name, value]) => `${name} ${value}`).join(", ");
  return h("tr", {}, h("th", { scope: "row" }, cells[0], set ? h("span", { class: "soft-text" }, ` ${set}`) : null),
    cells.slice(1).map((cell) => h("td", { class: "number" }, cell)));
}

function previewsCard() {
  const body = h("div", {});
  let shown = "";
  const draw = async () => {
    const done = [...state.runs.values()].filter((run) => run.kind === "preview" && run.state === "done").slice(-20);
    const key = done.map((run) => run.id).join();
    if (key === shown && body.childElementCount) return;
    shown = key;
    if (!done.length) {
      put(body, empty("No preview has run yet.", h("p", {}, "Try the same facts by two methods, and their numbers stand here side by side."),
        h("a", { class: "button", href: "#/edit" }, "Preview an edit")));
      return;
    }
    try {
      const whole = await Promise.all(done.map((run) => get(`runs/${run.id}`)));
      put(body, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Previews side by side" }, h("table", { class: "numbers" },
        h("thead", {}, h("tr", {}, ["Method", "Facts", "Hold", "Paraphrases", "Nearby moved", "Drift, nats", "Perplexity", "Time"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, whole.reverse().map(previewRow)))));
    } catch (error) {
      put(body, problem(error));
    }
  };
  draw();
  return [h("section", { class: "card", "aria-label": "Previews" }, h("h2", {}, "Previews of this session"), body), watch(draw)];
}

function groupTable(group) {
  const names = [...new Set(group.columns.flatMap((column) => Object.keys(column.numbers)))].filter((name) => !name.includes(":")).slice(0, MOST);
  return h("div", {}, h("h4", {}, group.title),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": group.title }, h("table", { class: "numbers" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), h("th", { scope: "col" }, "Edits"), names.map((name) => h("th", { scope: "col" }, name.replaceAll("_", " "))))),
      h("tbody", {}, group.columns.map((column) => h("tr", {}, h("th", { scope: "row" }, column.label, column.error ? badge("bad", "failed") : null),
        h("td", { class: "number" }, number(column.edits)),
        names.map((name) => {
          const rate = column.numbers[name];
          return h("td", { class: "number", title: rate && rate.low !== null ? `${small(rate.low)} to ${small(rate.high)}` : null }, rate ? small(rate.value) : "–");
        })))))));
}

function experiment(row, view) {
  return h("details", { class: "experiment" }, h("summary", {}, h("strong", {}, row.name === "." ? row.title : row.name),
    row.problem ? badge("bad", "cannot be read") : null),
    row.problem ? problem({ message: row.problem }) : null,
    row.page ? button("Show the report", () => view(row.name)) : null,
    row.groups.map(groupTable));
}

function resultsCard() {
  const body = h("div", {});
  const frame = h("div", {});
  const view = async (name) => {
    try {
      const { address } = await get(`results/page?name=${encodeURIComponent(name)}`);
      put(frame, h("div", { class: "section-head" }, h("h3", {}, name), button("Close", () => put(frame))),
        h("iframe", { src: address, sandbox: "", title: `Report of ${name}`, class: "report" }));
      frame.scrollIntoView({ block: "start" });
    } catch (error) {
      put(frame, problem(error));
    }
  };
  put(body, h("p", { class: "soft-text" }, "Reads the results…"));
  get("results").then((told) => {
    if (!told.results.length) {
      put(body, empty(told.folder ? `No results in ${told.folder}` : "No results of experiments",
        h("p", {}, "Run one, and open the studio where its results are, or with --results DIR:"),
        h("code", {}, "alphaedit experiment main-table -o results/mine")));
      return;
    }
    put(body, told.results.map((row) => experiment(row, view)));
  }, (error) => put(body, problem(error)));
  return h("section", { class: "card", "aria-label": "Experiments" }, h("h2", {}, "Experiments"), body, frame);
}

export function compareView(main) {
  const [card, unwatch] = previewsCard();
  put(main, main.firstChild, card, resultsCard());
  return unwatch;
}
