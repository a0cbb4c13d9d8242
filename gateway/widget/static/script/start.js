/* Show the widget as soon as the page is there. */

async function start() {
  if (!token) { console.error("Bunkhouse widget: data-token is missing."); return; }
  const language = script.dataset.language;
  try {
    const config = await patiently(language ? `config?language=${encodeURIComponent(language)}` : "config");
    texts = TEXTS[config.language] ?? TEXTS.en;
    await new Talk(config).restore();
  } catch (error) {
    console.error(`Bunkhouse widget: ${error.message}`);
  }
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
