// Look inside: a prompt's causal trace as it is computed, null spaces, where an edit went.

import { post } from "./api.js";
import { button, empty, h, labelled, notice, percent, problem, put, say, small } from "./dom.js";
import { followRun, local, over, state } from "./store.js";
import { bars, heatmap, legend, spectrum } from "./charts.js";
import { cancel, live, viewing } from "./runs.js";

function follower(out, draw) {
  let stop = null;
  return {
    async start(path, body) {
      put(out, h("p", { class: "phase" }, "Begins…"));
      try {
        const { run } = await post(path, body);
        if (stop) stop();
        const unseen = viewing(run);
        const going = h("div", { class: "row" }, live(run), button("Cancel", () => cancel(run), { class: "quiet" }));
        const shown = h("div", {});
        put(out, going, shown);
        const unfollow = followRun(run, (whole, error) => {
          if (error) put(out, problem(error));
          else if (whole.state === "failed") put(out, problem(whole.error));
          else if (whole.state === "cancelled") put(out, notice("info", "Cancelled.", ""));
          else {
            const known = whole.result || whole.partial;
            going.hidden = over(whole);
            put(shown, known ? draw(known, over(whole)) : null);
          }
        });
        stop = () => {
          unfollow();
          unseen();
        };
      } catch (error) {
        put(out, problem(error));
      }
    },
    stop: () => stop && stop(),
  };
}

function traceCard() {
  const known = local.get("trace", null) || state.about.examples[0] || { prompt: "", subject: "" };
  const prompt = h("input", { value: known.prompt, autocomplete: "off", maxlength: "100000", placeholder: "The capital of {} is" });
  const subject = h("input", { value: known.subject, autocomplete: "off", maxlength: "100000", placeholder: "France" });
  const kind = h("select", {}, [["hidden", "hidden states"], ["mlp", "MLP outputs"], ["attention", "attention outputs"]].map(([value, label]) => h("option", { value }, label)));
  const model = h("select", {}, [["base", "base"], ["edited", "edited"]].map(([value, label]) => h("option", { value }, label)));
  const out = h("div", { "aria-live": "off" });
  const run = follower(out, (told, complete) => {
    if (complete) say(`The trace of ${told.prompt} is complete.`);
    const high = Math.max(told.clean, ...told.rows.flat());
    return h("div", {},
      h("p", {}, "The model says ", h("q", {}, told.answer.trim()), ` with ${percent(told.clean)}; with noise on the subject ${percent(told.corrupted)} are left. `,
        "Each cell: what is left if the clean state of that token and layer is put back, in percent."),
      heatmap({ rows: told.tokens, columns: [...Array(told.layers).keys()], values: told.rows, low: Math.min(told.corrupted, high), high,
        corner: "token \\ layer", label: "Causal trace", marked: (at) => at < told.subject }),
      legend(told.corrupted, high));
  });
  const node = h("section", { class: "card", "aria-label": "Causal trace" }, h("h2", {}, "Where does it keep a fact?"),
    h("p", { class: "soft-text" }, "Causal tracing: noise hides the subject; then one state after the other is put back."),
    h("form", { on: { submit: (event) => {
      event.preventDefault();
      local.set("trace", { prompt: prompt.value, subject: subject.value });
      run.start("look/trace", { prompt: prompt.value, subject: subject.value, kind: kind.value, model: model.value });
    } } }, h("div", { class: "row" }, labelled("Prompt", prompt), labelled("Subject", subject), labelled("Restore", kind), labelled("Model", model),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Trace")))),
    out);
  return [node, run.stop];
}

function spectraCard() {
  const layers = h("input", { placeholder: "those that are edited", autocomplete: "off" });
  const out = h("div", {});
  const run = follower(out, (told) => h("div", {},
    h("div", { class: "charts" }, told.layers.map((row) => h("figure", {},
      h("figcaption", {}, h("strong", {}, `Layer ${row.layer}`), ` ${row.dim} of ${row.d_in} directions are free; they hold ${percent(row.energy_left)} of the energy`),
      spectrum(row), row.doubt ? notice("warn", row.doubt) : null))),
    h("p", { class: "soft-text" }, "Eigenvalues of the keys' second moment, ascending, on a logarithmic scale. Shaded: the null space, where edits may write.")));
  const node = h("section", { class: "card", "aria-label": "Null spaces" }, h("h2", {}, "How much room is there?"),
    h("form", { on: { submit: (event) => {
      event.preventDefault();
      const chosen = (layers.value.match(/\d+/g) || []).map(Number);
      run.start("look/spectra", { layers: chosen });
    } } }, h("div", { class: "row" }, labelled("Layers", layers),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Show spectra")))),
    out);
  return [node, run.stop];
}

function whereCard(wanted) {
  const edit = h("input", { value: wanted || "last", autocomplete: "off", maxlength: "40" });
  const out = h("div", {});
  const run = follower(out, (told) => {
    const sites = told.matrices.filter((row) => row.share !== undefined);
    const byFact = sites.filter((row) => row.facts && row.facts.length);
    const most = Math.max(...byFact.flatMap((row) => row.facts), 1e-9);
    return h("div", {},
      h("p", {}, `Edit ${told.edit} by ${told.method}.`),
      sites.length ? bars(sites.map((row) => ({ label: `Layer ${row.layer ?? row.matrix}`, value: row.share,
        text: `${percent(row.share)} of the weight's norm, rank ${row.rank}` }))) : null,
      byFact.length ? [h("h3", {}, "By fact"),
        h("p", { class: "soft-text" }, "How far the change moves what the layer makes of the fact's key, in percent of that."),
        heatmap({ rows: told.facts.slice(0, 60), columns: byFact.map((row) => row.layer), values: told.facts.slice(0, 60).map((_, at) => byFact.map((row) => row.facts[at])),
          low: 0, high: most, corner: "fact \\ layer", label: "Change by fact and layer" }), legend(0, most)] : null,
      told.others.length ? h("p", {}, `Besides weights: ${told.others.join(", ")}`) : null,
      sites.length || told.others.length ? null : h("p", {}, `${told.matrices.map((row) => `${row.matrix}: norm ${small(row.norm)}`).join(", ")}`));
  });
  const begin = () => run.start("look/where", { edit: edit.value.trim() || "last" });
  const node = h("section", { class: "card", "aria-label": "Where an edit went" }, h("h2", {}, "Where did an edit go?"),
    state.now && state.now.begun ? h("form", { on: { submit: (event) => { event.preventDefault(); begin(); } } },
      h("div", { class: "row" }, labelled("Edit: an id from the history, or last", edit), h("div", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Show"))))
      : empty("No edit has been kept yet.", h("a", { class: "button", href: "#/edit" }, "Edit something")),
    out);
  if (wanted) begin();
  return [node, run.stop];
}

export function lookView(main) {
  const wanted = (/where=([0-9a-f]+)/.exec(location.hash) || [])[1];
  const cards = [traceCard(), spectraCard(), whereCard(wanted)];
  put(main, main.firstChild, cards.map(([node]) => node));
  if (wanted) cards[2][0].scrollIntoView();
  return () => cards.forEach(([, stop]) => stop());
}

