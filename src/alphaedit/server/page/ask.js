// Ask: the unedited and the edited model side by side, as they answer.

import { stream } from "./api.js";
import { badge, button, command, h, labelled, plural, problem, put, say } from "./dom.js";
import { active, local, state, watch } from "./store.js";
import { Answer, closeTip, compare } from "./tokens.js";

const EARLIER = 6;

function others() {
  const { now, previews, runs } = state;
  const rows = [["edited", now && now.edits ? `Edited: ${plural(now.edits, "edit")} in force` : "Edited: no edits yet"]];
  for (const id of previews) {
    const run = runs.get(id);
    rows.push([`preview:${id}`, run ? run.title : "A preview"]);
  }
  return rows;
}

const label = (model) =>
  model === "base" ? "Base" : model === "edited" ? "Edited" : "Preview, not kept";

export function askView(main) {
  const asked = local.get("asked", { prompt: "", tokens: 24, temperature: 0, chat: false, other: "edited" });
  const wanted = local.get("ask-other", null);
  if (wanted) {
    asked.other = wanted;
    local.set("ask-other", null);
  }
  let stop = null;
  const prompt = h("textarea", { rows: "2", name: "prompt", value: asked.prompt, maxlength: "100000",
    placeholder: "Text that the model goes on from" });
  const tokens = h("input", { type: "number", min: "1", max: state.about.most_tokens, value: asked.tokens });
  const temperature = h("input", { type: "number", min: "0", max: "2", step: "0.1", value: asked.temperature });
  const chat = h("input", { type: "checkbox", checked: asked.chat });
  const other = h("select", {});
  const go = h("button", { type: "submit", class: "main" }, "Ask");
  const halt = button("Stop", () => stop && stop.abort(), { hidden: true });
  const out = h("div", { class: "answers-area" });
  const before = h("section", { class: "earlier", "aria-label": "Asked before" });

  const fillOther = () => {
    const chosen = other.value || asked.other;
    const rows = others();
    put(other, rows.map(([value, text]) => h("option", { value }, text)));
    other.value = rows.some(([value]) => value === chosen) ? chosen : "edited";
  };
  fillOther();

  const examples = h("div", { class: "examples" }, h("span", {}, "For example:"),
    state.about.examples.slice(0, 3).map((fact) => {
      const text = fact.prompt.replace("{}", fact.subject);
      return button(text, () => {
        prompt.value = text;
        form.requestSubmit();
      }, { class: "chip-button" });
    }));

  const form = h(
    "form",
    { class: "card ask-form", on: { submit: (event) => { event.preventDefault(); ask(); } } },
    labelled("Prompt", prompt),
    h("div", { class: "row" },
      labelled("Beside the base model", other),
      labelled("Tokens", tokens),
      labelled("Temperature", temperature),
      state.about.chat ? h("label", { class: "check" }, chat, " As a conversation") : null,
      h("div", { class: "actions" }, halt, go)),
    examples,
  );
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });

  async function ask() {
    const text = prompt.value;
    if (!text.trim()) {
      put(out, problem({ message: "There is no prompt.", remedy: "Write a text that the model goes on from." }));
      prompt.focus();
      return;
    }
    if (stop) stop.abort();
    closeTip();
    const mine = (stop = new AbortController());
    const body = { prompt: text, max_tokens: Number(tokens.value) || 24, models: ["base", other.value],
      temperature: Number(temperature.value) || 0, chat: chat.checked };
    local.set("asked", { prompt: text, tokens: body.max_tokens, temperature: body.temperature,
      chat: body.chat, other: other.value });
    const shown = pair(body.models, text, body.chat);
    put(out, shown.node);
    halt.hidden = false;
    out.setAttribute("aria-busy", "true");
    try {
      for await (const line of stream("ask", body, mine.signal)) shown.take(line);
      shown.close();
      remember(body, shown);
    } catch (error) {
      if (error.name === "AbortError") shown.note("Stopped.");
      else out.append(problem(error));
    }
    out.removeAttribute("aria-busy");
    if (stop === mine) {
      stop = null;
      halt.hidden = true;
    }
  }

  function remember(body, shown) {
    const list = local.get("earlier", []).filter((row) => row.prompt !== body.prompt);
    list.unshift({ prompt: body.prompt, base: shown.texts[0], other: shown.texts[1], model: body.models[1] });
    local.set("earlier", list.slice(0, EARLIER));
    drawEarlier();
  }

  function drawEarlier() {
    const list = local.get("earlier", []).slice(1);
    put(before, list.length ? [h("h2", {}, "Asked before"), h("ul", { class: "plain earlier-list" }, list.map((row) =>
      h("li", {},
        button(row.prompt, () => { prompt.value = row.prompt; form.requestSubmit(); }, { class: "link", title: "Ask again" }),
        h("span", { class: "soft-text" }, row.base === row.other ? `both: ${row.base}` : `${row.base} → ${row.other}`))))] : null);
  }

  put(main, main.firstChild, form, out, before);
  drawEarlier();
  if (asked.prompt && wanted) form.requestSubmit();
  else if (!asked.prompt) prompt.focus();
  const unwatch = watch(() => fillOther());
  return () => {
    unwatch();
    if (stop) stop.abort();
    closeTip();
  };
}

// Two answers beside one another.
function pair(models, prompt, chat) {
  const answers = models.map((model) => new Answer(`Answer of ${label(model)}`, chat ? "" : prompt));
  const going = active().find((run) => run.state === "running");
  const feet = models.map(() => h("p", { class: "foot" }, going ? `Waits until “${going.title}” is done…` : "Waits…"));
  const verdict = h("p", { class: "verdict", role: "status" });
  const foot = h("div", {});
  const node = h(
    "div",
    {},
    h("div", { class: "pair" }, models.map((model, at) =>
      h("article", { class: `card answer-card ${at ? "other" : "base"}` },
        h("h2", {}, label(model)),
        answers[at].node,
        feet[at]))),
    verdict,
    h("p", { class: "legend" }, h("span", { class: "token rated", vars: { "--p": 1 } }, "sure"),
      h("span", { class: "token rated", vars: { "--p": 0.3 } }, "unsure"),
      h("span", { class: "token differs" }, "differs"),
      " Point at a token, or go there by Tab and the arrow keys, to see what else was likely."),
    foot,
  );
  let ended = 0;
  return {
    node,
    get texts() {
      return answers.map((answer) => answer.texts.join("").trim());
    },
    take(line) {
      if (line.command) {
        put(foot, command(line.command));
        return;
      }
      const at = models.indexOf(line.model);
      if (line.error) {
        put(feet[at], problem(line.error));
        ended += 1;
      } else if (line.end) {
        const why = line.end.reason === "stop" ? "came to an end" : "length reached";
        put(feet[at], `${plural(line.end.new_tokens, "token")}, ${why}`);
        ended += 1;
      } else {
        put(feet[at], "Writes…");
        answers[at].add(line);
        if (answers.every((answer) => answer.pieces.length)) compare(...answers);
      }
    },
    close() {
      if (ended < models.length) {
        foot.prepend(problem({ message: "The answer broke off.", remedy: "Ask again." }));
        return;
      }
      if (!answers.every((answer) => answer.pieces.length)) return;
      const differ = compare(...answers);
      put(verdict, differ ? badge("info", "The answers differ") : badge("soft", "Both say the same"));
      say(`Base: ${this.texts[0]}. ${label(models[1])}: ${this.texts[1]}. ${differ ? "They differ." : "They are the same."}`);
    },
    note(text) {
      put(verdict, badge("soft", text));
    },
  };
}
