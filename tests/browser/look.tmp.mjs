import { withBrowser } from "./browser.mjs";
const url = process.argv[2];
const out = "/tmp/dash/";
await withBrowser("/usr/bin/chromium", async (browser) => {
  for (const [name, w, h, scheme] of [["light-1440", 1440, 900, "light"], ["dark-1440", 1440, 900, "dark"], ["light-375", 375, 812, "light"], ["dark-375", 375, 812, "dark"]]) {
    const context = await browser.newContext({ viewport: { width: w, height: h }, colorScheme: scheme });
    const page = await context.newPage();
    page.on("console", (m) => console.log(name, m.type(), m.text()));
    page.on("pageerror", (e) => console.log(name, "ERR", e.message));
    await page.goto(url + "/widget/demo");
    await page.getByRole("button", { name: /Open chat/ }).waitFor();
    await page.screenshot({ path: `${out}w-${name}-0.png` });
    await page.getByRole("button", { name: /Open chat/ }).click();
    await page.waitForTimeout(400);
    await page.screenshot({ path: `${out}w-${name}-1.png` });
    await page.getByRole("button", { name: "How do I return something?" }).click();
    await page.waitForTimeout(500);
    await page.screenshot({ path: `${out}w-${name}-2.png` });
    await page.waitForTimeout(2500);
    await page.getByLabel("Message").fill("And how do I care for my board? It is walnut.");
    await page.waitForTimeout(200);
    await page.getByRole("button", { name: "Send" }).click();
    await page.waitForTimeout(3000);
    await page.screenshot({ path: `${out}w-${name}-3.png` });
    if (await page.getByRole("button", { name: "Talk to a person" }).count()) {
      await page.getByRole("button", { name: "Talk to a person" }).click();
      await page.waitForTimeout(400);
      await page.screenshot({ path: `${out}w-${name}-4.png` });
    }
    await context.close();
  }
});
