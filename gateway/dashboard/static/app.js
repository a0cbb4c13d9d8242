/* What every page needs: a tick for the live parts, the CSRF token, the sheet, toasts, and an honest word when the
   host is lost. */

const TICK_MS = 1000;
const LOST_AFTER = 3; // failed polls in a row
const TOAST_MS = 4000;

const sheet = document.getElementById("sheet");
const lost = document.getElementById("lost");
let failed = 0;

/* Live parts ask once a second, but not while nobody looks, and not again before the last answer is there. */
setInterval(() => {
  if (!document.hidden) document.body.dispatchEvent(new CustomEvent("tick"));
}, TICK_MS);

function polled(ok) {
  failed = ok ? 0 : failed + 1;
  lost.hidden = failed < LOST_AFTER;
}

const isLive = (context) => context.sourceElement.matches("[data-live]");

document.addEventListener("htmx:config:request", (event) => {
  const { ctx } = event.detail;
  if (isLive(ctx) && ctx.sourceElement.dataset.asking) { event.preventDefault(); return; }
  if (isLive(ctx)) ctx.sourceElement.dataset.asking = "yes";
  const token = document.querySelector('meta[name="csrf"]')?.content;
  if (token) ctx.request.headers["X-CSRF-Token"] = token;
});

document.addEventListener("htmx:finally:request", (event) => {
  const { ctx } = event.detail;
  if (!isLive(ctx)) return;
  delete ctx.sourceElement.dataset.asking;
  polled(Boolean(ctx.response && ctx.response.status < 400));
});

document.addEventListener("htmx:before:swap", (event) => {
  const { ctx } = event.detail;
  const status = ctx.response?.status ?? 0;
  if (status === 401) { location.assign("/dashboard/login"); event.preventDefault(); return; }
  if (status >= 400 && isLive(ctx)) event.preventDefault();
});

document.addEventListener("htmx:after:swap", (event) => {
  const { ctx } = event.detail;
  const target = ctx.target;
  if (target?.id === "sheet-body" && !sheet.open) sheet.showModal();
  const said = ctx.response?.headers?.get?.("x-toast");
  if (said) toast(decodeURIComponent(said));
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-shut]") || event.target === sheet) sheet.close();
  const copied = event.target.closest("[data-copy]");
  if (copied) navigator.clipboard?.writeText(copied.dataset.copy).then(() => toast("Copied"));
});

sheet?.addEventListener("close", () => document.getElementById("sheet-body").replaceChildren());

export function toast(words) {
  const made = document.createElement("p");
  made.textContent = words;
  document.getElementById("toast").replaceChildren(made);
  setTimeout(() => made.remove(), TOAST_MS);
}
