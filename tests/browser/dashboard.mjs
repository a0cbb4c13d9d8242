/* The dashboard as an operator uses it. */

const PAGES = ["/", "/dashboard/tenants", "/dashboard/jobs", "/dashboard/inbox", "/dashboard/conversations", "/dashboard/figures", "/dashboard/playground"];

const LONG = 3000; // tokens: an answer that somebody has to stop

/* The pages' scripts come late. */
async function slowly(context) {
  await context.route(/htmx.min.js|playground.js/, async (route) => {
    await new Promise((done) => { setTimeout(done, 1500); });
    await route.continue();
  });
}

async function ask(page, bot, text) {
  await page.selectOption("#bot", bot);
  if (text === "endless") await page.evaluate((most) => { document.getElementById("max").value = most; }, LONG);
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

/* Text of the live page until `wanted` holds. */
function until(page, wanted, argument) {
  return page.waitForFunction(wanted, argument, { timeout: 60_000 });
}

const kvOf = (kind) => document.querySelector(`[data-kind="${kind}"]`)?.textContent;

export const dashboard = {
  async log_in({ browser, url, key, opened, assert }) {
    const { page, context, problems } = await opened(browser);
    await page.goto(`${url}/dashboard/jobs`);
    assert.equal(new URL(page.url()).pathname, "/dashboard/login");
    await page.getByLabel("Admin key").fill("bh-wrong");
    await page.keyboard.press("Enter");
    await page.getByText("This admin key is not valid on this host.").waitFor();
    problems.length = 0; // the refusal itself is logged by the browser
    await page.getByLabel("Admin key").fill(key);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
    const [cookie] = await context.cookies();
    assert.equal(cookie.httpOnly, true);
    assert.equal(cookie.sameSite, "Strict");
    assert.ok(!cookie.value.includes(key));
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Admin key").waitFor();
    await context.addCookies([cookie]);
    await page.goto(`${url}/`);
    assert.equal(new URL(page.url()).pathname, "/dashboard/login", "a session that ended stays ended");
    assert.deepEqual(problems, []);
  },

  async memory_changes_as_chats_run({ browser, url, signedIn, assert }) {
    const { page, context } = await signedIn(browser);
    await until(page, () => document.querySelector('[data-kind="kv8"]')?.textContent === "0 B");
    assert.equal(await page.evaluate(kvOf, "kv8"), "0 B");
    const chat = await context.newPage();
    await chat.goto(`${url}/dashboard/playground`);
    await ask(chat, "initech/it-desk", "endless"); // its bot holds KV at 8 bits
    await until(page, () => document.querySelector('[data-kind="kv8"]')?.textContent !== "0 B");
    await until(page, () => document.querySelector("#model-llama-3\\.1-8b .facts dd")?.textContent.startsWith("1"));
    const bar = page.locator("#model-llama-3\\.1-8b .bar .k-kv8");
    assert.ok(parseFloat(await bar.getAttribute("width")) > 0);
    assert.match(await page.locator("#sentence").textContent(), /1 chat/);
    await until(page, () => document.querySelector("#room-initech td:nth-child(3)")?.textContent === "1");
    await chat.getByRole("button", { name: "Stop" }).click();
    await until(page, () => document.querySelector('[data-kind="kv8"]')?.textContent === "0 B");
  },

  async kv_bits_change_after_a_dry_run({ browser, signedIn, assert }) {
    const { page, problems } = await signedIn(browser);
    await page.locator("#kv-qwen3-8b-4").click();
    const sheet = page.getByRole("dialog");
    await sheet.getByRole("heading", { name: "qwen3-8b: 8 to 4 bits" }).waitFor();
    await sheet.getByText("Sessions of full context", { exact: true }).waitFor();
    await page.keyboard.press("Escape");
    await sheet.waitFor({ state: "hidden" });
    assert.equal(await page.locator("#kv-qwen3-8b-8").getAttribute("aria-pressed"), "true", "a dry run changes nothing");
    await page.locator("#kv-qwen3-8b-4").focus(); // and now by keyboard alone
    await page.keyboard.press("Enter");
    await sheet.getByRole("heading", { name: "qwen3-8b: 8 to 4 bits" }).waitFor();
    await sheet.getByRole("button", { name: "Change to 4 bits" }).focus();
    await page.keyboard.press("Enter");
    await sheet.getByText("No chat was interrupted").waitFor();
    await page.keyboard.press("Escape");
    await until(page, () => document.getElementById("kv-qwen3-8b-4").getAttribute("aria-pressed") === "true");
    await page.locator("#kv-qwen3-8b-8").click();
    await sheet.getByRole("button", { name: "Change to 8 bits" }).click();
    await sheet.getByText("No chat was interrupted").waitFor();
    assert.deepEqual(problems, []);
  },

  async a_click_before_the_scripts_are_there_is_not_lost({ browser, url, signedIn }) {
    const { page } = await signedIn(browser, {}, undefined, slowly);
    await page.locator("#kv-qwen3-8b-4").click();
    await page.getByRole("dialog").getByRole("heading", { name: "qwen3-8b: 8 to 4 bits" }).waitFor();
    const { page: other } = await signedIn(browser, {}, undefined, slowly);
    await other.getByLabel("Chat id").fill("chatcmpl-nobody");
    await other.keyboard.press("Enter");
    await other.getByText("The scheduler does not know this chat").waitFor();
    await other.goto(`${url}/dashboard/playground`, { waitUntil: "commit" });
    await other.locator("#text").fill("How do I return something?");
    await other.getByRole("button", { name: "Send" }).click();
    await other.locator(".turn.theirs").getByText("tok/s").waitFor();
  },

  async kv_bits_below_a_bots_promise_cannot_be_chosen({ browser, signedIn, assert }) {
    const { page } = await signedIn(browser);
    await page.locator("#kv-llama-3\\.1-8b-4").click();
    const sheet = page.getByRole("dialog");
    await sheet.getByText(/northwind\/helpdesk.*more than 4 bits/).waitFor();
    assert.ok(await sheet.getByRole("button", { name: "Change to 4 bits" }).isDisabled());
  },

  async kv_bits_change_by_a_job_with_progress({ browser, url, signedIn, assert }) {
    const { page } = await signedIn(browser);
    await page.locator("#kv-smollm2-1\\.7b-8").click();
    const sheet = page.getByRole("dialog");
    await sheet.getByRole("button", { name: "Change to 8 bits" }).click();
    await sheet.getByRole("heading", { name: "smollm2-1.7b: changing to 8 bits" }).waitFor();
    await sheet.getByText("succeeded").waitFor({ timeout: 60_000 });
    await page.keyboard.press("Escape");
    await until(page, () => document.getElementById("kv-smollm2-1.7b-8").getAttribute("aria-pressed") === "true");
    await page.goto(`${url}/dashboard/jobs`);
    const job = page.locator(".job", { hasText: "smollm2-1.7b" }).first();
    assert.match(await job.textContent(), /succeeded/);
    assert.match(await job.textContent(), /holds KV at 8 bits now/);
  },

  async chat_in_the_playground({ browser, url, signedIn, assert }) {
    const { page, problems } = await signedIn(browser);
    await page.goto(`${url}/dashboard/playground`);
    await ask(page, "alder-ash/shop", "How do I return something?");
    const told = page.locator(".turn.theirs .told").first();
    await told.getByText("tok/s").waitFor();
    const facts = await told.textContent();
    assert.match(facts, /KV (4|8|16) bits/);
    assert.match(facts, /waited [\d.]+ m?s/);
    assert.match(facts, /first token [\d.]+ m?s/);
    assert.match(facts, /[\d.]+ tok\/s/);
    assert.match(await page.locator(".turn.theirs p").first().textContent(), /send anything back within/);
    await page.locator("#text").fill("And <img src=x onerror=alert(1)> delivery?");
    await page.locator("#text").press("Enter");
    await page.locator(".turn.theirs").nth(1).getByText("tok/s").waitFor();
    assert.equal(await page.locator(".turn img").count(), 0);
    assert.deepEqual(problems, []);
  },

  async why_is_this_waiting({ browser, url, signedIn, assert }) {
    const { page, context } = await signedIn(browser);
    const chat = await context.newPage();
    await chat.goto(`${url}/dashboard/playground`);
    const asked = chat.waitForResponse((answer) => answer.url().endsWith("/playground/chats"));
    await ask(chat, "alder-ash/shop", "endless");
    const id = (await (await asked).json()).chat;
    await page.getByLabel("Chat id").fill(id);
    await page.getByRole("button", { name: "Explain" }).click();
    await page.locator("#explained").getByText("alder-ash/shop").waitFor();
    assert.match(await page.locator("#explained").textContent(), /running/);
    await chat.getByRole("button", { name: "Stop" }).click();
    await page.getByLabel("Chat id").fill("chatcmpl-nobody");
    await page.getByRole("button", { name: "Explain" }).click();
    await page.getByText("The scheduler does not know this chat").waitFor();
  },

  async a_tenant_at_its_limit_waits_and_is_told_why({ browser, signedIn, assert }) {
    const { page } = await signedIn(browser);
    const chats = await page.evaluate(async (most) => { // eight at once, where the tenant may have six
      const headers = { "content-type": "application/json", "x-csrf-token": document.querySelector('meta[name="csrf"]').content };
      const one = async (_, place) => {
        const messages = [{ role: "user", content: "endless" }];
        const body = { bot: "umbrella/faq", session: `crowded-${place}`, messages, max_tokens: most };
        const answer = await fetch("/dashboard/playground/chats", { method: "POST", headers, body: JSON.stringify(body) });
        return (await answer.json()).chat;
      };
      return Promise.all(Array.from({ length: 8 }, one));
    }, 1200);
    await until(page, () => document.querySelector("#room-umbrella .num")?.textContent === "2");
    assert.match(await page.locator("#room-umbrella").textContent(), /at its own limit/);
    await page.locator("#why-umbrella").click();
    await page.getByRole("dialog").getByText("Its tenant is at a limit of its own").first().waitFor();
    await page.keyboard.press("Escape");
    await page.evaluate(async (ids) => {
      const headers = { "x-csrf-token": document.querySelector('meta[name="csrf"]').content };
      for (const id of ids) await fetch(`/dashboard/playground/chats/${id}/stop`, { method: "POST", headers });
    }, chats);
    await until(page, () => !document.querySelector("#room-umbrella"));
  },

  async tenants_and_usage({ browser, url, signedIn, assert }) {
    const { page, context, problems } = await signedIn(browser);
    await page.goto(`${url}/dashboard/tenants`);
    for (const tenant of ["alder-ash", "northwind", "globex"]) {
      assert.ok(await page.getByRole("rowheader", { name: tenant }).count(), tenant);
    }
    assert.match(await page.locator(".embed code").textContent(), /<script src=".*\/widget.js" data-token="bhw-[0-9a-f]{32}" defer>/);
    const csv = await context.request.get(`${url}/dashboard/usage.csv`);
    assert.equal(csv.status(), 200);
    assert.match(csv.headers()["content-type"], /text\/csv/);
    assert.match(await csv.text(), /^day,tenant,bot,/);
    assert.deepEqual(problems, []);
  },

  async labels_of_slow_charts_are_whole({ browser, url, signedIn, assert }) {
    const { page } = await signedIn(browser);
    const now = Date.now() / 1000;
    const series = { at_s: [now - 40, now - 20], inter_token_ms: { "qwen3-8b": [18_000, 21_000] }, first_token_ms: [90_000, 120_000], waiting: [0, 0] };
    await page.route("**/dashboard/series*", (route) => route.fulfill({ json: series }));
    await page.goto(`${url}/`);
    await page.locator('[data-chart="first"] canvas').waitFor();
    for (const [name, label] of [["inter", "20,000"], ["first", "120,000"]]) {
      const [given, taken] = await page.evaluate(([chart, text]) => {
        const ruler = document.createElement("canvas").getContext("2d");
        ruler.font = '11.5px "Inter", system-ui';
        const axes = [...document.querySelectorAll(`[data-chart="${chart}"] .u-axis`)];
        return [Math.min(...axes.map((axis) => axis.clientWidth)), ruler.measureText(text).width];
      }, [name, label]);
      assert.ok(given >= taken + 5, `${name}: ${given} px for ${taken}`);
    }
  },

  async a_viewer_looks_and_changes_nothing({ browser, url, key, signedIn, assert }) {
    const made = await fetch(`${url}/admin/v1/admins`, {
      method: "POST", headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ name: "night-shift", role: "viewer" }),
    });
    assert.equal(made.status, 201);
    const viewer = await made.json();
    const { page } = await signedIn(browser, {}, viewer.key);
    await page.locator("#kv-qwen3-8b-4").click();
    await page.getByRole("dialog").getByText("can view but not change").waitFor();
    await page.goto(`${url}/dashboard/playground`);
    assert.ok(await page.locator("#text").isDisabled());
    await fetch(`${url}/admin/v1/admins/${viewer.id}`, { method: "DELETE", headers: { authorization: `Bearer ${key}` } });
    await page.goto(`${url}/`);
    assert.equal(new URL(page.url()).pathname, "/dashboard/login", "a revoked key is out at once");
  },

  async no_page_breaks_its_policy_or_overflows({ browser, url, signedIn, assert }) {
    for (const width of [375, 1920]) {
      const { page, context, problems } = await signedIn(browser, { viewport: { width, height: 812 } });
      for (const path of PAGES) {
        const answer = await page.goto(url + path);
        const policy = answer.headers()["content-security-policy"];
        assert.ok(policy.includes("default-src 'none'") && !policy.includes("unsafe"), path);
        await page.waitForTimeout(1200);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(wide <= width, `${path} is ${wide} px wide at ${width}`);
        const squeezed = await page.evaluate(() => [...document.querySelectorAll("button, .embed > div")]
          .filter((part) => part.clientWidth && part.scrollWidth > part.clientWidth).map((part) => part.textContent.trim()));
        assert.deepEqual(squeezed, [], `too narrow for their words on ${path} at ${width}`);
        const covered = await page.evaluate(() => {
          const boxes = [...document.querySelectorAll("main button, main select")].map((part) => [part, part.getBoundingClientRect()]);
          return boxes.filter(([part, box]) => box.width && boxes.some(([other, over]) => other !== part && over.width
            && box.left < over.right && over.left < box.right && box.top < over.bottom && over.top < box.bottom))
            .map(([part]) => part.id || part.textContent.trim());
        });
        assert.deepEqual(covered, [], `one over the other on ${path} at ${width}`);
      }
      assert.deepEqual(problems, []);
      await context.close();
    }
  },

  async a_refused_change_is_said({ browser, url, signedIn, assert }) {
    const { page } = await signedIn(browser);
    await page.goto(`${url}/dashboard/jobs`);
    await page.evaluate(() => { document.querySelector('meta[name="csrf"]').content = "of an earlier session"; });
    await page.getByRole("button", { name: "Propose" }).click();
    const sheet = page.getByRole("dialog");
    await sheet.getByText("This page is out of date. Reload it.").waitFor();
    await page.waitForTimeout(1500); // a tick has passed, and painted over nothing
    assert.ok(await sheet.isVisible());
    assert.equal(await page.locator("#jobs [role=alert]").count(), 0, "the list is still there");
    await sheet.getByRole("button", { name: "Close" }).last().click();
    await sheet.waitFor({ state: "hidden" });
    await page.route("**/dashboard/jobs/new/**", (route) => route.abort());
    await page.getByRole("button", { name: "Propose" }).click();
    await page.getByText("The host did not answer.").waitFor();
    assert.equal(new URL(page.url()).pathname, "/dashboard/jobs");
  },

  async a_lost_host_is_said({ browser, signedIn, assert }) {
    const { page } = await signedIn(browser);
    await page.route("**/dashboard/parts/**", (route) => route.abort());
    await page.getByText("The host does not answer").waitFor();
    await page.unroute("**/dashboard/parts/**");
    await page.getByText("The host does not answer").waitFor({ state: "hidden" });
    assert.ok(true);
  },

  async a_person_answers_from_the_inbox({ url, key, browser, signedIn, assert }) {
    const { page, context, problems } = await signedIn(browser);
    const hands = (handover) => fetch(`${url}/admin/v1/bots/alder-ash/shop`, {
      method: "PATCH",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ widget: { handover } }),
    });
    assert.equal((await hands({})).status, 200);
    await page.goto(`${url}/dashboard/tenants`);
    const [token] = (await page.content()).match(/bhw-[0-9a-f]{32}/);
    const options = { headers: { origin: url } };
    const say = async (text, session = null) => (await context.request.post(`${url}/widget/v1/${token}/messages`, { ...options, data: { text, session } })).json();
    const seen = async (session) => (await context.request.get(`${url}/widget/v1/${token}/sessions/${session}`, options)).json();
    let asked = await say("I want to talk to a human about lid 7");
    while (asked.state !== "waiting") { await page.waitForTimeout(500); asked = await say("I want to talk to a human about lid 7"); }
    await page.goto(`${url}/dashboard/inbox`);
    await page.locator(".unread").waitFor();
    await page.getByRole("link", { name: "about lid 7" }).first().click();
    const box = page.getByLabel("Reply");
    await box.pressSequentially("It is on its way.");
    const typing = async () => { for (const until = Date.now() + 10_000; Date.now() < until;) if ((await seen(asked.session)).typing) return true; return false; };
    assert.ok(await typing(), "the visitor sees that somebody writes");
    await box.press("Enter");
    await page.locator(".said-person", { hasText: "It is on its way." }).waitFor();
    assert.equal(await box.inputValue(), "");
    assert.equal((await seen(asked.session)).turns.at(-1).text, "It is on its way.");
    await say("Thank you!", asked.session);
    await page.locator(".said-visitor", { hasText: "Thank you!" }).waitFor(); // without a reload
    await page.getByRole("button", { name: "Hand back to the bot" }).click();
    await page.getByText("with the bot").waitFor();
    assert.equal((await seen(asked.session)).state, "bot");
    await hands(null);
    assert.deepEqual(problems, []);
    await context.close();
  },

  async the_keyboard_reaches_everything({ browser, signedIn, assert }) {
    const { page } = await signedIn(browser);
    await page.evaluate(() => document.activeElement?.blur());
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
    await page.keyboard.press("Enter");
    const seen = new Set();
    for (let presses = 0; presses < 40; presses++) {
      await page.keyboard.press("Tab");
      seen.add(await page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim()));
      await page.waitForTimeout(60); // the live part is swapped meanwhile and must not take the focus away
    }
    for (const id of ["kv-qwen3-8b-16", "kv-smollm2-1.7b-16", "chat", "Explain"]) assert.ok(seen.has(id), `${id}: ${[...seen]}`);
  },
};
