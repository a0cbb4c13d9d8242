/* What a person does on the pages. `node scenarios.mjs CHROMIUM URL ADMIN_KEY OUT people|pictures [NAME]` runs them, one line
   of JSON each: {name, ok, error}. Screenshots go to OUT. Exit status 0 however they end: pytest reads the lines. */

import assert from "node:assert/strict";
import { withBrowser } from "./browser.mjs";
import { dashboard } from "./dashboard.mjs";
import { pictures } from "./pictures.mjs";
import { widget } from "./widget.mjs";

const [executable, url, key, out, group, only] = process.argv.slice(2);
const GROUPS = { people: { ...dashboard, ...widget }, pictures };
const STEP_MS = 60_000;

/* A fresh page whose console and policy violations are kept. */
async function opened(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(STEP_MS);
  const problems = [];
  page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
  return { context, page, problems };
}

async function signedIn(browser, options, adminKey = key, prepare = async () => {}) {
  const made = await opened(browser, options);
  await prepare(made.context);
  await made.page.goto(`${url}/`);
  await made.page.getByLabel("Admin key").fill(adminKey);
  await made.page.getByRole("button", { name: "Sign in" }).click();
  await made.page.getByRole("heading", { name: "Now", exact: true }).waitFor();
  return made;
}

/* What a scenario that failed had on its pages. */
async function shown(browser) {
  const pages = browser.contexts().flatMap((context) => context.pages());
  const texts = await Promise.all(pages.map(async (page) => `${page.url()}: ${await page.innerText("body").catch(String)}`));
  return texts.join("\n").replaceAll(/\s+/g, " ").slice(0, 3000);
}

await withBrowser(executable, async (browser) => {
  const tools = { browser, url, key, out, opened, signedIn, assert };
  for (const [name, run] of Object.entries(GROUPS[group])) {
    if (only && !name.includes(only)) continue;
    let error = null;
    try {
      await run(tools);
    } catch (thrown) {
      error = `${thrown.stack ?? thrown}\n${await shown(browser)}`;
    }
    for (const context of browser.contexts()) await context.close();
    process.stdout.write(`${JSON.stringify({ name, ok: error === null, error })}\n`);
  }
});
