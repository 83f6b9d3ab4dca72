// Edit: facts, method, preview, and then keep or discard.

import { get, post } from "./api.js";
import { button, h, labelled, notice, number, plural, problem, put } from "./dom.js";
import { active, followRun, local, over, state, watch } from "./store.js";
import { Facts } from "./facts.js";
import { cancel, live, phases, viewing } from "./runs.js";
import { previewPanel } from "./preview.js";

function shownValue(value) {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function setting(field, values) {
  const usual = shownValue(field.usual);
  let control;
  if (field.choices || field.type === "boolean") {
    const choices = field.choices || ["true", "false"];
    control = h("select", {}, h("option", { value: "" }, usual ? `usual: ${usual}` : "usual"),
      choices.map((choice) => h("option", { value: choice }, choice)));
  } else {
    control = h("input", { placeholder: usual || "none", autocomplete: "off",
      inputmode: ["integer", "number"].includes(field.type) ? "decimal" : null });
  }
  control.value = values[field.name] ?? "";
  control.addEventListener("input", () => {
    if (control.value.trim()) values[field.name] = control.value.trim();
    else delete values[field.name];
    local.set("settings", values);
  });
  return labelled(field.name, control, field.help + (field.from_preset ? " (usual value: the model's preset)" : ""));
}

// Texts of the form as the server takes them: numbers as numbers.
function typed(values, fields) {
  const told = {};
  for (const [name, text] of Object.entries(values)) {
    const field = fields.find((known) => known.name === name);
    if (!field) continue;
    if (field.type === "boolean") told[name] = text === "true";
    else if (["integer", "number"].includes(field.type) && !Number.isNaN(Number(text))) told[name] = Number(text);
    else told[name] = text;
  }
  return told;
}

export function editView(main) {
  let methods = [];
  let stop = null;
  let stopAsking = null;
  const values = local.get("settings", {});
  const go = button("Preview", () => preview(), { class: "main" });
  const askFirst = button("Does the model know them?", () => ask());
  const hint = h("p", { class: "hint", role: "status" });
  const out = h("div", { class: "preview-area" });
  const facts = new Facts(() => ready());

  const method = h("select", {});
  const summary = h("p", { class: "soft-text" });
  const fields = h("div", { class: "settings" });
  const batch = h("input", { type: "number", min: "1", placeholder: "all together", value: local.get("batch", "") });
  const chat = h("input", { type: "checkbox", checked: local.get("edit-chat", false) });
  const how = h("section", { class: "card", "aria-label": "Method" }, h("h2", {}, "Method"),
    h("div", { class: "row" }, labelled("Method", method), labelled("Facts of a batch", batch),
      state.about.chat ? h("label", { class: "check" }, chat, " Ask in a conversation") : null),
    summary, h("details", {}, h("summary", {}, "Settings"), fields));

  const current = () => methods.find((known) => known.name === method.value);
  const drawMethod = () => {
    const chosen = current();
    if (!chosen) return;
    local.set("method", chosen.name);
    put(summary, h("strong", {}, chosen.title), " ", chosen.summary, " ",
      /^https:\/\//.test(chosen.paper) ? h("a", { href: chosen.paper, rel: "noreferrer noopener", target: "_blank" }, "Paper") : null,
      chosen.trained_network ? h("span", {}, " It needs a network that `alphaedit train` made for this model.") : null);
    put(fields, chosen.settings.map((field) => setting(field, values)));
  };
  method.addEventListener("change", () => {
    for (const name of Object.keys(values)) delete values[name];
    local.set("settings", values);
    drawMethod();
  });

  function ready() {
    const wrong = facts.wrong;
    const count = facts.rows.length;
    go.disabled = !count || wrong > 0 || !methods.length;
    askFirst.disabled = !count || wrong === count;
    put(hint, !count ? "Add a fact first."
      : wrong ? `${number(wrong)} of ${plural(count, "fact")} cannot be edited: mend or remove ${wrong === 1 ? "it" : "them"}.`
      : "Nothing is recorded before you keep it.");
  }

  async function ask() {
    try {
      const { run } = await post("facts/ask", { records: facts.records });
      if (stopAsking) stopAsking();
      stopAsking = followRun(run, (whole) => whole && whole.result && facts.takeAnswers(whole.result.answers));
    } catch (error) {
      put(out, problem(error));
    }
  }

  async function preview() {
    local.set("batch", batch.value);
    local.set("edit-chat", chat.checked);
    try {
      const size = Number(batch.value);
      const { run } = await post("previews", { records: facts.records, method: method.value,
        settings: typed(values, current().settings), batch_size: size > 0 ? size : null, chat: chat.checked });
      show(run);
      out.scrollIntoView({ block: "start", behavior: "smooth" });
    } catch (error) {
      put(out, problem(error));
    }
  }

  function show(run) {
    local.set("preview", run);
    if (stop) stop();
    let drawn = "";
    const unseen = viewing(run);
    const unfollow = followRun(run, (whole, error) => {
      if (error) {
        local.set("preview", null);
        put(out, notice("warn", error.message, error.remedy));
        return;
      }
      if (!over(whole)) {
        if (drawn) return;
        drawn = "running";
        put(out, h("section", { class: "card", "aria-label": "Preview" }, h("h2", {}, whole.title), live(run, phases),
          h("div", { class: "actions" }, button("Cancel the preview", () => cancel(run)))));
        return;
      }
      if (drawn === whole.state) return;
      drawn = whole.state;
      if (whole.state === "cancelled") put(out, notice("info", "The preview was cancelled.", "Nothing was changed."));
      else if (whole.state === "failed") put(out, problem(whole.error));
      else put(out, previewPanel(whole, { again: preview, done: () => local.set("preview", null), clear: () => facts.clear() }));
    });
    stop = () => {
      unfollow();
      unseen();
    };
  }

  put(main, main.firstChild, h("div", { class: "columns" }, facts.node, how),
    h("div", { class: "card bar" }, hint, h("div", { class: "actions" }, askFirst, go)), out);
  ready();
  get("methods").then((told) => {
    methods = told.methods;
    put(method, methods.map((known) => h("option", { value: known.name }, known.name)));
    method.value = local.get("method", told.standard);
    if (!current()) method.value = told.standard;
    drawMethod();
    ready();
  }, (error) => put(how, h("h2", {}, "Method"), problem(error)));

  const watched = local.get("preview", null);
  if (watched) show(watched);
  else waiting();
  // Previews of other tabs, or of this one before it was closed, are not lost.
  function waiting() {
    const open = [...state.previews, ...active().filter((run) => run.kind === "preview").map((run) => run.id)];
    if (!open.length || out.childElementCount) return;
    put(out, notice("info", `${plural(open.length, "preview")} not decided yet.`, "", h("div", { class: "actions" },
      open.map((id) => button((state.runs.get(id) || { title: "A preview" }).title, () => show(id))))));
  }
  let version = state.now && state.now.version;
  const unwatch = watch(() => {
    if (!local.get("preview", null)) waiting();
    if (state.now && state.now.version !== version) {
      version = state.now.version;
      facts.check();
    }
  });
  return () => {
    unwatch();
    if (stop) stop();
    if (stopAsking) stopAsking();
  };
}
