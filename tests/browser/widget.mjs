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

/* A shop whose line on its page has more attributes. */
async function shopWith(tools, attributes, options) {
  const made = await tools.opened(tools.browser, options);
  await made.page.route("**/widget/demo", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace("data-token", `${attributes} data-token`) });
  });
  await made.page.goto(`${tools.url}/widget/demo`);
  return made;
}

/* A shop whose bot is configured otherwise. */
async function shopOf(tools, change, options) {
  const made = await tools.opened(tools.browser, options);
  await made.page.route("**/config*", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...await answer.json(), ...change } });
  });
  await made.page.goto(`${tools.url}/widget/demo`);
  return made;
}

const stream = (events) => ({ contentType: "text/event-stream", body: events.map(([name, data], place) =>
  `id: 1-${place}\n${name ? `event: ${name}\n` : ""}data: ${JSON.stringify(data)}\n\n`).join("") });

/* The next answers, as the host would stream them. */
const answersWith = (page, text, end) => page.route("**/stream", (route) =>
  route.fulfill(stream([["", { text }], ["end", { finish: "stop", ...end }]])));

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

  async it_speaks_the_visitors_language(tools) {
    const { assert } = tools;
    const { page, problems } = await shop(tools, { locale: "ja-JP" });
    await page.getByRole("button", { name: "チャットを開く：Alder & Ash" }).click();
    await page.getByText("いらっしゃいませ").waitFor();
    assert.equal(await page.locator("bunkhouse-widget").getAttribute("lang"), "ja");
    await page.getByRole("button", { name: "返品はどうすればいいですか？" }).click();
    await page.locator(".turn.bot", { hasText: "返品ラベルを" }).waitFor();
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    assert.deepEqual(problems, []);
    await page.route("**/messages", (route) => route.fulfill({ status: 503, json: { error: { code: "queue_unavailable", message: "x" } } }));
    await page.getByLabel("メッセージ", { exact: true }).fill("もしもし");
    await page.keyboard.press("Enter");
    await page.getByText("現在このチャットはご利用いただけません").waitFor();
    assert.equal(await page.getByLabel("メッセージ", { exact: true }).inputValue(), "もしもし", "nothing that was written is lost");
    const german = await shopWith(tools, 'data-language="de"', { locale: "ja-JP" });
    await german.page.getByRole("button", { name: "Chat öffnen: Alder & Ash" }).click();
    await german.page.getByText("Guten Tag!").waitFor();
  },

  async stop_an_answer_and_write_on(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    await openChat(page);
    await say(page, "Tell me an endless story.");
    await page.locator(".turn.writing", { hasText: "Thank you" }).waitFor();
    await say(page, "How do I return something?");
    await say(page, "It is a bowl.");
    const queued = page.locator(".turn.queued");
    await queued.getByText("Will be sent after this answer").waitFor();
    await queued.getByRole("button", { name: "Cancel" }).click();
    assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "How do I return something?\nIt is a bowl.");
    await page.keyboard.press("Enter");
    await queued.waitFor();
    await page.getByRole("button", { name: "Stop answering" }).click();
    await page.locator(".line", { hasText: "The answer was stopped." }).waitFor();
    await page.locator(".turn.bot", { hasText: "Shall I send you a label?" }).waitFor();
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    assert.equal(await queued.count(), 0);
    assert.ok((await answers(page).nth(1).textContent()).startsWith("Thank you"), "what was written of it stays");
    await page.getByRole("button", { name: "Send", exact: true }).waitFor();
  },

  async rate_an_answer(tools) {
    const { page } = await shop(tools);
    await openChat(page);
    await say(page, "How do I return something?");
    await page.getByRole("button", { name: "Not helpful" }).click();
    await page.getByLabel("What was wrong? (optional)").fill("I asked for an exchange.");
    await page.keyboard.press("Enter");
    await page.locator(".turn.bot").getByText("Thank you for your feedback.").waitFor();
    await page.reload();
    await page.getByRole("button", { name: "Not helpful", pressed: true }).click();
    await page.getByRole("button", { name: "Not helpful", pressed: false }).waitFor();
  },

  async sources_are_links_of_the_web_only(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    await answersWith(page, "Within 60 days.", { sources: [{ title: "Returns", url: "https://shop.example/returns" },
      { title: "Handbook", url: null }, { title: "Evil", url: "javascript:alert(1)" }] });
    await openChat(page);
    await say(page, "Can I return it?");
    await page.locator(".sources").waitFor();
    assert.deepEqual(await page.locator(".sources li").allTextContents(), ["Returns", "Handbook", "Evil"]);
    const links = await page.locator(".sources a").evaluateAll((all) => all.map(({ href, rel, target }) => ({ href, rel, target })));
    assert.deepEqual(links, [{ href: "https://shop.example/returns", rel: "noopener noreferrer nofollow", target: "_blank" }]);
  },

  async files_are_refused_kindly(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    await openChat(page);
    const give = (type, selector) => page.locator(selector).evaluate((node, name) => {
      const files = new DataTransfer();
      files.items.add(new File(["x"], "bowl.png", { type: "image/png" }));
      const event = name === "paste" ? new ClipboardEvent(name, { clipboardData: files, bubbles: true, cancelable: true })
        : new DragEvent(name, { dataTransfer: files, bubbles: true, cancelable: true });
      return node.dispatchEvent(event);
    }, type);
    for (const [type, selector] of [["drop", ".log"], ["paste", "textarea"]]) {
      assert.equal(await give(type, selector), false, `${type} does nothing else`);
      await page.getByRole("alert").getByText("Files cannot be sent here.").waitFor();
      await say(page, "It has a crack.");
      await page.getByRole("alert").waitFor({ state: "hidden" });
      await page.locator(".turn.writing").waitFor({ state: "detached" });
    }
  },

  async a_person_takes_over(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    const session = "s".repeat(32);
    const turns = [];
    let followed = 0;
    await page.route("**/messages", (route) => {
      turns.push({ who: "visitor", text: route.request().postDataJSON().text });
      route.fulfill({ status: 202, json: { session, chat: null, state: turns.length > 1 ? "person" : "waiting" } });
    });
    await page.route(`**/sessions/${session}`, (route) => route.fulfill({ json: { session, turns, pending: null,
      handed_over: true, state: "person", last_event: "9-0", typing: false, confirm: null } }));
    await page.route("**/events", (route) => (followed++ ? route.abort() : route.fulfill(stream([["state", { state: "person" }],
      ["typing", { on: true, name: "Mia" }], ["turn", { who: "visitor", text: "echo" }], ["turn", { who: "person", name: "Mia", text: "I am **Mia**." }]]))));
    await openChat(page);
    await say(page, "A human, please.");
    await page.locator(".line", { hasText: "A person will be with you soon." }).waitFor();
    const hers = page.locator(".turn.person", { hasText: "I am Mia." });
    await hers.waitFor();
    assert.equal(await hers.locator(".name").textContent(), "Mia");
    assert.equal(await page.locator(".typing").count(), 0, "she has written");
    assert.equal(await page.getByText("echo").count(), 0, "one's own words are there once");
    assert.match(await page.locator(".spoken[role=status]").textContent(), /^Mia: /);
    await say(page, "Hello Mia.");
    assert.equal(await page.locator(".turn.writing").count(), 0, "the bot keeps silent");
    turns.splice(1, 0, { who: "person", text: "I am **Mia**.", name: "Mia" });
    // The page before the reload may ask once more, from the last event that it had.
    const resumed = page.waitForRequest((asked) => asked.url().endsWith("/events") && asked.headers()["last-event-id"] === "9-0");
    await page.reload();
    await resumed;
    await hers.waitFor();
    assert.equal(await page.locator(".turn.person").count(), 1);
  },

  async a_question_before_an_action(tools) {
    const { assert } = tools;
    const { page } = await shop(tools);
    await answersWith(page, "I can do that.", { confirm: { id: "c1", action: "cancel_order", text: "Cancel order 4711?" } });
    let decided = null;
    await page.route("**/confirmations", (route) => {
      decided = route.request().postDataJSON();
      route.fulfill({ status: 202, json: { session: decided.session, chat: "done" } });
    });
    await openChat(page);
    await say(page, "Cancel my order.");
    const question = page.getByRole("group", { name: "Cancel order 4711?" });
    await question.waitFor();
    await page.unroute("**/stream");
    await answersWith(page, "Order 4711 is cancelled.", {});
    await question.getByRole("button", { name: "Yes" }).click();
    await page.locator(".turn.bot", { hasText: "Order 4711 is cancelled." }).waitFor();
    assert.equal(await question.count(), 0);
    assert.deepEqual([decided.id, decided.yes], ["c1", true]);
  },

  async a_bot_that_is_switched_off(tools) {
    const { assert } = tools;
    const { page } = await shopOf(tools, { off: "We are back on Monday." });
    await openChat(page);
    await page.locator(".line", { hasText: "We are back on Monday." }).waitFor();
    assert.ok(await page.getByLabel("Message", { exact: true }).isDisabled());
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
  },

  async the_shops_side_logo_and_colour(tools) {
    const { assert } = tools;
    const { page } = await shopOf(tools, { position: "left", accent: "#ffe14d", logo: "https://elsewhere.example/logo.png" });
    await openChat(page);
    await page.waitForTimeout(400);
    const box = await page.getByRole("dialog").boundingBox();
    assert.equal(box.x, 20);
    assert.equal(await page.locator(".face").textContent(), "A", "the page's policy keeps the logo out");
    const style = await page.locator("bunkhouse-widget").evaluate((host) => host.getAttribute("style"));
    assert.match(style, /--on-accent: #16150f/, "dark on yellow");
    assert.match(style, /--accent-line: #1f1e1a/, "yellow lines on white could not be seen");
  },

  async a_visitor_whose_token_is_wrong_is_a_stranger(tools) {
    const { assert } = tools;
    const claims = Buffer.from(JSON.stringify({ sub: "c-17", exp: 1 })).toString("base64url");
    const { page } = await shopWith(tools, `data-visitor="e30.${claims}.x"`);
    const warned = page.waitForEvent("console", (message) => message.text().includes("data-visitor is not used"));
    await openChat(page);
    await say(page, "How do I return something?");
    await warned;
    await page.locator(".turn.bot", { hasText: "Shall I send you a label?" }).waitFor();
    await page.locator(".turn.writing").waitFor({ state: "detached" });
    assert.equal(await page.locator(".turn.visitor").count(), 1);
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
