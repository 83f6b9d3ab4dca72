// Charts: a heat map as a table, spectra as curves, bars. All of them can be read without colour.

import { h, percent, small, svg } from "./dom.js";

// Where black and white stand out from the colour behind them: the crossing lies lower in the dark.
function shade(share) {
  if (share > 0.76) return "high";
  return share > 0.64 ? "middle" : "low";
}

// Rows of numbers; those that are not computed yet are undefined.
export function heatmap({ rows, columns, values, low, high, corner, label, marked }) {
  const share = (value) => (high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${label}: table` },
    h("table", { class: `heat${columns.length > 16 ? " dense" : ""}` },
      h("caption", { class: "hidden" }, label),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, corner), columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((name, at) => h("tr", { class: marked && marked(at) ? "subject" : null },
        h("th", { scope: "row" }, name.replace(/^ | $/g, "·")),
        columns.map((column, place) => {
          const value = values[at] && values[at][place];
          if (value === undefined || value === null) return h("td", { class: "pending" }, h("span", { class: "hidden" }, "not yet"));
          return h("td", { class: shade(share(value)), vars: { "--heat-share": `${Math.round(100 * share(value))}%` }, title: `${name.trim()}, layer ${column}: ${percent(value)}` },
            h("span", {}, (100 * value).toFixed(0)));
        }))))));
}

export function legend(low, high) {
  return h("p", { class: "heat-legend" }, h("span", {}, percent(low)), h("span", { class: "heat-bar", "aria-hidden": "true" }), h("span", {}, percent(high)));
}

const WIDTH = 300;
const HEIGHT = 150;
const PAD = { left: 48, right: 8, top: 8, bottom: 26 };

// Eigenvalues in ascending order on a logarithmic scale; what is left of the cut is null space.
export function spectrum(row) {
  const values = row.values.map((value) => Math.log10(Math.max(value, 1e-12)));
  const high = Math.max(...values);
  const low = Math.max(Math.min(...values), high - 10);
  const x = (at) => PAD.left + (at / Math.max(1, values.length - 1)) * (WIDTH - PAD.left - PAD.right);
  const y = (value) => PAD.top + ((high - Math.max(value, low)) / Math.max(1e-9, high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const cut = x((row.dim / row.d_in) * (values.length - 1));
  const bottom = HEIGHT - PAD.bottom;
  const ticks = [high, (high + low) / 2, low];
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img",
    "aria-label": `Layer ${row.layer}: null space of ${row.dim} of ${row.d_in} directions, which hold ${percent(row.energy_left)} of the keys' energy` },
    svg("rect", { class: "null", x: PAD.left, y: PAD.top, width: Math.max(0, cut - PAD.left), height: bottom - PAD.top }),
    ticks.map((value) => [svg("line", { class: "grid", x1: PAD.left, x2: WIDTH - PAD.right, y1: y(value), y2: y(value) }),
      svg("text", { x: PAD.left - 5, y: y(value) + 3, "text-anchor": "end" }, small(10 ** value))]),
    svg("path", { class: "curve", d: values.map((value, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") }),
    svg("line", { class: "cut", x1: cut, x2: cut, y1: PAD.top, y2: bottom }),
    svg("text", { x: PAD.left, y: HEIGHT - 8 }, "0"),
    svg("text", { x: WIDTH - PAD.right, y: HEIGHT - 8, "text-anchor": "end" }, String(row.d_in)),
    svg("text", { class: "cut-label", x: Math.min(Math.max(cut, PAD.left + 20), WIDTH - 40), y: HEIGHT - 8, "text-anchor": "middle" }, String(row.dim)));
}

export function bars(rows) {
  const most = Math.max(...rows.map((row) => row.value), 1e-12);
  return h("table", { class: "bars" }, h("tbody", {}, rows.map((row) => h("tr", {},
    h("th", { scope: "row" }, row.label),
    h("td", {}, h("span", { class: "bar-fill", vars: { "--share": `${(100 * row.value) / most}%` } })),
    h("td", { class: "number" }, row.text)))));
}
