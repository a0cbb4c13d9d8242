/* The playground: one conversation, streamed, each answer told with what it took. */

const csrf = document.querySelector('meta[name="csrf"]').content;
const turns = document.getElementById("turns");
const form = document.getElementById("say");
const box = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const bot = document.getElementById("bot");
const heat = document.getElementById("heat");
const RETRY_MS = 1000;
const TRIES_MAX = 5;

let messages = [];
let session = crypto.randomUUID?.() ?? Math.random().toString(36).slice(2).padEnd(12, "0");
let running = null;

function post(path, body) {
  return fetch(path, { method: "POST", headers: { "content-type": "application/json", "x-csrf-token": csrf, "hx-request": "true" },
    body: body === undefined ? undefined : JSON.stringify(body) });
}

function el(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function turn(className, text) {
  document.getElementById("blank")?.remove();
  const body = el("p", "", text);
  const told = el("div", "told");
  const made = el("article", `turn ${className}`, body, ...(className === "mine" ? [] : [told]));
  turns.append(made);
  turns.scrollTop = turns.scrollHeight;
  return { made, body, told };
}

/* Folded, and made with the first thought. */
function thoughtsOf(answer) {
  answer.thoughts ??= el("p", "");
  if (!answer.thoughts.isConnected) answer.body.before(el("details", "thoughts", el("summary", "", "Thoughts"), answer.thoughts));
  return answer.thoughts;
}

const ms = (value) => (value === null || value === undefined ? "–" : value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`);

function fact(words, value, className = "") {
  const made = el("span", className, words ? `${words} ` : "");
  made.append(el("b", "", value));
  return made;
}

function bitsFact(bits) {
  const made = el("span", "bits");
  made.append(el("i", `swatch k-kv${bits}`), "KV ", el("b", "", `${bits} bits`));
  return made;
}

function facts(end) {
  const found = [];
  if (end.kv_bits) found.push(bitsFact(end.kv_bits));
  if (end.queue_ms !== null) found.push(fact("waited", ms(end.queue_ms)));
  if (end.first_token_ms !== null) found.push(fact("first token", ms(end.first_token_ms)));
  if (end.tokens_per_s !== null) found.push(fact("", `${end.tokens_per_s} tok/s`));
  if (end.tokens !== null) found.push(fact("", `${end.tokens} tokens`));
  if (end.cached_tokens) found.push(fact("from the cache", `${end.cached_tokens} of ${end.prompt_tokens}`));
  if (end.served_by && end.served_by !== "bunkhouse") found.push(fact("served by", end.served_by));
  if (end.finish === "length") found.push(fact("", "cut at its longest"));
  return found;
}

async function* events(path, after, signal) {
  const headers = after ? { "last-event-id": after } : {};
  const answer = await fetch(path, { headers, signal });
  if (!answer.ok) throw new Error("This answer is no longer available.");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = {};
      for (const line of block.split("\n")) {
        const cut = line.indexOf(": ");
        if (cut > 0) found[line.slice(0, cut)] = line.slice(cut + 2);
      }
      if (found.data) yield { ...found, data: JSON.parse(found.data) };
    }
  }
}

function problemOf(html) {
  return new DOMParser().parseFromString(html, "text/html").querySelector(".alert")?.textContent ?? "Something went wrong.";
}

async function read(chat, answer) {
  let text = "";
  let after = null;
  const abort = new AbortController();
  running = { chat, abort };
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    try {
      for await (const { id, event, data } of events(`/dashboard/playground/chats/${chat}`, after, abort.signal)) {
        tries = 0;
        if (id) after = id;
        if (event === "waiting") answer.told.replaceChildren(el("span", "", data.why ?? "This chat waits to be admitted."));
        if (event === "start") answer.told.replaceChildren(bitsFact(data.kv_bits), fact("waited", ms(data.queue_ms)));
        if (event === "thought") thoughtsOf(answer).textContent += data.text;
        if (event === "message") {
          const near = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
          text += data.text;
          answer.body.textContent = text;
          if (near) turns.scrollTop = turns.scrollHeight;
        }
        if (event === "end") return { text, end: data };
      }
    } catch (error) {
      if (error.name === "AbortError") return { text, end: null };
    }
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
  throw new Error("The connection to the host was lost during the answer.");
}

async function say(text) {
  turn("mine", text);
  messages.push({ role: "user", content: text });
  const answer = turn("theirs", "");
  answer.told.append(el("span", "", "…"));
  busy(true);
  try {
    const most = Number(document.getElementById("max").value) || null;
    const body = { bot: bot.value, messages, session, temperature: Number(heat.value), ...(most ? { max_tokens: most } : {}) };
    const asked = await post("/dashboard/playground/chats", body);
    if (asked.status === 401 && asked.headers.has("hx-redirect")) { location.assign("/dashboard/login"); return; }
    if (!asked.ok) throw new Error(problemOf(await asked.text()));
    const { text: said, end } = await read((await asked.json()).chat, answer);
    if (end?.message) throw new Error(end.message);
    messages.push({ role: "assistant", content: said || "…" });
    const near = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
    answer.told.replaceChildren(...facts(end));
    if (near) turns.scrollTop = turns.scrollHeight;
    document.getElementById("spoken").textContent = said;
  } catch (error) {
    answer.made.classList.add("wrong");
    answer.body.textContent += (answer.body.textContent ? "\n\n" : "") + error.message;
    answer.told.replaceChildren();
    document.getElementById("spoken").textContent = error.message;
    messages.pop();
  } finally {
    busy(false);
    box.focus();
  }
}

/* Safari ends a composition before the Enter that confirms it; 229 is what it calls that key. */
const composing = (event) => event.isComposing || event.keyCode === 229;

function busy(is) {
  send.hidden = is;
  stop.hidden = !is;
  bot.disabled = is;
  if (!is) running = null;
}

function fit() {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`;
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = box.value.trim();
  if (!text || running || !stop.hidden) return;
  box.value = "";
  fit();
  say(text);
});
box?.addEventListener("input", fit);
box?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !composing(event)) { event.preventDefault(); form.requestSubmit(); }
});
stop?.addEventListener("click", () => { if (running) post(`/dashboard/playground/chats/${running.chat}/stop`); });
heat?.addEventListener("input", () => { document.getElementById("heat-shown").value = Number(heat.value).toFixed(1); });

function anew() {
  messages = [];
  session = crypto.randomUUID?.() ?? Math.random().toString(36).slice(2).padEnd(12, "0");
  turns.replaceChildren(el("div", "empty", el("p", "", "No messages yet."),
    el("p", "quiet", "Each answer comes with its KV bits, its wait in the queue, the time to its first token and its speed.")));
  turns.firstElementChild.id = "blank";
}
document.getElementById("anew")?.addEventListener("click", () => { if (!running) anew(); });
bot?.addEventListener("change", anew);
