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

/* What went wrong with a button is said in the sheet, where no tick paints over it. */
document.addEventListener("htmx:response:error", ({ detail: { ctx } }) => {
  if (isLive(ctx)) return;
  ctx.target = document.getElementById("sheet-body");
  ctx.swap = "innerHTML";
});

document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
  if (ctx && !isLive(ctx)) toast("The host did not answer. Check whether the change was made.");
});

document.addEventListener("htmx:before:swap", (event) => {
  const { ctx } = event.detail;
  if (!isLive(ctx)) return;
  const shut = !ctx.sourceElement.isConnected; // a sheet that was closed while its part was asked for
  if (shut || (ctx.response?.status ?? 0) >= 400) event.preventDefault();
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
  if (copied) copy(copied.dataset.copy);
});

/* Over plain HTTP a browser has no clipboard for pages, but still copies what is selected. */
async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    const box = Object.assign(document.createElement("textarea"), { value: words, className: "unseen", readOnly: true });
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    if (!done) { toast("Copying is blocked in this browser. Select the text by hand."); return; }
  }
  toast("Copied");
}

sheet?.addEventListener("close", () => document.getElementById("sheet-body").replaceChildren());

export function toast(words) {
  const made = document.createElement("p");
  made.textContent = words;
  document.getElementById("toast").replaceChildren(made);
  setTimeout(() => made.remove(), TOAST_MS);
}
