/* What the visitor sees. `acts` is what a visitor can do: send, stop, rate, confirm, handOver. */

const NEAR_END_PX = 40;
const BOX_PX_MAX = 132;

class Panel {
  constructor(config, acts) {
    this.config = config;
    this.acts = acts;
    this.stick = true;
    this.busy = false;
    this.build();
  }

  build() {
    const { config } = this;
    this.host = el("bunkhouse-widget", { lang: config.language ?? "en", dir: "ltr", "data-side": config.position ?? "right" });
    const root = this.host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    this.theme();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme());

    this.bubble = el("button", { class: "bubble", type: "button", "aria-expanded": "false", "aria-controls": "panel",
      "aria-label": say("open", config), onclick: () => this.toggle() }, icon(ICONS.chat, 26));
    this.log = el("div", { class: "log", tabindex: "0", role: "log", "aria-label": say("log"), "aria-live": "off" });
    this.log.addEventListener("scroll", () => {
      this.stick = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_END_PX;
    });
    this.spoken = el("div", { class: "spoken", role: "status", "aria-live": "polite" });
    this.suggestions = el("div", { class: "suggestions" }, ...config.suggestions.map((text) =>
      el("button", { type: "button", onclick: () => this.acts.send(text) }, text)));
    this.notice = el("p", { class: "notice", role: "alert", hidden: true });
    this.buildComposer();
    this.human = config.handover && el("button", { class: "human", type: "button", onclick: () => personForm(this) },
      icon(ICONS.person, 16), say("person"));
    this.panel = el("section", { class: "panel", id: "panel", role: "dialog", "aria-label": config.title, hidden: true,
      onkeydown: (event) => { if (event.key === "Escape" && !event.isComposing) this.close(); } },
      el("header", {},
        el("div", { class: "who" }, this.face(), el("h2", {}, config.title)),
        el("button", { class: "plain", type: "button", "aria-label": say("close"), onclick: () => this.close() },
          icon(ICONS.close))),
      this.log, this.spoken, this.suggestions, this.notice, this.form,
      el("footer", {}, el("span", {}, say("ai")), this.human || ""));
    root.append(this.panel, this.bubble);
    this.refuseFiles();
    this.turn("bot", config.greeting);
    if (config.off) this.switchOff(config.off);
    document.body.append(this.host);
  }

  /* The shop's logo; where there is none, or the page's policy keeps it out, its initial. */
  face() {
    const initial = [...this.config.title.trim()][0]?.toUpperCase() ?? "";
    const made = el("span", { class: "face", "aria-hidden": "true" }, initial);
    if (this.config.logo) {
      const image = el("img", { alt: "", width: "34", height: "34", referrerpolicy: "no-referrer",
        onload: () => made.replaceChildren(image), onerror: () => image.remove() });
      image.src = this.config.logo;
    }
    return made;
  }

  buildComposer() {
    this.box = el("textarea", { rows: "1", placeholder: say("write"), "aria-label": say("message"), dir: "auto",
      maxlength: this.config.text_chars_max, enterkeyhint: "send" });
    this.button = el("button", { class: "send", type: "submit", "aria-label": say("send"), disabled: true, onclick: (event) => {
      if (!this.stops) return;
      event.preventDefault();
      this.acts.stop();
    } }, icon(ICONS.send));
    this.form = el("form", { class: "composer", onsubmit: (event) => {
      event.preventDefault();
      this.acts.send(this.box.value);
    } }, this.box, this.button);
    this.box.addEventListener("input", () => this.fit());
    this.box.addEventListener("keydown", (event) => {
      const composing = event.isComposing || event.keyCode === 229;  // Safari ends a composition before its Enter
      if (event.key === "Enter" && !event.shiftKey && !composing) {
        event.preventDefault();
        if (this.box.value.trim()) this.form.requestSubmit();
      }
    });
  }

  /* Nobody's file is uploaded, and none takes the page's place. */
  refuseFiles() {
    const refused = (event, transfer) => {
      if (![...transfer?.types ?? []].includes("Files")) return;
      event.preventDefault();
      if (event.type !== "dragover") this.fail(say("files"));
    };
    for (const name of ["dragover", "drop"]) this.panel.addEventListener(name, (event) => refused(event, event.dataTransfer));
    this.box.addEventListener("paste", (event) => {
      if (!event.clipboardData?.getData("text/plain")) refused(event, event.clipboardData);
    });
  }

  theme() {
    const wanted = script.dataset.theme;
    const theme = wanted === "dark" || (wanted !== "light" && pageIsDark()) ? "dark" : "light";
    const { accent } = this.config;
    this.host.dataset.theme = theme;
    this.host.style.setProperty("--accent", accent);
    this.host.style.setProperty("--on-accent", inkOn(accent));
    this.host.style.setProperty("--accent-line", lineOn(accent, theme));
  }

  /* The composer's button sends what is written; while the bot writes and nothing is written, it stops the answer. */
  fit() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight, BOX_PX_MAX)}px`;
    const stops = this.busy && !this.box.value.trim();
    if (stops !== this.stops) {
      this.stops = stops;
      this.button.replaceChildren(icon(stops ? ICONS.stop : ICONS.send));
      this.button.setAttribute("aria-label", say(stops ? "stop" : "send"));
    }
    this.button.disabled = !stops && !this.box.value.trim();
  }

  toggle() { if (this.panel.hidden) this.open(); else this.close(); }

  open({ focus = true } = {}) {
    this.panel.hidden = false;
    this.shows(true);
    this.toEnd(true);
    if (focus) (this.box.disabled ? this.log : this.box).focus({ preventScroll: true });
  }

  close() {
    this.panel.hidden = true;
    this.shows(false);
    this.bubble.focus({ preventScroll: true });
  }

  shows(open) {
    this.bubble.setAttribute("aria-expanded", String(open));
    this.bubble.setAttribute("aria-label", open ? say("close") : say("open", this.config));
    this.bubble.replaceChildren(icon(open ? ICONS.close : ICONS.chat, open ? 24 : 26));
    memory.write({ open });
  }

  toEnd(always) {
    if (always || this.stick) this.log.scrollTop = this.log.scrollHeight;
  }

  /* One thing said. `body` is where its text goes, `after` what stands under it. */
  turn(who, text, name = "") {
    const body = el("div", { class: "text", dir: "auto" });
    render(body, text);
    const speaker = { bot: this.config.title, visitor: say("you"), person: name || say("team") }[who];
    const node = el("div", { class: `turn ${who}` }, el("span", { class: "spoken" }, `${speaker}: `),
      who === "person" && el("span", { class: "name", "aria-hidden": "true" }, speaker) || "", body);
    this.place(node);
    this.toEnd(who === "visitor");
    return { node, body, speaker };
  }

  line(text) {
    const node = el("p", { class: "line" }, text);
    this.place(node);
    this.toEnd(true);
    return node;
  }

  /* What a person is writing stays last, and so does what waits to be sent. */
  place(node) {
    const last = [this.typingNode, this.queuedNode].find((one) => one?.isConnected);
    this.log.insertBefore(node, last ?? null);
  }

  speak(text) { this.spoken.textContent = text; }

  fail(message) {
    this.notice.textContent = message;
    this.notice.hidden = !message;
  }

  setBusy(busy) {
    this.busy = busy;
    this.fit();
  }

  switchOff(text) {
    this.line(text);
    this.suggestions.hidden = true;
    this.box.disabled = true;
    this.fit();
  }

  typing(on, name = "") {
    this.typingNode?.remove();
    this.typingNode = null;
    if (!on) return;
    this.typingNode = el("p", { class: "line typing" }, say("typing", { name: name || say("team") }),
      el("span", { class: "dots", "aria-hidden": "true" }));
    this.log.append(this.typingNode);
    this.toEnd();
  }

  /* What was written while the bot writes: shown, and taken back into the box by one click. */
  queued(text, withdraw) {
    this.queuedNode?.remove();
    this.queuedNode = null;
    if (!text) return;
    const body = el("div", { class: "text", dir: "auto" });
    render(body, text);
    this.queuedNode = el("div", { class: "turn visitor queued" }, body, el("p", { class: "under" }, say("queued"),
      el("button", { type: "button", class: "quiet", onclick: withdraw }, say("cancel"))));
    this.log.append(this.queuedNode);
    this.toEnd(true);
    this.speak(say("queued"));
  }

  sources(node, sources) {
    if (!sources?.length) return;
    node.append(el("div", { class: "under sources" }, el("span", {}, `${say("sources")}:`),
      el("ul", {}, ...sources.map((source) => el("li", {}, sourceNode(source))))));
  }

  rating(node, chat, given) {
    const buttons = ["up", "down"].map((rating) => el("button", { type: "button", class: `thumb ${rating}`,
      "aria-label": say(rating === "up" ? "good" : "bad"), title: say(rating === "up" ? "good" : "bad"),
      "aria-pressed": String(rating === given), onclick: () => choose(rating) }, icon(ICONS.up, 16)));
    const row = el("div", { class: "under rating" }, ...buttons);
    const choose = async (rating) => {
      const next = rating === given ? null : rating;
      try {
        await this.acts.rate(chat, next);
      } catch (error) {
        return this.fail(say(error.key));
      }
      given = next;
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(["up", "down"][place] === given)));
      node.querySelector(".why")?.remove();
      if (given === "down") node.append(reasonForm(this, chat));
      this.toEnd();
    };
    node.append(row);
  }

  /* A question of the bot before it does something. Answered once. */
  confirm({ id, text }) {
    this.confirmNode?.remove();
    const answer = (yes) => {
      this.confirmNode.remove();
      this.acts.confirm(id, yes, say(yes ? "yes" : "no"));
    };
    this.confirmNode = el("div", { class: "confirm", role: "group", "aria-label": text }, el("p", {}, text),
      el("div", { class: "row" },
        el("button", { class: "plain", type: "button", onclick: () => answer(false) }, say("no")),
        el("button", { class: "primary", type: "button", onclick: () => answer(true) }, say("yes"))));
    this.place(this.confirmNode);
    this.toEnd(true);
    this.speak(text);
  }
}
