// What the scripts of JavaScript clients share; tests/clients/checks.py says the same for Python.

export const URL = process.env.BUNKHOUSE_URL;
export const KEY = process.env.BUNKHOUSE_KEY;
export const V1 = `${URL}/v1`;
export const BOT = "acme/support";
export const RAW = "acme/raw";
export const THINKER = "acme/thinker";
export const SHORT = 24;
export const QUESTION = "My blender does not start. What can I do?";
export const CITIES = ["Paris", "Rome"];
export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string", enum: CITIES } },
  required: ["city"],
  additionalProperties: false,
};

const checks = [];

export function check(feature, what, body) {
  checks.push({ feature, what, body });
}

export function assert(yes, why = "assertion failed") {
  if (!yes) throw new Error(why);
}

export async function rejects(kind, word, begin) {
  try {
    await begin();
  } catch (error) {
    assert(error instanceof kind, `${error.name} is not the expected error: ${error.message}`);
    assert(String(error.message).includes(word), `${error.message} does not name ${word}`);
    return;
  }
  throw new Error("nothing was refused");
}

export async function gathered(stream) {
  const all = [];
  for await (const each of stream) all.push(each);
  return all;
}

export async function run() {
  const wanted = process.argv.slice(2);
  for (const { feature, what, body } of checks) {
    if (wanted.length && !wanted.includes(feature)) continue;
    const begin = Date.now();
    let detail = "";
    try {
      await body();
    } catch (error) {
      const line = /\.mjs:(\d+)/.exec(String(error.stack).replace(/.*checks\.mjs.*/g, ""))?.[1] ?? 0;
      detail = `line ${line}: ${error.name}: ${error.message}`.slice(0, 400);
    }
    const seconds = (Date.now() - begin) / 1000;
    console.log(JSON.stringify({ feature, check: what, passed: !detail, detail, seconds }));
  }
}
