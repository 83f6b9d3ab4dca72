// History: the ledger as a timeline; show, diff, revert, check out, export.

import { get, post } from "./api.js";
import { ago, badge, button, command, empty, h, labelled, notice, number, percent, plural, problem, put, say, small } from "./dom.js";
import { followRun, over, refresh, state, watch } from "./store.js";
import { cancel, live } from "./runs.js";

const FORMS = [["lora", "LoRA adapter (PEFT, vLLM)"], ["checkpoint", "Checkpoint (the whole model)"],
  ["gguf-lora", "LoRA adapter for llama.cpp (GGUF)"], ["gguf", "GGUF file with the edited tensors"], ["delta", "Plain factors"]];
const NAMES = { lora: "my-adapter", checkpoint: "my-edited-model", "gguf-lora": "my-adapter.gguf", gguf: "my-edited-model.gguf", delta: "my-delta" };

export function historyView(main) {
  const list = h("ol", { class: "plain timeline" });
  const foot = h("div", { class: "pager" });
  const head = h("div", {});
  const words = h("input", { type: "search", placeholder: "Words of a fact, an id, a message", autocomplete: "off" });
  let timer = null;
  let asked = 0;
  let version = null;
  words.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => load(), 250);
  });

  async function load(before = null) {
    const mine = ++asked;
    const sought = words.value.trim();
    try {
      const page = await get(`history?count=30${before === null ? "" : `&before=${before}`}${sought ? `&words=${encodeURIComponent(sought)}` : ""}`);
      if (mine !== asked) return;
      version = page.version;
      if (before === null) put(list);
      put(head);
      if (!page.begun) {
        put(head, empty("No history yet", h("p", {}, `The first edit that you keep begins it, in ${page.ledger}.`),
          h("a", { class: "button main", href: "#/edit" }, "Edit something")));
        put(foot);
        return;
      }
      const now = (page.entries.find((entry) => entry.now) || {}).number;
      list.append(...page.entries.map((entry) => row(entry, entry.number === now)));
      if (!page.entries.length && before === null) put(head, empty("Nothing found", h("p", {}, `No entry has “${sought}” in it.`)));
      put(foot, page.more === null ? null : button("Older entries", () => load(page.more)),
        h("span", { class: "soft-text" }, `${plural(page.total, "entry").replace("entrys", "entries")}, ${plural(page.in_force, "edit")} in force`));
    } catch (error) {
      if (mine === asked) put(head, problem(error));
    }
  }

  function row(entry, now) {
    const out = h("div", { class: "entry-out" });
    const label = `@${entry.number}`;
    const about = (edit, gone) => h("li", { class: "entry-edit" },
      badge(edit.in_force ? "good" : "soft", gone ? "taken out" : edit.in_force ? "in force" : "not in force"),
      h("span", { class: "entry-fact" }, edit.first || edit.id, edit.facts > 1 ? h("span", { class: "soft-text" }, ` and ${edit.facts - 1} more`) : null),
      h("span", { class: "actions" },
        edit.gone ? null : button("Show", () => show(edit.id, out), { class: "quiet", "aria-label": `Show edit ${edit.id}` }),
        edit.in_force && !gone ? button("Revert", () => revert(edit, out), { class: "quiet", "aria-label": `Revert edit ${edit.id}` }) : null));
    return h("li", { class: `entry${now ? " now" : ""}`, "data-entry": entry.number },
      h("div", { class: "entry-head" }, h("span", { class: "entry-number" }, label), badge(entry.op === "revert" ? "warn" : "info", entry.op),
        now ? badge("good", "now") : null,
        h("time", { datetime: entry.when, title: `${entry.when} by ${entry.who}` }, ago(entry.when)),
        h("span", { class: "soft-text" }, `${plural(entry.edits, "edit")} in force`),
        h("span", { class: "actions" },
          entry.number > 0 ? button("Diff", () => diff(entry.number, out), { class: "quiet", "aria-label": `Diff of ${label}` }) : null,
          now ? null : button("Check out", () => checkout(entry.number, out), { class: "quiet", "aria-label": `Check out ${label}` }))),
      entry.why ? h("p", { class: "why" }, entry.why) : null,
      entry.add.length + entry.drop.length ? h("ul", { class: "plain" }, entry.add.map((edit) => about(edit, false)), entry.drop.map((edit) => about(edit, true))) : null,
      out);
  }

  async function show(id, out) {
    try {
      const edit = await get(`history/edits/${encodeURIComponent(id)}`);
      const rows = edit.texts.map((text, at) => h("tr", {}, h("th", { scope: "row" }, text, " ", h("strong", {}, edit.facts[at].target)),
        h("td", {}, edit.before[at] ? h("q", {}, edit.before[at].text.trim().slice(0, 60)) : "–"),
        h("td", {}, edit.after[at] ? [h("q", {}, edit.after[at].text.trim().slice(0, 60)), " ", percent(edit.after[at].p_target)] : "–")));
      put(out, h("div", { class: "shown" },
        h("p", {}, h("strong", {}, edit.id), ` by ${edit.method}, ${edit.created}`, edit.count > rows.length ? `; the first ${rows.length} of ${number(edit.count)} facts` : ""),
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Facts of the edit" }, h("table", { class: "answers" },
          h("thead", {}, h("tr", {}, ["Fact", "Before", "After, when it was made"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))),
        Object.keys(edit.matrices).length ? h("p", { class: "soft-text" }, "Changed: ",
          Object.entries(edit.matrices).map(([name, m]) => `${name} (rank ${m.rank}, norm ${small(m.norm)})`).join(", ")) : null,
        h("div", { class: "actions" }, h("a", { class: "button", href: `#/look?where=${edit.id}` }, "Where it went"), closer(out)),
        command(`alphaedit show ${state.about.ledger} ${edit.id}`)));
    } catch (error) {
      put(out, problem(error));
    }
  }

  const closer = (out) => button("Close", () => put(out), { class: "quiet" });

  async function diff(entry, out) {
    try {
      const told = await get(`history/diff?a=@${entry - 1}&b=@${entry}`);
      put(out, h("div", { class: "shown" },
        told.changes.length ? h("ul", { class: "plain diff" }, told.changes.map((change) => h("li", {}, h("span", {}, change.prompt),
          change.before === null ? null : h("del", {}, change.before), change.after === null ? null : h("ins", {}, change.after))))
          : h("p", {}, "The facts in force are the same before and after."),
        told.total > told.changes.length ? h("p", {}, `${number(told.total - told.changes.length)} more.`) : null,
        h("div", { class: "actions" }, closer(out)), command(told.command)));
    } catch (error) {
      put(out, problem(error));
    }
  }

  // What changes the ledger is asked for twice: here, beside what it is about.
  function confirm(out, question, label, act) {
    const why = h("input", { placeholder: "such as: it was wrong", maxlength: "500", autocomplete: "off" });
    const go = button(label, async () => {
      go.disabled = true;
      try {
        await act(why.value);
      } catch (error) {
        go.disabled = false;
        out.append(problem(error));
      }
    }, { class: "main" });
    put(out, h("div", { class: "shown" }, h("p", {}, question), labelled("Why (for the log)", why), h("div", { class: "actions" }, closer(out), go)));
    why.focus();
  }

  function revert(edit, out) {
    confirm(out, `Take ${edit.facts > 1 ? `all ${edit.facts} facts of ` : ""}edit ${edit.id} out? It stays in the ledger, and can be applied again.`, "Revert", async (why) => {
      const told = await post("history/revert", { edits: [edit.id], why });
      await changed(`Edit ${edit.id} was taken out, as entry @${told.entry}.`, told);
    });
  }

  function checkout(entry, out) {
    confirm(out, `Bring what was in force after @${entry} into force again? This is an entry too: nothing is lost.`, "Check out", async (why) => {
      const told = await post("history/checkout", { version: `@${entry}`, why });
      await changed(`Back at what was in force after @${entry}.`, told);
    });
  }

  async function changed(text, told) {
    say(text);
    await refresh();
    await load();
    const more = h("div", {});
    put(done, notice("good", text, "", command(told.command), more));
    if (told.run) {
      followRun(told.run, (whole) => {
        if (!whole) return;
        if (!over(whole)) put(more, live(told.run));
        else if (whole.result) put(more, dependants(whole.result));
      });
    }
    done.focus();
  }

  function dependants(result) {
    if (!result.wrong.length) return h("p", {}, `All ${result.asked} facts of edits that were made after it still hold.`);
    return h("div", {}, h("p", {}, `${result.wrong.length} of ${plural(result.asked, "fact")} made after it no longer hold:`),
      h("ul", {}, result.wrong.slice(0, 20).map((row) => h("li", {}, `${row.prompt} `, h("strong", {}, row.target), ", says ", h("q", {}, row.answer.trim())))));
  }

  const done = h("div", { tabindex: "-1" });
  put(main, main.firstChild, exportPanel(),
    h("section", { class: "card", "aria-label": "Timeline" }, h("div", { class: "section-head" }, h("h2", {}, "Timeline"),
      h("div", { class: "search" }, labelled("Search", words))), done, head, list, foot));
  load();
  const unwatch = watch(() => {
    if (state.now && state.now.version && version !== undefined && state.now.version !== version) {
      version = state.now.version;
      load();
    }
  });
  return () => {
    unwatch();
    clearTimeout(timer);
  };
}

function exportPanel() {
  const form = h("select", {}, FORMS.map(([value, label]) => h("option", { value }, label)));
  const name = h("input", { value: NAMES.lora, autocomplete: "off", maxlength: "200" });
  const version = h("input", { value: "head", autocomplete: "off", maxlength: "40" });
  const out = h("div", {});
  form.addEventListener("change", () => {
    if (Object.values(NAMES).includes(name.value)) name.value = NAMES[form.value];
  });
  const go = h("button", { type: "submit", class: "main" }, "Export");
  const node = h("details", { class: "card export" }, h("summary", {}, h("h2", {}, "Export")),
    h("form", { on: { submit: (event) => { event.preventDefault(); start(); } } },
      h("div", { class: "row" }, labelled("Format", form), labelled("Name", name), labelled("Version", version, "head, @3, head~1 or an edit's id"),
        h("div", { class: "actions" }, go)),
      h("p", { class: "soft-text" }, `It is written below ${state.about.folder}`)), out);

  async function start() {
    put(out);
    try {
      const { run } = await post("exports", { name: name.value.trim(), form: form.value, version: version.value.trim() || "head" });
      followRun(run, (whole, error) => {
        if (error) put(out, problem(error));
        else if (whole.state === "failed") put(out, problem(whole.error), command(whole.command));
        else if (whole.state === "cancelled") put(out, notice("info", "Cancelled.", "Nothing was written."));
        else if (!over(whole)) {
          if (!out.childElementCount) put(out, live(run), button("Cancel", () => cancel(run)));
        }
        else {
          put(out, notice("good", `Written to ${whole.result.out}.`, `${plural(whole.result.edits.length, "edit")} as ${whole.result.format}.`,
            h("p", {}, "The same on the command line:"), command(whole.command)));
          say("The export is written.");
        }
      });
    } catch (error) {
      put(out, problem(error));
    }
  }
  return node;
}
