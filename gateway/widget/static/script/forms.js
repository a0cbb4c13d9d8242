/* Small forms: ask for a person, and say what was wrong with an answer. */

const REASON_CHARS_MAX = 500;

function personForm(panel) {
  const contact = el("input", { type: "text", name: "contact", required: true, minlength: "3", maxlength: "200",
    autocomplete: "email", placeholder: "you@example.com" });
  const note = el("textarea", { name: "note", rows: "2", maxlength: "1000", dir: "auto" });
  const notice = el("p", { class: "notice", role: "alert", hidden: true });
  const sender = el("button", { class: "primary", type: "submit" }, say("send"));
  const rest = [...panel.panel.children];
  const done = () => {
    rest.forEach((one) => { one.inert = false; });
    sheet.remove();
    panel.human.focus();
  };
  const sheet = el("form", { class: "sheet", "aria-label": say("person"), onsubmit: async (event) => {
    event.preventDefault();
    sender.disabled = true;
    try {
      await panel.acts.handOver(contact.value, note.value);
      done();
    } catch (error) {
      sender.disabled = false;
      notice.textContent = say(error.key ?? "wrong");
      notice.hidden = false;
    }
  }, onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); done(); } } },
    el("h3", {}, say("person")),
    el("p", {}, panel.config.away ?? say("sheet")),
    el("label", {}, say("reach"), contact),
    el("label", {}, say("note"), note),
    notice,
    el("div", { class: "row" }, el("button", { class: "plain", type: "button", onclick: done }, say("cancel")), sender));
  rest.forEach((one) => { one.inert = true; });
  panel.panel.append(sheet);
  contact.focus();
}

function reasonForm(panel, chat) {
  const reason = el("input", { type: "text", "aria-label": say("why"), placeholder: say("why"), maxlength: REASON_CHARS_MAX, dir: "auto" });
  const form = el("form", { class: "why", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await panel.acts.rate(chat, "down", reason.value.trim());
    } catch (error) {
      return panel.fail(say(error.key));
    }
    form.replaceWith(el("p", { class: "under" }, say("rated")));
    panel.speak(say("rated"));
    panel.box.focus({ preventScroll: true });
  } }, reason, el("button", { class: "send", type: "submit", "aria-label": say("send") }, icon(ICONS.send, 16)));
  return form;
}
