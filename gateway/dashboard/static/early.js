/* What somebody clicks or sends before htmx runs is done once it does. This script alone is not deferred. */

(() => {
  const kept = [];
  const asks = (part) => part?.closest("[hx-get], [hx-post]");

  function keepClick(event) {
    const part = asks(event.target);
    if (!part || part.tagName === "FORM" || part.hasAttribute("data-live")) return; // a form's button submits it
    event.preventDefault();
    event.stopImmediatePropagation();
    kept.push(() => part.click());
  }

  function keepSubmit(event) {
    const { target: form, submitter } = event;
    if (!asks(form)) return;
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
