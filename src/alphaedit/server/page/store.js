// What the page knows: the model, the ledger's state and the runs, kept up to date by long polls.

import { get, Failure } from "./api.js";

export const state = { about: null, now: null, previews: [], runs: new Map(), lost: null };
const watchers = new Set();
let revision = 0;

export function watch(call) {
  watchers.add(call);
  return () => watchers.delete(call);
}

function tell(changed) {
  for (const call of [...watchers]) call(changed);
}

export async function open() {
  state.about = await get("about");
  take(state.about);
}

function take(news) {
  state.now = news.now;
  state.previews = news.previews;
  const changed = [];
  for (const run of news.runs || []) {
    state.runs.set(run.id, run);
    changed.push(run.id);
  }
  return changed;
}

export async function refresh() {
  const news = await get(`news?since=${revision}`);
  revision = news.revision;
  tell(take(news));
}

// Never ends: waits for news, and after a failure tries again.
export async function follow() {
  let pause = 500;
  for (;;) {
    try {
      const version = state.now && state.now.version ? `&version=${state.now.version}` : "";
      const news = await get(`news?since=${revision}&wait=1${version}`);
      if (news.revision < revision) {
        state.runs.clear(); // another server is there now
      }
      revision = news.revision;
      state.lost = null;
      pause = 500;
      tell(take(news));
    } catch (error) {
      state.lost = error instanceof Failure ? error : new Failure(String(error), "");
      tell([]);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(5000, pause * 1.6);
    }
  }
}

export const over = (run) => ["done", "failed", "cancelled"].includes(run.state);
export const active = () => [...state.runs.values()].filter((run) => !over(run));

// Follow one run until it is over; `told` is called at each change with all that is known of it.
export function followRun(id, told) {
  let busy = false;
  let again = false;
  let ended = false;
  const look = async () => {
    if (ended) return;
    const known = state.runs.get(id);
    if (known && !over(known) && !known.has_partial) {
      told(known, null); // all there is to know of it by now
      return;
    }
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const whole = await get(`runs/${id}`);
      if (!ended) told(whole, null);
      if (over(whole)) stop();
    } catch (error) {
      if (error.status === 404) {
        stop();
        told(null, new Failure("This run is no longer known.", "The server was started anew; begin again."));
      } else if (error.code !== "lost") {
        stop();
        told(null, error);
      }
    }
    busy = false;
    if (again) {
      again = false;
      look();
    }
  };
  const unwatch = watch((changed) => changed.includes(id) && look());
  const stop = () => {
    ended = true;
    unwatch();
  };
  look();
  return stop;
}

// What one tab remembers over a reload; other tabs have their own.
export const local = {
  get(name, usual) {
    try {
      const text = sessionStorage.getItem(`studio-${name}`);
      return text === null ? usual : JSON.parse(text);
    } catch {
      return usual;
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`studio-${name}`, JSON.stringify(value));
      return true;
    } catch {
      sessionStorage.removeItem(`studio-${name}`); // too much: it lasts as long as the page does
      return false;
    }
  },
};
