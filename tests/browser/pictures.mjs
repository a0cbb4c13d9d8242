/* Pictures of the pages for docs/images, with customers at work: at both widths, light and dark. */

import { join } from "node:path";

const WIDE = { width: 1920, height: 1080 };
const NARROW = { width: 375, height: 812 };
const LOOKS = [["1920-light", WIDE, "light"], ["1920-dark", WIDE, "dark"], ["375-light", NARROW, "light"], ["375-dark", NARROW, "dark"]];

async function talk(page) {
  await page.selectOption("#bot", "alder-ash/shop");
  for (const [place, text] of ["How do I return something?", "And when will the new one be delivered?"].entries()) {
    await page.locator("#text").fill(text);
    await page.locator("#text").press("Enter");
    await page.locator(".turn.theirs").nth(place).getByText("tok/s").waitFor({ timeout: 60_000 });
  }
}

const SAMPLES = process.env.BUNKHOUSE_PICTURES ? 16 : 0; // of a chart, two seconds each: pictures to keep show lines

/* Two jobs for the page of jobs, and charts with something in them. */
async function prepare({ browser, url, key, signedIn }) {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const ask = (method, path, body) => fetch(`${url}/admin/v1${path}`, { method, headers, body: JSON.stringify(body) });
  await ask("PUT", "/models/smollm2-1.7b/kv", { bits: 8 });
  await ask("POST", "/jobs", { kind: "autotune", args: {} });
  const { page, context } = await signedIn(browser);
  const sampled = async () => {
    const { first_token_ms } = await (await context.request.get(`${url}/dashboard/series?after=0`)).json();
    return first_token_ms.filter((value) => value !== null).length;
  };
  while (await sampled() < SAMPLES) await page.waitForTimeout(500);
  await context.close();
}

export const pictures = {
  async pictures_of_the_dashboard({ browser, url, key, out, signedIn }) {
    await prepare({ browser, url, key, signedIn });
    for (const [look, viewport, colorScheme] of LOOKS) {
      const { page, context } = await signedIn(browser, { viewport, colorScheme });
      const shoot = (name, fullPage = false) => page.screenshot({ path: join(out, `dashboard-${name}-${look}.png`), fullPage });
      await page.waitForTimeout(2500);
      await shoot("now", true);
      await page.locator("#kv-qwen3-8b-4").click();
      await page.getByRole("dialog").getByText("Sessions of full context", { exact: true }).waitFor();
      await page.waitForTimeout(300);
      await shoot("dry-run");
      await page.goto(`${url}/dashboard/playground`);
      await talk(page);
      await shoot("playground");
      if (colorScheme === "light") {
        await page.goto(`${url}/dashboard/tenants`);
        await shoot("tenants", true);
        await page.goto(`${url}/dashboard/jobs`);
        await shoot("jobs", viewport === NARROW);
      }
      await context.close();
    }
  },

  async pictures_of_the_widget({ browser, url, out, opened }) {
    for (const [look, viewport, colorScheme] of LOOKS) {
      const { page, context } = await opened(browser, { viewport: viewport === WIDE ? { width: 1920, height: 960 } : viewport, colorScheme });
      await page.goto(`${url}/widget/demo`);
      await page.getByRole("button", { name: /Open chat/ }).click();
      await page.getByRole("button", { name: "How do I return something?" }).click();
      await page.locator(".turn.bot", { hasText: "Shall I send you a label?" }).waitFor({ timeout: 60_000 });
      await page.locator(".turn.writing").waitFor({ state: "detached" });
      await page.mouse.move(5, 5);
      await page.screenshot({ path: join(out, `widget-${look}.png`) });
      await context.close();
    }
    const { page, context } = await opened(browser, { viewport: NARROW, locale: "ja-JP" });
    await page.goto(`${url}/widget/demo`);
    await page.getByRole("button", { name: /チャットを開く/ }).click();
    await page.getByRole("button", { name: "返品はどうすればいいですか？" }).click();
    await page.locator(".turn.bot", { hasText: "返品ラベルを" }).waitFor({ timeout: 60_000 });
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    await page.screenshot({ path: join(out, "widget-ja-375-light.png") });
    await context.close();
  },
};
