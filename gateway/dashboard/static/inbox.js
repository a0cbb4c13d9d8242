/* The reply to a visitor: Enter sends, the visitor sees that somebody writes, and the newest turn stays in sight. */

const TYPING_MS = 3000;
const NEAR_PX = 80;

const form = document.getElementById("answer");
const text = document.getElementById("text");
const said = document.getElementById("said");
let typed = 0;
let atEnd = true;
let count = 0;

const turns = () => document.getElementById("turns");

function toEnd() {
  const list = turns();
  if (list) list.scrollTop = list.scrollHeight;
  count = list?.children.length ?? 0;
}

text?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (text.value.trim()) form.requestSubmit();
});

text?.addEventListener("input", () => {
  if (!text.value || Date.now() - typed < TYPING_MS) return;
  typed = Date.now();
  const token = document.querySelector('meta[name="csrf"]')?.content ?? "";
  fetch(form.dataset.typing, { method: "POST", headers: { "X-CSRF-Token": token } }).catch(() => {}); // only a hint
});

document.addEventListener("htmx:before:swap", () => {
  const list = turns();
  atEnd = !list || list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
});

document.addEventListener("htmx:after:swap", (event) => {
  const { ctx } = event.detail;
  if (ctx.sourceElement === form && (ctx.response?.status ?? 500) < 400) {
    text.value = "";
    text.focus();
    toEnd();
  }
  if (ctx.target === said && atEnd && (turns()?.children.length ?? 0) !== count) toEnd();
});

toEnd();
