/* The conversation: what the visitor says, what the bot answers, and what people write. */

const SAVE_MS = 250;
const BUSY_TRIES_MAX = 20;  // the host writes an answer down a moment after its last word
const BUSY_MS = 150;

class Talk {
  constructor(config) {
    this.config = config;
    this.session = null;
    this.state = "bot";
    this.chat = null;
    this.waiting = "";
    this.visitor = script.dataset.visitor ?? "";
    this.watching = null;
    this.panel = new Panel(config, {
      send: (text) => this.send(text),
      stop: () => this.stop(),
      rate: (chat, rating, note = "") => call("ratings", { session: this.session, chat, rating, note }),
      confirm: (id, yes, word) => this.confirm(id, yes, word),
      handOver: (contact, note) => this.handOver(contact, note),
    });
  }

  keep(session) {
    this.session = session;
    memory.write({ session, visitor: visitorOf(this.visitor) });
  }

  forget() {
    this.watching?.abort();
    this.session = null;
    this.state = "bot";
    memory.write({ session: null, pending: null });
  }

  async send(text) {
    text = text.trim();
    if (!text || this.config.off) return;
    this.panel.fail("");
    this.panel.box.value = "";
    this.panel.suggestions.hidden = true;
    if (this.panel.busy) return this.queue(this.waiting ? `${this.waiting}\n${text}` : text);
    this.panel.setBusy(true);
    const mine = this.panel.turn("visitor", text);
    try {
      const asked = await this.post(text);
      this.keep(asked.session);
      if (asked.state) this.setState(asked.state);
      if (asked.chat) await this.follow(asked.chat, null, "");
      else if (asked.state === "bot") await this.unanswered();
    } catch (error) {
      mine.node.remove();
      if (error.status === 404 && this.session) {
        this.forget();  // the host has forgotten the conversation: say it again in a new one
        this.panel.setBusy(false);
        return this.send(text);
      }
      if (!this.panel.box.value) this.panel.box.value = text;
      this.panel.fail(error.param === "off" ? error.message : say(error.key ?? "wrong"));
    } finally {
      this.panel.setBusy(false);
    }
    this.sendWaiting();
  }

  async post(text) {
    for (let tries = 0; ; tries++) {
      const body = { session: this.session, text, language: this.config.language };
      if (this.visitor) body.visitor = this.visitor;
      try {
        return await call("messages", body);
      } catch (error) {
        if (error.param === "visitor" && this.visitor) {
          console.warn(`Bunkhouse widget: data-visitor is not used: ${error.message}`);
          this.visitor = "";
        } else if (error.param === "session" && error.status === 429 && tries < BUSY_TRIES_MAX) {
          await sleep(BUSY_MS);
        } else {
          throw error;
        }
      }
    }
  }

  queue(text) {
    this.waiting = text;
    this.panel.fit();
    this.panel.queued(text, () => {
      this.panel.box.value = this.waiting;
      this.waiting = "";
      this.panel.queued("");
      this.panel.fit();
      this.panel.box.focus({ preventScroll: true });
    });
  }

  sendWaiting() {
    const text = this.waiting;
    if (!text) return;
    this.waiting = "";
    this.panel.queued("");
    this.send(text);
  }

  async stop() {
    if (!this.chat) return;
    await call(path("chats", this.chat, "/stop"), { session: this.session }).catch((error) => this.panel.fail(say(error.key)));
  }

  /* Read one answer to its end, over as many connections as it takes. */
  async follow(chat, after, text) {
    const leaving = { save() {} };
    const save = () => leaving.save();
    this.chat = chat;
    memory.write({ pending: { chat, after, text } });
    addEventListener("pagehide", save);
    try {
      await this.read(chat, after, text, leaving);
    } finally {
      this.chat = null;
      removeEventListener("pagehide", save);
    }
  }

  async read(chat, after, text, leaving) {
    const { node, body } = this.panel.turn("bot", text);
    node.classList.add("writing");
    if (!text) node.classList.add("thinking");
    let saved = 0;
    const save = () => memory.write({ pending: { chat, after, text } });
    leaving.save = save;  // a page that goes away keeps all that was read
    for (let tries = 0; ;) {
      try {
        for await (const { id, event, data } of events(path("chats", chat, "/stream"), after)) {
          tries = 0;
          if (event === "end") return this.answered(node, chat, text, data);
          if (event === "again") { text = ""; after = null; continue; }
          if (id) after = id;
          if (!data.text) continue;
          text += data.text;
          node.classList.remove("thinking");
          render(body, text);
          this.panel.toEnd();
          if (performance.now() - saved > SAVE_MS) { saved = performance.now(); save(); }
        }
      } catch (error) {
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          const kept = await this.kept(chat);
          if (!kept) return this.answered(node, chat, text, { finish: "gone" });
          render(body, kept.text);
          return this.answered(node, chat, kept.text, kept);
        }
      }
      save();
      await retryIn(tries++);
    }
  }

  /* An answer whose stream is over is in the conversation still. */
  async kept(chat) {
    const talk = await patiently(path("sessions", this.session)).catch(() => null);
    return talk?.turns.find((one) => one.chat === chat && one.finish && one.text);
  }

  answered(node, chat, text, end) {
    memory.write({ pending: null });
    node.classList.remove("writing", "thinking");
    if (!text) node.remove();
    const words = this.under(node, chat, end);
    if (words) this.panel.line(words);
    this.panel.toEnd();
    this.panel.speak([text && `${this.config.title}: ${text}`, words].filter(Boolean).join(" "));
    if (end.confirm) this.panel.confirm(end.confirm);
    if (end.missed || end.state) this.look();  // the host may have called a person
  }

  /* What stands under an answer that has ended. Returns what is said about its end, if anything. */
  under(node, chat, { finish, sources, rating = null }) {
    if (finish === "stop" || finish === "length") {
      this.panel.sources(node, sources);
      if (chat) this.panel.rating(node, chat, rating);
    }
    const key = { length: "cut", cancelled: "stopped", error: "failed", gone: "gone" }[finish];
    return key && say(key);
  }

  async confirm(id, yes, word) {
    this.panel.setBusy(true);
    this.panel.turn("visitor", word);
    try {
      const asked = await call("confirmations", { session: this.session, id, yes });
      if (asked.chat) await this.follow(asked.chat, null, "");
    } catch (error) {
      this.panel.fail(say(error.key ?? "wrong"));
    } finally {
      this.panel.setBusy(false);
    }
    this.sendWaiting();
  }

  /* The visitor asked for a person while nobody is there: the host said so, and takes an address. */
  async unanswered() {
    const { turns } = await patiently(path("sessions", this.session));
    const said = turns.at(-1);
    if (said?.who === "bot") {
      this.again(said);
      this.panel.speak(said.text);
    }
    if (this.panel.human) personForm(this.panel);
  }

  async handOver(contact, note) {
    const asked = await call("handover", { session: this.session, contact, note, page: location.href });
    this.keep(asked.session);
    if (note && asked.state === "waiting") this.panel.turn("visitor", note);
    this.panel.line(say("thanks"));
    this.panel.speak(say("thanks"));
    this.panel.suggestions.hidden = true;
    await this.look();
  }

  /* After a reload: what was said, then the answer that was under way, from where this browser had read it. */
  async restore() {
    const kept = memory.read();
    if (kept.open || script.dataset.open === "true") this.panel.open({ focus: false });
    if (!kept.session) return;
    if ((kept.visitor ?? "") !== visitorOf(this.visitor)) return this.forget();  // of somebody else at this browser
    this.session = kept.session;
    this.panel.setBusy(true);
    try {
      await this.resume(kept);
    } catch (error) {
      if (error.status === 404) this.forget();
      else this.panel.fail(say(error.key ?? "wrong"));
    } finally {
      this.panel.setBusy(false);
    }
    this.sendWaiting();
  }

  async resume(kept) {
    const talk = await patiently(path("sessions", this.session));
    if (talk.turns.length) this.panel.suggestions.hidden = true;
    for (const turn of talk.turns) if (!turn.chat || turn.chat !== talk.pending) this.again(turn);
    if (talk.handed_over && (talk.state ?? "bot") === "bot") this.panel.line(say("asked"));
    this.lastEvent = talk.last_event;
    this.setState(talk.state ?? "bot", { silent: true });
    if (talk.typing) this.panel.typing(true, this.name);
    if (talk.confirm) this.panel.confirm(talk.confirm);
    this.panel.toEnd(true);
    if (talk.pending) {
      const same = kept.pending?.chat === talk.pending ? kept.pending : { after: null, text: "" };
      await this.follow(talk.pending, same.after, same.text);
    } else {
      memory.write({ pending: null });
    }
  }

  /* A turn of the conversation as the host keeps it. */
  again(turn) {
    if (turn.who === "person" && turn.name) this.name = turn.name;
    const shown = turn.text && this.panel.turn(turn.who, turn.text, turn.name);
    if (turn.who !== "bot" || !turn.finish) return;
    const words = this.under(shown ? shown.node : el("div"), turn.chat, turn);
    if (words) this.panel.line(turn.finish === "error" ? say("incomplete") : words);
  }

  /* ---------- people ---------- */

  async look() {
    const talk = await call(path("sessions", this.session)).catch(() => null);
    this.lastEvent = talk?.last_event;
    if (talk?.state) this.setState(talk.state);
  }

  setState(state, { silent = false } = {}) {
    const before = this.state;
    this.state = state;
    if (state === "waiting" || state === "person") this.watch();
    if (state === before) return;
    if (state !== "person") this.panel.typing(false);
    if (this.panel.human) this.panel.human.hidden = state === "person";
    if (silent && state === "person" && this.name) return;  // what that person wrote stands there
    const words = {
      waiting: this.config.away ?? say("waiting"),
      person: say("joined", { name: this.name || say("team") }),
      bot: before === "closed" ? "" : say("back"),
      closed: say("closed"),
    }[state];
    if (!words) return;
    this.panel.line(words);
    if (!silent) this.panel.speak(words);
  }

  /* Follow what people do with this conversation until it is the bot's again. */
  async watch() {
    if (this.watching) return;
    const leaving = this.watching = new AbortController();
    let after = this.lastEvent;
    for (let tries = 0; !leaving.signal.aborted && (this.state === "waiting" || this.state === "person");) {
      try {
        for await (const { id, event, data } of events(path("sessions", this.session, "/events"), after, leaving.signal)) {
          tries = 0;
          if (id) after = id;
          this.happened(event, data);
          if (this.state !== "waiting" && this.state !== "person") break;
        }
      } catch (error) {
        if (error.status >= 400 && error.status < 500 && error.status !== 429) break;
      }
      if (this.state === "waiting" || this.state === "person") await retryIn(tries++);
    }
    if (this.watching === leaving) this.watching = null;
  }

  happened(event, data) {
    if (data.name) this.name = data.name;
    if (event === "state") this.setState(data.state);
    if (event === "typing") this.panel.typing(data.on, data.name || this.name);
    if (event !== "turn" || data.who !== "person") return;
    this.panel.typing(false);
    const { speaker } = this.panel.turn("person", data.text, data.name);
    this.panel.speak(`${speaker}: ${data.text}`);
  }
}
