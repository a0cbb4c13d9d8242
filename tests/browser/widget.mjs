/* The widget as a shop's visitor uses it. */

const QUESTION = "How do I care for my board?";
const LAST_WORDS = "Please never put it in the dishwasher.";

async function shop({ browser, url, opened }, options) {
  const made = await opened(browser, options);
  await made.page.goto(`${url}/widget/demo`);
  return made;
}

const openChat = (page) => page.getByRole("button", { name: /Open chat/ }).click();

async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

const answers = (page) => page.locator(".turn.bot .text");

/* What a finished conversation reads, without the name that only screen readers hear. */
const said = (page) => page.locator(".turn .text").allTextContents();

export const widget = {
  async use_the_widget(tools) {
    const { assert } = tools;
    const { page, problems } = await shop(tools);
    await openChat(page);
    const panel = page.getByRole("dialog", { name: "Alder & Ash" });
    await panel.getByText("Good day!").waitFor();
    await panel.getByRole("button", { name: "How do I return something?" }).click();
    await panel.locator(".turn.bot", { hasText: "Shall I send you a label?" }).waitFor();
    await panel.locator(".turn.writing").waitFor({ state: "detached" });
    assert.equal(await panel.locator("strong").first().textContent(), "60 days", "a little Markdown is shown");
    assert.equal(await panel.locator("li").count(), 2);
    await say(page, "When will it be delivered? <b>now</b>");
    await panel.locator(".turn.bot", { hasText: "tracking link" }).waitFor();
    assert.equal(await panel.locator(".visitor b").count(), 0, "markup of visitors stays text");
    await page.keyboard.press("Escape");
    await panel.waitFor({ state: "hidden" });
    assert.equal(await page.evaluate(() => document.querySelector("bunkhouse-widget").shadowRoot.activeElement.className), "bubble");
    await page.keyboard.press("Enter");
    await panel.waitFor();
    assert.deepEqual(problems, []);
  },

  async reload_in_mid_answer_and_it_resumes(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    const resumed = [];
    page.on("request", (request) => {
      if (request.url().endsWith("/stream")) resumed.push(request.headers()["last-event-id"] ?? null);
    });
    await openChat(page);
    await say(page, QUESTION);
    await page.waitForFunction(() => {
      const turns = document.querySelector("bunkhouse-widget").shadowRoot.querySelectorAll(".turn.bot .text");
      return turns.length === 2 && turns[1].textContent.length > 60;
    });
    const before = await answers(page).nth(1).textContent();
    assert.ok(!before.includes(LAST_WORDS), "the answer is still under way");
    await page.reload();
    await answers(page).nth(1).waitFor();
    const after = await answers(page).nth(1).textContent();
    assert.ok(after.length >= before.length / 2, "what was read is shown again at once");
    await page.locator(".turn.bot", { hasText: LAST_WORDS }).waitFor();
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    assert.equal(resumed[0], null);
    assert.match(resumed[1], /^\d+-\d+$/);
    const whole = await said(page);
    assert.equal(whole.length, 3);
    assert.equal(whole[2].split("linseed oil").length, 2, "nothing twice");
    await page.reload();
    await page.locator(".turn.bot", { hasText: LAST_WORDS }).waitFor();
    assert.deepEqual(await said(page), whole, "the host tells the same conversation");
  },

  async a_broken_connection_is_taken_up_again(tools) {
    const { assert } = tools;
    const { page, context } = await shop(tools);
    await openChat(page);
    await say(page, QUESTION);
    await answers(page).nth(1).waitFor();
    await context.setOffline(true);
    await page.waitForTimeout(700);
    await context.setOffline(false);
    await page.locator(".turn.bot", { hasText: LAST_WORDS }).waitFor();
    const whole = await said(page);
    assert.equal(whole[2].split("linseed oil").length, 2, "nothing twice");
  },

  async an_answer_that_was_cut_says_so(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    await openChat(page);
    await say(page, "Tell me an endless story.");
    const cut = page.locator(".line", { hasText: "This answer was cut" });
    await cut.waitFor();
    assert.equal(await page.locator(".turn.writing").count(), 0);
    await page.reload();
    await cut.waitFor();
    assert.equal(await cut.count(), 1, "the conversation remembers it");
  },

  async hand_over_to_a_person(tools) {
    const { page } = await shop(tools);
    await openChat(page);
    await say(page, "My bowl has cracked.");
    await page.locator(".turn.bot", { hasText: "We repair every piece" }).waitFor();
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Talk to a person" }).click();
    await page.getByLabel("Where can we reach you?").fill("ada@example.com");
    await page.getByLabel("Anything to add?").fill("It is the elm one.");
    await page.locator(".sheet").getByRole("button", { name: "Send" }).click();
    await page.locator(".line", { hasText: "We have forwarded your conversation" }).waitFor();
  },

  async an_answer_whose_stream_is_gone_is_read_from_the_conversation(tools) {
    const { assert } = tools;
    const { page, context } = await shop(tools);
    await openChat(page);
    await say(page, QUESTION);
    await answers(page).nth(1).waitFor();
    await page.route("**/stream", (route) => route.fulfill({ status: 404, json: { error: { message: "gone" } } }));
    await context.setOffline(true);
    await page.waitForTimeout(6000); // the host has written it down
    await context.setOffline(false);
    await page.locator(".turn.bot", { hasText: LAST_WORDS }).waitFor();
    assert.equal(await page.getByText("This answer is no longer available.").count(), 0);
  },

  async a_page_that_loads_while_the_host_is_away_gets_its_widget(tools) {
    const { browser, url, opened } = tools;
    const { page, context } = await opened(browser);
    let away = 2;
    await context.route("**/config", (route) => (away-- > 0 ? route.abort() : route.continue()));
    await page.goto(`${url}/widget/demo`);
    await page.getByRole("button", { name: /Open chat/ }).waitFor();
  },

  async the_widget_fits_a_low_window(tools) {
    const { assert } = tools;
    const { page } = await shop(tools, { viewport: { width: 844, height: 340 } });
    await openChat(page);
    await page.getByText("Good day!").waitFor();
    await page.waitForTimeout(400);
    const box = await page.getByRole("dialog").boundingBox();
    assert.deepEqual([box.y, Math.round(box.height)], [0, 340]);
    await page.getByRole("button", { name: "Talk to a person" }).click();
    await page.waitForTimeout(400);
    const top = await page.getByRole("heading", { name: "Talk to a person" }).boundingBox();
    assert.ok(top.y >= 0, `the sheet begins at ${top.y}`);
    await page.screenshot({ path: `${tools.out}/low-window.png` });
  },

  async the_widget_fits_a_phone(tools) {
    const { assert } = tools;
    const { page } = await shop(tools, { viewport: { width: 375, height: 812 }, hasTouch: true, isMobile: true });
    await openChat(page);
    await page.getByText("Good day!").waitFor();
    await page.waitForTimeout(400);
    const box = await page.getByRole("dialog").boundingBox();
    assert.deepEqual([box.x, box.y, Math.round(box.width), Math.round(box.height)], [0, 0, 375, 812]);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 375);
  },
};
