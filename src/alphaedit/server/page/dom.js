// Elements are made here and nowhere else; texts of others only ever become text nodes.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    } else if (name === "vars") {
      for (const [key, number] of Object.entries(value)) node.style.setProperty(key, String(number));
    } else if (name === "value") node.value = value;
    else if (name === "checked") node.checked = Boolean(value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);
export const byId = (id) => document.getElementById(id);

export function put(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

export function button(label, call, props = {}) {
  return h("button", { type: "button", ...props, on: { click: call } }, label);
}

let counter = 0;
export const newId = (name) => `${name}-${++counter}`;

// A labelled control, with help that screen readers read too.
export function labelled(label, control, help) {
  const id = control.id || newId("field");
  control.id = id;
  const parts = [h("label", { for: id }, label), control];
  if (help) {
    const note = h("small", { id: `${id}-help`, class: "help" }, help);
    control.setAttribute("aria-describedby", note.id);
    parts.push(note);
  }
  return h("div", { class: "field" }, parts);
}

export function say(text) {
  byId("live").textContent = text;
}

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
export const number = (value) => Number(value).toLocaleString("en-US");

export function percent(p) {
  if (p === null || p === undefined) return "–";
  if (p > 0 && p < 0.001) return "<0.1 %";
  return `${(100 * p).toFixed(p >= 0.0995 && p < 0.9995 ? 0 : 1)} %`;
}

export function small(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 100000)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

export function seconds(value) {
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function ago(when) {
  const past = (Date.now() - new Date(when).getTime()) / 1000;
  if (past < 60) return "just now";
  for (const [size, noun] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (past >= size) return `${plural(Math.floor(past / size), noun)} ago`;
  }
  return "";
}

export function notice(kind, message, remedy, ...more) {
  return h(
    "div",
    { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null },
    h("p", {}, h("strong", {}, message), remedy ? ` ${remedy}` : ""),
    more,
  );
}

export const problem = (error) => notice("bad", error.message || String(error), error.remedy);

// A command line, and a button that copies it.
export function command(text) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected: press Ctrl+C";
    }
    say(copy.textContent);
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  }, { class: "quiet" });
  const code = h("code", { tabindex: "0", role: "group", "aria-label": "Command line" }, text);
  return h("div", { class: "command" }, code, copy);
}

export const empty = (title, ...rest) =>
  h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), rest);

export function badge(kind, text) {
  return h("span", { class: `badge ${kind}` }, text);
}
