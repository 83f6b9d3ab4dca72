// What a preview found: what changes, what moves nearby, how far the model drifts.

import { post } from "./api.js";
import { badge, button, command, h, labelled, notice, percent, plural, problem, put, say, seconds, small } from "./dom.js";
import { local, refresh, state } from "./store.js";

const KINDS = {
  paraphrase: ["Paraphrases", "should say the target too"],
  neighbor: ["Neighbors", "should stay as they are"],
  "in force": ["Facts edited before", "should still hold"],
  "well known": ["Other facts that the model knows", "should still hold"],
};

const MOST = 200;
const first = (text) => text.trim().split("\n")[0].slice(0, 90) || "(nothing)";

function told(answer, wanted) {
  return [h("q", {}, first(answer.text)), h("span", { class: "p" }, `p(${wanted}) ${percent(answer.p_target)}`)];
}

function factsTable(all) {
  const rows = [...all].sort((a, b) => a.holds - b.holds).slice(0, MOST);
  return h("div", {}, all.length > rows.length ? h("p", { class: "soft-text" }, `${rows.length} of ${all.length} facts, those that do not hold first.`) : null, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The facts before and after" },
    h("table", { class: "answers" },
      h("thead", {}, h("tr", {}, ["Fact", "Before", "After", "Holds"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {},
        h("th", { scope: "row" }, row.text, " ", h("strong", {}, row.target)),
        h("td", {}, told(row.before, row.target)),
        h("td", {}, told(row.after, row.target)),
        h("td", {}, row.holds ? badge("good", "holds") : badge("bad", "does not hold"))))))));
}

function movedList(kind, rows) {
  const [title, wish] = KINDS[kind];
  const wrong = rows.filter((row) => !row.right);
  const line = (row) => h("li", {},
    h("span", { class: "moved-prompt" }, row.prompt),
    h("span", {}, h("q", {}, first(row.before.text)), " → ", h("q", {}, first(row.after.text))));
  return h("details", { class: "moved", open: wrong.length > 0 && wrong.length <= 12 },
    h("summary", {}, h("strong", {}, title), ` ${wish}: `,
      wrong.length ? badge("warn", `${rows.length - wrong.length} of ${rows.length} do`) : badge("good", `all ${rows.length} do`)),
    wrong.length ? h("ul", { class: "plain" }, wrong.map(line)) : null,
    rows.length > wrong.length ? h("details", {}, h("summary", { class: "soft-text" }, `The other ${rows.length - wrong.length}`),
      h("ul", { class: "plain" }, rows.filter((row) => row.right).map(line))) : null);
}

function tile(value, label, kind = "") {
  return h("div", { class: `tile ${kind}` }, h("span", { class: "tile-value" }, value), h("span", { class: "tile-label" }, label));
}

export function measured(result) {
  const ratio = result.drift.perplexity / result.drift.perplexity_before;
  const nearby = result.moved.filter((row) => row.kind !== "paraphrase");
  const moved = nearby.filter((row) => !row.right).length;
  const paraphrases = result.moved.filter((row) => row.kind === "paraphrase");
  const follow = paraphrases.filter((row) => row.right).length;
  return { ratio, nearby: nearby.length, moved, paraphrases: paraphrases.length, follow };
}

export function previewPanel(run, { again, done, clear }) {
  const result = run.result;
  const numbers = measured(result);
  const out = h("div", {});
  const why = h("input", { placeholder: "such as: ticket 123", maxlength: "500", autocomplete: "off" });
  const open = state.previews.includes(run.id);
  const keep = button("Keep", async () => {
    keep.disabled = true;
    try {
      const kept = await post(`previews/${run.id}/keep`, { why: why.value });
      done();
      clear();
      await refresh();
      put(node, notice("good", `Kept as entry @${kept.entry}.`, `It is recorded in ${kept.ledger}.`,
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/ask" }, "Ask the edited model"),
          h("a", { class: "button", href: "#/history" }, "See the history"))));
      say("The edit was kept.");
      node.focus();
    } catch (error) {
      keep.disabled = false;
      put(out, problem(error), error.status === 409 ? button("Preview again", again, { class: "main" }) : null);
    }
  }, { class: "main" });
  const discard = button("Discard", async () => {
    try {
      await post(`previews/${run.id}/discard`, {});
      done();
      await refresh();
      put(node, notice("info", "Discarded.", "The model and the ledger are as they were."));
      node.focus();
    } catch (error) {
      put(out, problem(error));
    }
  });
  const ask = button("Ask it first", () => {
    const [fact] = result.facts;
    local.set("asked", { ...local.get("asked", { tokens: 24, temperature: 0, chat: false }), prompt: fact.text });
    local.set("ask-other", `preview:${run.id}`);
    location.hash = "#/ask";
  });
  const kinds = Object.keys(KINDS).map((kind) => [kind, result.moved.filter((row) => row.kind === kind)]);
  const node = h(
    "section",
    { class: "card preview", tabindex: "-1", "aria-label": "Preview" },
    h("div", { class: "section-head" }, h("h2", {}, run.title), badge("info", "not recorded")),
    h("div", { class: "tiles" },
      tile(`${result.holds} of ${result.facts.length}`, "facts hold", result.holds === result.facts.length ? "good" : "bad"),
      numbers.paraphrases ? tile(`${numbers.follow} of ${numbers.paraphrases}`, "paraphrases follow", numbers.follow === numbers.paraphrases ? "good" : "warn") : null,
      tile(`${numbers.moved} of ${numbers.nearby}`, "nearby answers moved", numbers.moved ? "warn" : "good"),
      tile(small(result.drift.kl), `nats a token of drift (before: ${small(result.drift_before.kl)})`, result.drift.kl > 0.1 ? "warn" : "good"),
      tile(`× ${numbers.ratio.toFixed(2)}`, "perplexity of other text", numbers.ratio > 1.2 ? "warn" : "good")),
    run.notes.map((note) => notice("warn", note)),
    factsTable(result.facts),
    kinds.filter(([, rows]) => rows.length).map(([kind, rows]) => movedList(kind, rows)),
    h("p", { class: "soft-text" }, `Took ${seconds(Object.values(result.seconds).reduce((a, b) => a + b, 0))}. On the command line`,
      result.facts.length > 1 ? ", with the facts in facts.jsonl:" : ":"),
    command(run.command),
    open ? h("div", { class: "decide" }, labelled("Why (for the log)", why), h("div", { class: "actions" }, ask, discard, keep))
      : notice("info", "This preview was decided already, or later ones have taken its place.", "", h("div", { class: "actions" }, button("Preview again", again))),
    out,
  );
  return node;
}
