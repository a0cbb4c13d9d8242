/* Bunkhouse support widget. One script, no dependencies, everything inside a shadow root.

   <script src="https://your-host/widget.js" data-token="bhw-..." defer></script>

   data-token   the bot's public token (required)
   data-theme   "light", "dark", or absent: dark only where the page itself declares that it has a dark scheme
   data-open    "true" opens the chat at once */
(() => {
  "use strict";

  const script = document.currentScript;
  const token = script?.dataset.token ?? "";
  const base = new URL(`/widget/v1/${encodeURIComponent(token)}/`, script?.src ?? location.href);
  const storeKey = `bunkhouse:${token}`;
  const RETRY_MS = [500, 1000, 2000, 4000, 8000];
  const SAVE_MS = 250;
  const CUT = "This answer was cut because it reached its maximum length.";

  /* ---------- what this browser remembers ---------- */

  const memory = {
    read() {
      try { return JSON.parse(localStorage.getItem(storeKey)) ?? {}; } catch { return {}; }
    },
    write(change) {
      try { localStorage.setItem(storeKey, JSON.stringify({ ...this.read(), ...change })); } catch { /* private mode */ }
    },
  };

  /* ---------- the host ---------- */

  class Failure extends Error {
    constructor(message, status, waitMs) { super(message); this.status = status; this.waitMs = waitMs; }
  }

  async function call(path, body) {
    const init = body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(new URL(path, base), { ...init, credentials: "omit", cache: "no-store" });
    } catch {
      throw new Failure("We cannot be reached right now. Please check your connection.", 0);
    }
    const value = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      const wait = Number(answer.headers.get("retry-after")) * 1000 || undefined;
      throw new Failure(value.error?.message ?? "Something went wrong. Please try again.", answer.status, wait);
    }
    return value;
  }

  /* The same over a host that is away for some seconds. */
  async function patiently(path) {
    for (let tries = 0; ; tries++) {
      try {
        return await call(path);
      } catch (error) {
        if ((error.status !== 0 && error.status < 500) || tries === RETRY_MS.length) throw error;
        await new Promise((done) => setTimeout(done, RETRY_MS[tries]));
      }
    }
  }

  /* Yields {id, event, data} of one connection. */
  async function* events(path, after) {
    const headers = { accept: "text/event-stream" };
    if (after) headers["last-event-id"] = after;
    const answer = await fetch(new URL(path, base), { headers, credentials: "omit", cache: "no-store" });
    if (!answer.ok) throw new Failure("This answer is no longer available.", answer.status);
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

  /* ---------- small tools for the page ---------- */

  function el(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  function icon(paths, size = 20) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({
      viewBox: "0 0 24 24", width: size, height: size, fill: "none", stroke: "currentColor", "stroke-width": 1.75,
      "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true",
    })) svg.setAttribute(key, value);
    for (const d of paths) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", d);
      svg.append(path);
    }
    return svg;
  }

  const ICONS = {
    chat: ["M4 5.5h16a1 1 0 0 1 1 1v9.5a1 1 0 0 1-1 1h-8.5L7 20.5V17H4a1 1 0 0 1-1-1V6.500a1 1 0 0 1 1-1Z", "M8 10h8", "M8 13h5"],
    close: ["M6 6l12 12", "M18 6L6 18"],
    send: ["M12 19V5", "M6 11l6-6 6 6"],
    person: ["M12 12.500a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z", "M4.500 20c.8-3.300 3.800-5 7.500-5s6.700 1.700 7.500 5"],
  };

  /* Models write a little Markdown: **bold**, `code`, lists and links. Built as nodes, never as HTML. */
  const INLINE = /\*\*([^*\n]+)\*\*|`([^`\n]+)`|(https?:\/\/[^\s<>()"']+[^\s<>()"'.,;:!?])/g;

  function inline(parent, text) {
    let from = 0;
    for (const match of text.matchAll(INLINE)) {
      parent.append(text.slice(from, match.index));
      if (match[1]) parent.append(el("strong", {}, match[1]));
      else if (match[2]) parent.append(el("code", {}, match[2]));
      else parent.append(el("a", { href: match[3], target: "_blank", rel: "noopener noreferrer nofollow" }, match[3]));
      from = match.index + match[0].length;
    }
    parent.append(text.slice(from));
  }

  function render(parent, text) {
    const made = [];
    let list = null;
    for (const line of text.split("\n")) {
      const item = line.match(/^\s*(?:[-*•]|(\d+)[.)])\s+(.*)$/);
      if (item) {
        const kind = item[1] ? "ol" : "ul";
        if (!list || list.localName !== kind) made.push(list = el(kind, item[1] ? { start: item[1] } : {}));
        const entry = el("li");
        inline(entry, item[2]);
        list.append(entry);
      } else {
        list = null;
        if (!line.trim()) continue;
        const paragraph = el("p");
        inline(paragraph, line.replace(/^#{1,6}\s+/, ""));
        made.push(paragraph);
      }
    }
    parent.replaceChildren(...made);
  }

  /* White or near-black on the shop's colour, whichever reads better (WCAG relative luminance). */
  function inkOn(colour) {
    const [r, g, b] = [1, 3, 5].map((at) => {
      const part = parseInt(colour.slice(at, at + 2), 16) / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    return 1.05 / (light + 0.05) >= (light + 0.05) / 0.0558 ? "#ffffff" : "#16150f";
  }

  function pageIsDark() {
    const declared = getComputedStyle(document.documentElement).colorScheme + " "
      + (document.querySelector('meta[name="color-scheme"]')?.content ?? "");
    return declared.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches;
  }

  const STYLE = `STYLE_SHEET`;

  /* ---------- the widget ---------- */

  class Widget {
    constructor(config) {
      this.config = config;
      this.session = memory.read().session ?? null;
      this.stick = true;
      this.busy = false;
      this.build();
    }

    build() {
      const { config } = this;
      this.host = el("bunkhouse-widget");
      const root = this.host.attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
      root.adoptedStyleSheets = [sheet];
      this.host.style.setProperty("--accent", config.accent);
      this.host.style.setProperty("--on-accent", inkOn(config.accent));
      this.theme();
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme());

      this.bubble = el("button", { class: "bubble", type: "button", "aria-expanded": "false", "aria-controls": "panel",
        "aria-label": `Open chat: ${config.title}`, onclick: () => this.toggle() }, icon(ICONS.chat, 26));
      this.log = el("div", { class: "log", tabindex: "0", role: "log", "aria-label": "Conversation", "aria-live": "off" });
      this.log.addEventListener("scroll", () => {
        this.stick = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
      });
      this.spoken = el("div", { class: "spoken", role: "status", "aria-live": "polite" });
      this.suggestions = el("div", { class: "suggestions" }, ...config.suggestions.map((text) =>
        el("button", { type: "button", onclick: () => this.say(text) }, text)));
      this.notice = el("p", { class: "notice", role: "alert", hidden: true });
      this.buildComposer();
      this.human = config.handover && el("button", { class: "human", type: "button", onclick: () => this.askForPerson() },
        icon(ICONS.person, 16), "Talk to a person");
      this.panel = el("section", { class: "panel", id: "panel", role: "dialog", "aria-label": config.title, hidden: true,
        onkeydown: (event) => { if (event.key === "Escape") this.close(); } },
        el("header", {},
          el("div", { class: "who" }, el("span", { class: "face", "aria-hidden": "true" }, icon(ICONS.chat, 18)),
            el("h2", {}, config.title)),
          el("button", { class: "plain", type: "button", "aria-label": "Close chat", onclick: () => this.close() },
            icon(ICONS.close))),
        this.log, this.spoken, this.suggestions, this.notice, this.form,
        el("footer", {}, el("span", {}, "Answers come from an AI assistant and can be wrong."), this.human || ""));
      root.append(this.panel, this.bubble);
      this.bubbleOf("bot", config.greeting);
      document.body.append(this.host);
    }

    buildComposer() {
      this.box = el("textarea", { rows: "1", placeholder: "Write a message", "aria-label": "Message",
        maxlength: this.config.text_chars_max, enterkeyhint: "send" });
      this.button = el("button", { class: "send", type: "submit", "aria-label": "Send", disabled: true }, icon(ICONS.send));
      this.form = el("form", { class: "composer", onsubmit: (event) => {
        event.preventDefault();
        this.say(this.box.value);
      } }, this.box, this.button);
      this.box.addEventListener("input", () => this.fit());
      this.box.addEventListener("keydown", (event) => {
        const composing = event.isComposing || event.keyCode === 229;  // Safari ends a composition before its Enter
        if (event.key === "Enter" && !event.shiftKey && !composing) {
          event.preventDefault();
          this.form.requestSubmit();
        }
      });
    }

    theme() {
      const wanted = script.dataset.theme;
      this.host.dataset.theme = wanted === "dark" || (wanted !== "light" && pageIsDark()) ? "dark" : "light";
    }

    fit() {
      this.box.style.height = "auto";
      this.box.style.height = `${Math.min(this.box.scrollHeight, 132)}px`;
      this.button.disabled = this.busy || !this.box.value.trim();
    }

    toggle() { if (this.panel.hidden) this.open(); else this.close(); }

    open({ focus = true } = {}) {
      this.panel.hidden = false;
      this.bubble.setAttribute("aria-expanded", "true");
      this.bubble.setAttribute("aria-label", "Close chat");
      this.bubble.replaceChildren(icon(ICONS.close, 24));
      memory.write({ open: true });
      this.toEnd(true);
      if (focus) this.box.focus({ preventScroll: true });
    }

    close() {
      this.panel.hidden = true;
      this.bubble.setAttribute("aria-expanded", "false");
      this.bubble.setAttribute("aria-label", `Open chat: ${this.config.title}`);
      this.bubble.replaceChildren(icon(ICONS.chat, 26));
      memory.write({ open: false });
      this.bubble.focus({ preventScroll: true });
    }

    toEnd(always) {
      if (always || this.stick) this.log.scrollTop = this.log.scrollHeight;
    }

    bubbleOf(who, text) {
      const body = el("div", { class: "text" });
      render(body, text);
      const made = el("div", { class: `turn ${who}` },
        el("span", { class: "spoken" }, who === "bot" ? `${this.config.title}: ` : "You: "), body);
      this.log.append(made);
      this.toEnd(who === "visitor");
      return body;
    }

    line(text) {
      this.log.append(el("p", { class: "line" }, text));
      this.toEnd(true);
    }

    fail(message) {
      this.notice.textContent = message;
      this.notice.hidden = !message;
    }

    setBusy(busy) {
      this.busy = busy;
      this.fit();
    }

    async say(text) {
      text = text.trim();
      if (!text || this.busy) return;
      this.fail("");
      this.setBusy(true);
      this.suggestions.hidden = true;
      const mine = this.bubbleOf("visitor", text);
      this.box.value = "";
      this.fit();
      try {
        const asked = await call("messages", { session: this.session, text });
        this.session = asked.session;
        memory.write({ session: asked.session, pending: { chat: asked.chat, after: null, text: "" } });
        await this.follow(asked.chat, null, "");
      } catch (error) {
        if (error.status === 404 && this.session) return this.startOver(mine, text);
        mine.parentElement.remove();
        if (!this.box.value) this.box.value = text;
        this.fail(error.message);
      } finally {
        this.setBusy(false);
      }
    }

    /* The host has forgotten the conversation: say it again in a new one. */
    async startOver(mine, text) {
      this.session = null;
      memory.write({ session: null, pending: null });
      mine.parentElement.remove();
      this.setBusy(false);
      return this.say(text);
    }

    /* Read one answer to its end, over as many connections as it takes. */
    async follow(chat, after, text) {
      const leaving = { save() {} };
      const save = () => leaving.save();
      addEventListener("pagehide", save);
      try {
        await this.read(chat, after, text, leaving);
      } finally {
        removeEventListener("pagehide", save);
      }
    }

    async read(chat, after, text, leaving) {
      const body = this.bubbleOf("bot", text);
      const turn = body.parentElement;
      turn.classList.add("writing");
      if (!text) turn.classList.add("thinking");
      let saved = 0;
      const save = () => memory.write({ pending: { chat, after, text } });
      leaving.save = save;  // a page that goes away keeps all that was read
      for (let tries = 0; ;) {
        try {
          for await (const { id, event, data } of events(`chats/${encodeURIComponent(chat)}/stream`, after)) {
            tries = 0;
            if (event === "end") return this.answered(turn, text, data);
            if (event === "again") { text = ""; after = null; continue; }
            if (id) after = id;
            if (!data.text) continue;
            text += data.text;
            turn.classList.remove("thinking");
            render(body, text);
            this.toEnd();
            if (performance.now() - saved > SAVE_MS) { saved = performance.now(); save(); }
          }
        } catch (error) {
          if (error.status >= 400 && error.status < 500 && error.status !== 429) {
            const kept = await this.kept(chat);
            if (!kept) return this.answered(turn, text, { finish: "error", message: error.message });
            render(body, kept.text);
            return this.answered(turn, kept.text, { finish: kept.finish });
          }
        }
        save();
        await new Promise((done) => setTimeout(done, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]));
      }
    }

    /* An answer whose stream is over is in the conversation still. */
    async kept(chat) {
      const talk = await patiently(`sessions/${encodeURIComponent(this.session)}`).catch(() => null);
      return talk?.turns.find((one) => one.chat === chat && one.finish && one.text);
    }

    answered(turn, text, end) {
      memory.write({ pending: null });
      turn.classList.remove("writing", "thinking");
      if (end.finish === "error" || end.finish === "cancelled") {
        if (!text) turn.remove();
        const words = end.message ?? "The answer was stopped.";
        this.line(words);
        this.spoken.textContent = words;
      } else {
        const cut = end.finish === "length";
        if (cut) this.line(CUT);
        this.spoken.textContent = `${this.config.title}: ${text}${cut ? ` ${CUT}` : ""}`;
      }
    }

    /* After a reload: what was said, then the answer that was under way, from where this browser had read it. */
    async restore() {
      const kept = memory.read();
      if (kept.open || script.dataset.open === "true") this.open({ focus: false });
      if (!kept.session) return;
      this.setBusy(true);
      try {
        const talk = await patiently(`sessions/${encodeURIComponent(kept.session)}`);
        if (talk.turns.length) this.suggestions.hidden = true;
        for (const turn of talk.turns) {
          if (turn.chat && turn.chat === talk.pending) continue;
          if (turn.text) this.bubbleOf(turn.who, turn.text);
          if (turn.finish === "error" || turn.finish === "cancelled") this.line("This answer was not completed.");
          if (turn.finish === "length") this.line(CUT);
        }
        if (talk.handed_over) this.line("You asked for a person. Our team will write to you.");
        this.toEnd(true);
        if (talk.pending) {
          const same = kept.pending?.chat === talk.pending ? kept.pending : { after: null, text: "" };
          await this.follow(talk.pending, same.after, same.text);
        } else {
          memory.write({ pending: null });
        }
      } catch (error) {
        if (error.status === 404) { this.session = null; memory.write({ session: null, pending: null }); }
        else this.fail(error.message);
      } finally {
        this.setBusy(false);
      }
    }

    askForPerson() {
      const contact = el("input", { type: "text", name: "contact", required: true, maxlength: "200", autocomplete: "email",
        placeholder: "you@example.com" });
      const note = el("textarea", { name: "note", rows: "2", maxlength: "1000" });
      const done = () => { sheet.remove(); this.human.focus(); };
      const sheet = el("form", { class: "sheet", "aria-label": "Talk to a person", onsubmit: async (event) => {
        event.preventDefault();
        const sender = sheet.querySelector(".primary");
        sender.disabled = true;
        try {
          await this.handOver(contact.value, note.value);
          done();
        } catch (error) {
          sender.disabled = false;
          sheet.querySelector(".notice").textContent = error.message;
          sheet.querySelector(".notice").hidden = false;
        }
      }, onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); done(); } } },
        el("h3", {}, "Talk to a person"),
        el("p", {}, "We forward this conversation to our team, and a person will write to you."),
        el("label", {}, "Where can we reach you?", contact),
        el("label", {}, "Anything to add? (optional)", note),
        el("p", { class: "notice", role: "alert", hidden: true }),
        el("div", { class: "row" }, el("button", { class: "plain", type: "button", onclick: done }, "Cancel"),
          el("button", { class: "primary", type: "submit" }, "Send")));
      this.panel.append(sheet);
      contact.focus();
    }

    async handOver(contact, note) {
      const told = await call("handover", { session: this.session, contact, note, page: location.href });
      this.session = told.session;
      memory.write({ session: told.session });
      const words = "Thank you. We have forwarded your conversation, and a person will write to you.";
      this.line(words);
      this.spoken.textContent = words;
      this.suggestions.hidden = true;
    }
  }

  async function start() {
    if (!token) { console.error("Bunkhouse widget: data-token is missing."); return; }
    try {
      const widget = new Widget(await patiently("config"));
      await widget.restore();
    } catch (error) {
      console.error(`Bunkhouse widget: ${error.message}`);
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
