/* Chromium as the tests use it: headless, with a fresh profile (playwright-core makes and removes it). */

import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--force-color-profile=srgb"];

/* Runs work(browser); closes it after that, whatever happened. */
export async function withBrowser(executable, work) {
  const browser = await chromium.launch({ executablePath: executable, headless: true, args: FLAGS });
  try {
    await work(browser);
  } finally {
    await browser.close();
  }
}
