// Requests to the studio's server. The token comes from the address and is sent as a header.

const KEY = "alphaedit-token";
let token = null;

export class Failure extends Error {
  constructor(message, remedy, status = 0, code = "") {
    super(message);
    this.remedy = remedy;
    this.status = status;
    this.code = code;
  }
}

// Take the token out of the address, so that it stands in no history and no picture of the screen.
export function takeToken() {
  const match = /^#token=([\w-]+)$/.exec(location.hash);
  if (match) {
    token = match[1];
    sessionStorage.setItem(KEY, token);
    history.replaceState(null, "", `${location.pathname}#/ask`);
  } else {
    token = sessionStorage.getItem(KEY);
  }
  return Boolean(token);
}

async function send(method, path, body, signal) {
  let reply;
  try {
    reply = await fetch(`/api/${path}`, {
      method,
      signal,
      headers: {
        "X-Alphaedit-Token": token || "",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(
      "The server does not answer.",
      "What is in the ledger is safe. Is `alphaedit studio` still running?",
      0,
      "lost",
    );
  }
  if (!reply.ok) {
    let told = {};
    try {
      told = (await reply.json()).error || {};
    } catch {
      // Told below.
    }
    const remedy = told.remedy || "";
    let message = told.message || `The server answered with ${reply.status}.`;
    if (remedy && message.endsWith(remedy)) message = message.slice(0, -remedy.length).trim();
    throw new Failure(message, remedy, reply.status, told.code || "");
  }
  return reply;
}

export const get = async (path, signal) => (await send("GET", path, undefined, signal)).json();
export const post = async (path, body, signal) => (await send("POST", path, body, signal)).json();

// Lines of JSON as they come; the server gives the request up when it is aborted.
export async function* stream(path, body, signal) {
  const reply = await send("POST", path, body, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The answer broke off: the connection was lost.", "Ask again.", 0, "lost");
    }
    if (part.done) return;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}
