/* What somebody clicks or sends before the page's scripts run is done once they do. This script alone is not deferred. */

(() => {
  const kept = [];
  const SCRIPTED = "[hx-get], [hx-post], button[type=button]";

  function keepClick(event) {
    const part = event.target.closest(SCRIPTED);
    if (!part || part.tagName === "FORM" || part.hasAttribute("data-live")) return; // a form's button submits it
    event.preventDefault();
    event.stopImmediatePropagation();
    kept.push(() => part.click());
  }

  function keepSubmit(event) {
    const { target: form, submitter } = event;
    if (form.hasAttribute("action")) return; // the browser's own way is the right one
    event.preventDefault();
    event.stopImmediatePropagation();
    kept.push(() => form.requestSubmit(submitter));
  }

  document.addEventListener("click", keepClick, true);
  document.addEventListener("submit", keepSubmit, true);
  document.addEventListener("DOMContentLoaded", () => setTimeout(() => { // behind htmx's own start at this event
    document.removeEventListener("click", keepClick, true);
    document.removeEventListener("submit", keepSubmit, true);
    for (const act of kept) act();
  }));
})();
