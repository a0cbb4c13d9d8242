/* The host: what this browser remembers of it, and how it is asked.

   <script src="https://your-host/widget.js" data-token="bhw-..." defer></script>

   data-token     the bot's public token (required)
   data-language  "en", "de", "fr", "es", "it", "pt", "ja", "ko" or "zh"; absent: the bot's, else the browser's
   data-visitor   a token that your shop's server signed for the visitor who is signed in
   data-theme     "light", "dark", or absent: dark only where the page itself declares that it has a dark scheme
   data-open      "true" opens the chat at once */

const script = document.currentScript;
const token = script?.dataset.token ?? "";
const base = new URL(`/widget/v1/${encodeURIComponent(token)}/`, script?.src ?? location.href);
const storeKey = `bunkhouse:${token}`;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

const memory = {
  read() {
    try { return JSON.parse(localStorage.getItem(storeKey)) ?? {}; } catch { return {}; }
  },
  write(change) {
    try { localStorage.setItem(storeKey, JSON.stringify({ ...this.read(), ...change })); } catch { /* private mode */ }
  },
};

/* `key` names the text that the visitor reads. */
class Failure extends Error {
  constructor(key, status, { param = null, detail = key } = {}) {
    super(detail);
    this.key = key;
    this.status = status;
    this.param = param;
  }
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const retryIn = (tries) => sleep(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
const path = (kind, id, rest = "") => `${kind}/${encodeURIComponent(id)}${rest}`;

/* What a token of data-visitor names. It is checked by the host; here it only tells one visitor from another. */
function visitorOf(signed) {
  try {
    return String(JSON.parse(atob(signed.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub);
  } catch {
    return "";
  }
}

async function call(where, body) {
  const init = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(new URL(where, base), { ...init, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Failure("offline", 0);
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { code, param, message } = value.error ?? {};
    throw new Failure(FAILURES[param] ?? FAILURES[code] ?? "wrong", answer.status, { param, detail: message });
  }
  return value;
}

/* The same over a host that is away for some seconds. */
async function patiently(where) {
  for (let tries = 0; ; tries++) {
    try {
      return await call(where);
    } catch (error) {
      if ((error.status !== 0 && error.status < 500) || tries === RETRY_MS.length) throw error;
      await retryIn(tries);
    }
  }
}

/* Yields {id, event, data} of one connection. */
async function* events(where, after, signal) {
  const headers = { accept: "text/event-stream" };
  if (after) headers["last-event-id"] = after;
  const answer = await fetch(new URL(where, base), { headers, signal, credentials: "omit", cache: "no-store" });
  if (!answer.ok) throw new Failure("gone", answer.status);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = { id: null, event: "message", data: "" };
      for (const line of block.split("\n")) {
        const cut = line.indexOf(":");
        if (cut > 0) found[line.slice(0, cut)] = line.slice(cut + 1).trimStart();
      }
      if (found.data) yield { ...found, data: JSON.parse(found.data) };
    }
  }
}
