// Opens the page: token, theme, tabs, and one view at a time.

import { takeToken } from "./api.js";
import { byId, h, plural, problem, put, notice } from "./dom.js";
import { follow, open, state, watch } from "./store.js";
import { showRuns } from "./runs.js";
import { askView } from "./ask.js";
import { editView } from "./edit.js";
import { historyView } from "./history.js";
import { lookView } from "./look.js";
import { compareView } from "./compare.js";

const VIEWS = [
  ["ask", "Ask", askView],
  ["edit", "Edit", editView],
  ["history", "History", historyView],
  ["look", "Look inside", lookView],
  ["compare", "Compare", compareView],
];
const THEMES = [["", "◐", "as the system"], ["light", "○", "light"], ["dark", "●", "dark"]];
let leave = null;

function theme() {
  const knob = byId("theme");
  let at = Math.max(0, THEMES.findIndex(([name]) => name === localStorage.getItem("studio-theme")));
  const show = () => {
    const [name, sign, label] = THEMES[at];
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    knob.textContent = sign;
    knob.setAttribute("aria-label", `Theme: ${label}`);
    knob.title = `Theme: ${label}`;
  };
  knob.addEventListener("click", () => {
    at = (at + 1) % THEMES.length;
    localStorage.setItem("studio-theme", THEMES[at][0]);
    show();
  });
  show();
}

function tabs(current) {
  put(
    byId("tabs"),
    VIEWS.map(([name, label]) =>
      h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, label),
    ),
  );
}

function route(event) {
  const [, name] = /^#\/(\w+)/.exec(location.hash) || [null, "ask"];
  const [current, label, view] = VIEWS.find(([known]) => known === name) || VIEWS[0];
  if (leave) leave();
  tabs(current);
  document.title = `${label} · alphaedit studio`;
  const main = put(byId("main"), h("h1", { class: "hidden" }, label));
  main.dataset.view = current;
  leave = view(main) || null;
  if (event) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function chips() {
  const { about, now } = state;
  const parts = [h("span", { class: "chip", title: `fingerprint ${about.fingerprint}` }, about.name)];
  if (now) {
    const text = now.begun ? plural(now.edits, "edit") : "no edits yet";
    parts.push(h("span", { class: "chip soft", title: about.ledger }, text, now.begun ? h("span", { class: "wide" }, " in force") : null));
  }
  put(byId("chips"), parts);
}

function banner() {
  if (state.lost && state.lost.status === 401) put(byId("banner"), problem(state.lost));
  else if (state.lost) {
    put(byId("banner"), notice("bad", state.lost.message, `${state.lost.remedy} Trying again…`));
  } else if (state.now && state.now.problem) {
    put(byId("banner"), notice("warn", "The ledger cannot be followed.", state.now.problem));
  } else put(byId("banner"));
}

async function begin() {
  theme();
  const main = byId("main");
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  if (!takeToken()) {
    put(main, h("div", { class: "empty" },
      h("h1", {}, "This page needs its whole address"),
      h("p", {}, "Open the address that `alphaedit studio` printed, with what stands behind the #. ",
        "It is a token that keeps other pages and other people out.")));
    return;
  }
  try {
    await open();
  } catch (error) {
    put(main, problem(error));
    if (error.code === "lost") setTimeout(begin, 2000);
    return;
  }
  let shown = "";
  watch(() => {
    chips();
    const now = JSON.stringify([state.lost && state.lost.message, state.now && state.now.problem]);
    if (now !== shown) banner();
    shown = now;
  });
  chips();
  showRuns();
  addEventListener("hashchange", (event) => {
    if (takeTokenAgain()) return;
    route(event);
  });
  route(null);
  follow();
}

function takeTokenAgain() {
  if (!location.hash.startsWith("#token=")) return false;
  takeToken();
  location.reload();
  return true;
}

begin();
