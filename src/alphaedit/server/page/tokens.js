// Answers token by token: probabilities on hover and focus, and what two answers do not share.

import { byId, h, percent, put } from "./dom.js";

const tip = () => byId("tip");

// Which pieces of two answers belong to a longest common subsequence.
export function common(a, b) {
  const rows = a.length + 1;
  const columns = b.length + 1;
  const best = new Uint16Array(rows * columns);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i * columns + j] = a[i] === b[j]
        ? best[(i + 1) * columns + j + 1] + 1
        : Math.max(best[(i + 1) * columns + j], best[i * columns + j + 1]);
    }
  }
  const shared = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      shared[0].add(i++);
      shared[1].add(j++);
    } else if (best[(i + 1) * columns + j] >= best[i * columns + j + 1]) i++;
    else j++;
  }
  return shared;
}

const visible = (text) => text.replace(/\n/g, "↵") || "∅";

function fillTip(piece) {
  put(
    tip(),
    piece.tokens.map((token) =>
      h(
        "div",
        { class: "tip-token" },
        h("p", {}, h("q", {}, visible(token.text)), ` ${percent(Math.exp(token.logprob))}`),
        h(
          "ol",
          {},
          token.best.map(([text, logprob]) =>
            h(
              "li",
              { vars: { "--p": Math.exp(logprob) }, class: text === token.text ? "chosen" : null },
              h("span", { class: "tip-text" }, visible(text)),
              h("span", {}, percent(Math.exp(logprob))),
            ),
          ),
        ),
      ),
    ),
  );
}

function showTip(node, piece) {
  if (!piece.tokens.length) return;
  fillTip(piece);
  const box = tip();
  box.hidden = false;
  const place = node.getBoundingClientRect();
  const width = box.offsetWidth;
  const left = Math.max(8, Math.min(place.left, innerWidth - width - 8));
  const above = place.top > box.offsetHeight + 12;
  box.style.left = `${left}px`;
  box.style.top = above ? `${place.top - box.offsetHeight - 8}px` : `${place.bottom + 8}px`;
  node.setAttribute("aria-describedby", "tip");
}

function hideTip(node) {
  tip().hidden = true;
  node.removeAttribute("aria-describedby");
}

export const closeTip = () => (tip().hidden = true);

// An answer that grows; arrow keys go from token to token.
export class Answer {
  constructor(label, prompt) {
    this.pieces = [];
    this.spans = [];
    this.node = h("p", { class: "answer", role: "group", "aria-label": label },
      prompt ? h("span", { class: "asked-prompt" }, prompt) : null);
    this.node.addEventListener("keydown", (event) => this.move(event));
  }

  get texts() {
    return this.pieces.map((piece) => piece.text);
  }

  add(piece) {
    const first = this.pieces.length === 0;
    const likely = piece.tokens.length
      ? Math.exp(piece.tokens.reduce((sum, token) => sum + token.logprob, 0))
      : null;
    const span = h(
      "span",
      {
        class: likely === null ? "token" : "token rated",
        tabindex: first ? "0" : "-1",
        vars: { "--p": likely ?? 1 },
        on: {
          mouseenter: () => showTip(span, piece),
          mouseleave: () => hideTip(span),
          focus: () => showTip(span, piece),
          blur: () => hideTip(span),
          click: () => showTip(span, piece),
        },
      },
      piece.text,
    );
    this.pieces.push(piece);
    this.spans.push(span);
    this.node.append(span);
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = this.spans.indexOf(document.activeElement);
    if (event.key === "Escape") closeTip();
    if (!step || at < 0) return;
    event.preventDefault();
    const next = this.spans[at + step];
    if (!next) return;
    this.spans[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  mark(shared) {
    this.spans.forEach((span, at) => span.classList.toggle("differs", !shared.has(at)));
  }
}

// Mark what two answers do not share; true if there is anything.
export function compare(a, b) {
  const [left, right] = common(a.texts, b.texts);
  a.mark(left);
  b.mark(right);
  return left.size < a.pieces.length || right.size < b.pieces.length;
}
