// The list of facts that are to be edited: by form, paste or file, each with what is the matter.

import { post } from "./api.js";
import { badge, button, h, labelled, number, plural, problem, put, say } from "./dom.js";
import { local, state } from "./store.js";

const PAGE = 20;
const LISTS = ["paraphrases", "neighborhood"];
const LARGEST = 40 * 1024 * 1024;
const KIND = { error: "bad", warning: "warn", note: "info" };

const fresh = () => ({ record: { prompt: "", subject: "", target: "" }, ok: false, problems: [], isNew: true });

export class Facts {
  constructor(changed) {
    this.changed = changed;
    this.rows = local.get("facts", []).map((record) => ({ record, ok: false, problems: [] }));
    this.answers = new Map();
    this.page = 0;
    this.onlyWrong = false;
    this.timer = null;
    this.stored = true;
    this.asked = 0;
    this.list = h("div", { class: "facts" });
    this.error = h("div", {});
    this.node = h("section", { class: "card", "aria-label": "Facts" }, this.entry(), this.error, this.list);
    this.draw();
    if (this.rows.length) this.check();
  }

  get records() {
    return this.rows.map((row) => row.record);
  }

  get wrong() {
    return this.rows.filter((row) => !row.ok).length;
  }

  entry() {
    const text = h("textarea", { rows: "6", spellcheck: "false", class: "mono",
      placeholder: '{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}\n…or CSV with a header: prompt,subject,target' });
    const format = h("select", {}, [["", "told from the first line"], ["jsonl", "JSON Lines"], ["json", "JSON"],
      ["csv", "CSV"], ["tsv", "TSV"], ["yaml", "YAML"]].map(([value, label]) => h("option", { value }, label)));
    const file = h("input", { type: "file", accept: ".jsonl,.json,.csv,.tsv,.yaml,.yml" });
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      if (!chosen) return;
      const ending = chosen.name.split(".").pop().toLowerCase().replace("yml", "yaml");
      if (chosen.size > LARGEST) {
        put(this.error, problem({ message: `${chosen.name} has ${number(chosen.size >> 20)} MB; the page reads 40.`,
          remedy: "Use `alphaedit edit MODEL FILE`." }));
        return;
      }
      await this.read(await chosen.text(), ["jsonl", "json", "csv", "tsv", "yaml"].includes(ending) ? ending : null);
      file.value = "";
    });
    const paste = h("details", { class: "paste" }, h("summary", {}, "Paste several, or choose a file"),
      labelled("Facts as text", text, "JSON Lines, JSON (also CounterFact's), CSV, TSV or YAML: what `alphaedit edit` reads."),
      h("div", { class: "row" }, labelled("Format", format),
        h("div", { class: "actions" }, button("Read the text", async () => {
          if (await this.read(text.value, format.value || null)) text.value = "";
        }, { class: "main" }))),
      labelled("Or a file", file));
    this.paste = paste;
    return h("div", {},
      h("div", { class: "section-head" }, h("h2", {}, "Facts"),
        h("div", { class: "actions" },
          button("Add a fact", () => this.add()),
          state.about.examples.length ? button("Add examples", () => this.take(state.about.examples.map((record) => ({ record })))) : null)),
      paste);
  }

  async read(text, format) {
    put(this.error);
    if (!text.trim()) {
      put(this.error, problem({ message: "There is no text.", remedy: "Paste facts, one on each line." }));
      return false;
    }
    try {
      const told = await post("facts/read", format ? { text, format } : { text });
      this.take(told.rows);
      this.paste.open = false;
      say(`${plural(told.rows.length, "fact")} read, ${told.wrong} of them faulty.`);
      return true;
    } catch (error) {
      put(this.error, problem(error));
      return false;
    }
  }

  take(rows) {
    const full = this.rows.filter((row) => Object.values(row.record).some((value) => value && value.length));
    this.rows = [...full, ...rows.map((row) => ({ ok: false, problems: [], ...row }))];
    this.page = 0;
    this.store();
    this.draw();
    this.check();
  }

  add() {
    this.rows.push(fresh());
    this.onlyWrong = false;
    this.page = Math.floor((this.rows.length - 1) / PAGE);
    this.store();
    this.draw();
    this.check();
    const inputs = this.list.querySelectorAll("[data-field=prompt]");
    if (inputs.length) inputs[inputs.length - 1].focus();
  }

  remove(row) {
    this.rows = this.rows.filter((known) => known !== row);
    this.answers.clear();
    this.store();
    this.draw();
    this.check();
  }

  clear() {
    this.rows = [];
    this.answers.clear();
    this.store();
    this.draw();
    this.changed();
  }

  // Large lists are stored and checked a little later, so that typing stays swift.
  store() {
    clearTimeout(this.storing);
    this.storing = setTimeout(() => (this.stored = local.set("facts", this.records)), this.rows.length > 500 ? 800 : 0);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), 350 + this.rows.length / 10);
  }

  // Ask the server what is the matter with each; nothing runs for it.
  async check() {
    const mine = ++this.asked;
    if (!this.rows.length) {
      this.changed();
      return;
    }
    try {
      const told = await post("facts/read", { records: this.records });
      if (mine !== this.asked) return;
      put(this.error);
      told.rows.forEach((row, at) => {
        if (!this.rows[at]) return;
        if (this.rows[at].raw) return; // what could not be read is told until it is mended
        this.rows[at].ok = row.ok;
        this.rows[at].problems = row.problems;
      });
      this.drawStates();
    } catch (error) {
      if (mine === this.asked) put(this.error, problem(error));
    }
    this.changed();
  }

  shown() {
    const rows = this.onlyWrong ? this.rows.filter((row) => !row.ok && !row.isNew) : this.rows;
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.min(this.page, pages - 1);
    return { rows: rows.slice(this.page * PAGE, (this.page + 1) * PAGE), pages, total: rows.length };
  }

  draw() {
    if (!this.rows.length) {
      put(this.list, h("div", { class: "empty" },
        h("p", { class: "empty-title" }, "No facts yet"),
        h("p", {}, "A fact is a prompt with {} for the subject, the subject, and what the model should say next.")));
      return;
    }
    const { rows, pages, total } = this.shown();
    this.head = h("p", { class: "facts-count" });
    put(this.list,
      h("div", { class: "row facts-bar" }, this.head,
        h("label", { class: "check" }, h("input", { type: "checkbox", checked: this.onlyWrong, on: { change: (event) => {
          this.onlyWrong = event.target.checked;
          this.page = 0;
          this.draw();
        } } }), " Only faulty ones"),
        button("Remove all", () => this.clear(), { class: "quiet" })),
      h("ol", { class: "plain fact-list" }, rows.map((row) => this.card(row))),
      total === 0 ? h("p", { class: "soft-text" }, "None is faulty.") : null,
      pages > 1 ? h("div", { class: "pager" },
        button("Earlier", () => this.turn(-1), { disabled: this.page === 0 }),
        h("span", {}, `Page ${this.page + 1} of ${number(pages)}`),
        button("Further", () => this.turn(1), { disabled: this.page >= pages - 1 })) : null);
    this.drawStates();
  }

  turn(step) {
    this.page += step;
    this.draw();
    this.node.scrollIntoView({ block: "start" });
  }

  card(row) {
    const at = this.rows.indexOf(row) + 1;
    const field = (name, label, placeholder) => {
      const input = h("input", { value: row.record[name] || "", placeholder, "data-field": name, maxlength: "100000", autocomplete: "off" });
      input.addEventListener("input", () => {
        row.record = { ...row.record, [name]: input.value };
        row.isNew = false;
        row.raw = null;
        this.answers.delete(row);
        this.store();
        this.later();
      });
      return labelled(label, input);
    };
    const more = LISTS.map((name) => {
      const area = h("textarea", { rows: "2", value: (row.record[name] || []).join("\n") });
      area.addEventListener("input", () => {
        row.record = { ...row.record, [name]: area.value.split("\n").filter((line) => line.trim()) };
        this.store();
        this.later();
      });
      return labelled(name === "paraphrases" ? "Paraphrases that should follow, one a line" : "Neighbors that should stay, one a line", area);
    });
    const counted = LISTS.reduce((sum, name) => sum + (row.record[name] || []).length, 0);
    row.stateNode = h("div", { class: "fact-state", "aria-live": "off" });
    return h("li", { class: "fact" },
      h("div", { class: "fact-fields" },
        h("span", { class: "fact-number", "aria-hidden": "true" }, at),
        field("prompt", "Prompt", "The capital of {} is"),
        field("subject", "Subject", "France"),
        field("target", "Target", "Lyon"),
        button("×", () => this.remove(row), { class: "quiet icon", "aria-label": `Remove fact ${at}` })),
      row.stateNode,
      h("details", { class: "fact-more" },
        h("summary", {}, counted ? `Paraphrases and neighbors (${counted})` : "Paraphrases and neighbors"), more));
  }

  drawStates() {
    if (this.head) {
      const wrong = this.rows.filter((row) => !row.ok && !row.isNew).length;
      put(this.head, h("strong", {}, plural(this.rows.length, "fact")),
        wrong ? badge("bad", `${number(wrong)} faulty`) : badge("good", "all can be edited"),
        this.stored ? null : badge("warn", "too many to outlive a reload"));
    }
    for (const row of this.shown().rows) {
      if (!row.stateNode) continue;
      const reply = this.answers.get(row);
      row.stateNode.parentElement.classList.toggle("faulty", !row.ok && !row.isNew);
      put(row.stateNode,
        row.isNew ? null : row.problems.map((item) =>
          h("p", { class: `problem ${KIND[item.level]}` }, h("span", { class: "sign", "aria-hidden": "true" }, item.level === "error" ? "✕" : "!"),
            h("span", {}, `${item.message} `, item.remedy ? h("span", { class: "soft-text" }, item.remedy) : null))),
        row.raw ? h("code", { class: "raw" }, row.raw) : null,
        reply ? h("p", { class: `problem ${reply.known ? "warn" : "info"}` },
          h("span", { class: "sign", "aria-hidden": "true" }, reply.known ? "!" : "i"),
          reply.known ? "The model says this already." : "The model says now:", h("q", {}, reply.answer.trim())) : null);
      for (const input of row.stateNode.parentElement.querySelectorAll("[data-field]")) {
        const bad = !row.isNew && row.problems.some((item) => item.level === "error" && item.field === input.dataset.field);
        if (bad) input.setAttribute("aria-invalid", "true");
        else input.removeAttribute("aria-invalid");
      }
    }
  }

  takeAnswers(answers) {
    for (const reply of answers) if (this.rows[reply.number]) this.answers.set(this.rows[reply.number], reply);
    this.drawStates();
  }
}
