import { withBrowser } from "./browser.mjs";
const [url, key, only] = process.argv.slice(2);
const out = "/tmp/dash/d-";
await withBrowser("/usr/bin/chromium", async (browser) => {
  for (const [name, w, h, scheme] of [["light-1920", 1920, 1080, "light"], ["dark-1920", 1920, 1080, "dark"], ["light-375", 375, 812, "light"], ["dark-375", 375, 812, "dark"], ["light-1200", 1200, 800, "light"]]) {
    if (only && !name.includes(only)) continue;
    const context = await browser.newContext({ viewport: { width: w, height: h }, colorScheme: scheme });
    const page = await context.newPage();
    page.on("console", (m) => console.log(name, m.type(), m.text()));
    page.on("pageerror", (e) => console.log(name, "ERR", e.message));
    await page.goto(url + "/");
    await page.screenshot({ path: `${out}${name}-login.png` });
    await page.getByLabel("Admin key").fill(key);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Now" }).waitFor();
    await page.waitForTimeout(3500);
    await page.screenshot({ path: `${out}${name}-now.png`, fullPage: true });
    await page.locator("#kv-qwen3-8b-4").click();
    await page.waitForTimeout(800);
    await page.screenshot({ path: `${out}${name}-dry.png` });
    await page.keyboard.press("Escape");
    for (const p of ["tenants", "jobs", "playground"]) {
      await page.goto(`${url}/dashboard/${p}`);
      await page.waitForTimeout(700);
      if (p === "playground") {
        await page.selectOption("#bot", "alder-ash/shop");
        await page.locator("#text").fill("How do I return something?");
        await page.keyboard.press("Enter");
        await page.waitForTimeout(4000);
        await page.locator("#text").fill("And when will the new one be delivered?");
        await page.keyboard.press("Enter");
        await page.waitForTimeout(1500);
      }
      await page.screenshot({ path: `${out}${name}-${p}.png`, fullPage: p !== "playground" });
    }
    await context.close();
  }
});
