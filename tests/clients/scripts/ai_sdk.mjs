// Vercel's AI SDK: @ai-sdk/openai (the Responses API, its default, and chat), @ai-sdk/openai-compatible, @ai-sdk/anthropic.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BOT, CITIES, KEY, QUESTION, RAW, SHORT, THINKER, V1, assert, check, gathered, rejects, run } from "./checks.mjs";

const options = { baseURL: V1, apiKey: KEY };
const compatible = createOpenAICompatible({
  name: "bunkhouse", includeUsage: true, supportsStructuredOutputs: true, ...options,
});
const openai = createOpenAI(options);
const anthropic = createAnthropic(options);
const Ticket = z.object({ topic: z.enum(["repair", "return"]), urgent: z.boolean() });
const weather = tool({
  description: "Today's weather in a city",
  inputSchema: z.object({ city: z.enum(CITIES) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});

const ask = (model, more = {}) => ({
  model, prompt: QUESTION, maxOutputTokens: SHORT, temperature: 0, maxRetries: 0, ...more,
});

async function answers(model) {
  const done = await generateText(ask(model));
  assert(done.text);
  assert(done.usage.outputTokens > 0);
}

async function streams(model) {
  const stream = streamText(ask(model));
  assert((await gathered(stream.textStream)).length > 3);
  assert((await stream.usage).outputTokens > 0);
}

async function givesAnObject(model) {
  Ticket.parse((await generateObject(ask(model, { schema: Ticket, maxOutputTokens: 128 }))).object);
}

async function callsATool(model) {
  const done = await generateText(ask(model, { tools: { weather }, toolChoice: "required", maxOutputTokens: 128 }));
  assert(done.toolResults[0].output.includes("sunny"));
}

async function goesRound(model) {
  const first = { toolChoice: { type: "tool", toolName: "weather" } };
  const done = await generateText(
    ask(model, {
      tools: { weather },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => (stepNumber === 0 ? first : { toolChoice: "none" }),
      maxOutputTokens: 128,
    }),
  );
  assert(done.steps.length === 2 && done.text);
}

check("chat", "generateText answers, with usage (openai-compatible)", () => answers(compatible(BOT)));
check("chat", "generateText answers, with usage (openai.chat)", () => answers(openai.chat(BOT)));
check("system", "a system prompt and a history are taken", async () => {
  const messages = [
    { role: "user", content: "Hi" }, { role: "assistant", content: "Hello!" }, { role: "user", content: QUESTION },
  ];
  assert((await generateText(ask(compatible(BOT), { prompt: undefined, system: "Be brief.", messages }))).text);
});
check("stream", "streamText gives several pieces (openai-compatible)", () => streams(compatible(BOT)));
check("stream", "streamText gives several pieces (openai.chat)", () => streams(openai.chat(BOT)));
check("tools", "a required tool is called and run (openai-compatible)", () => callsATool(compatible(BOT)));
check("tools", "a required tool is called and run (openai.chat)", () => callsATool(openai.chat(BOT)));
check("tools", "a call is streamed", async () => {
  const more = { tools: { weather }, toolChoice: "required", maxOutputTokens: 128 };
  const parts = await gathered(streamText(ask(compatible(BOT), more)).fullStream);
  assert(parts.some((part) => part.type === "tool-input-delta"));
  assert(CITIES.includes(parts.find((part) => part.type === "tool-call").input.city));
});
check("round trip", "a second step answers from the tool's result (openai-compatible)", () => goesRound(compatible(BOT)));
check("round trip", "a second step answers from the tool's result (openai.chat)", () => goesRound(openai.chat(BOT)));
check("typed", "generateObject validates (openai-compatible)", () => givesAnObject(compatible(BOT)));
check("typed", "generateObject validates (openai.chat)", () => givesAnObject(openai.chat(BOT)));
check("typed", "streamObject gives parts and a valid object", async () => {
  const stream = streamObject(ask(compatible(BOT), { schema: Ticket, maxOutputTokens: 128 }));
  assert((await gathered(stream.partialObjectStream)).length > 1);
  Ticket.parse(await stream.object);
});
check("reasoning", "thoughts are reasoning parts, whole and streamed", async () => {
  assert((await generateText(ask(compatible(THINKER)))).reasoningText);
  const parts = await gathered(streamText(ask(compatible(THINKER))).fullStream);
  assert(parts.filter((part) => part.type === "reasoning-delta").length > 3);
});
check("sampling", "a seed repeats an answer; top_p, top_k and penalties are taken", async () => {
  const more = { seed: 7, temperature: 1, topP: 0.9, topK: 20, presencePenalty: 0.1 };
  const texts = [await generateText(ask(compatible(BOT), more)), await generateText(ask(compatible(BOT), more))];
  assert(texts[0].text && texts[0].text === texts[1].text);
});
check("stop", "stopSequences end an answer", async () => {
  const whole = (await generateText(ask(compatible(BOT)))).text;
  const word = whole.split(" ")[3];
  const done = await generateText(ask(compatible(BOT), { stopSequences: [word] }));
  assert(done.finishReason === "stop");
  assert(done.text.trim() === whole.slice(0, whole.indexOf(word)).trim());
});
check("logprobs", "logprobs for each token (openai.chat)", async () => {
  const more = { providerOptions: { openai: { logprobs: 2 } }, maxOutputTokens: 4 };
  assert((await generateText(ask(openai.chat(BOT), more))).providerMetadata.openai.logprobs.length === 4);
});
check("hints", "hints are ignored (openai.chat)", async () => {
  const hints = { user: "u", store: false, promptCacheKey: "k", safetyIdentifier: "s", metadata: { a: "b" } };
  assert((await generateText(ask(openai.chat(BOT), { providerOptions: { openai: hints } }))).text);
});
check("reasoning", "thoughts are reasoning parts (anthropic)", async () => {
  assert((await generateText(ask(anthropic(THINKER)))).reasoningText);
});
check("completions", "a completion model continues a text", async () => {
  const prompt = "The capital of France is";
  assert((await generateText(ask(compatible.completionModel(RAW), { prompt }))).text);
});
check("responses", "generateText answers (openai, its default)", () => answers(openai(BOT)));
check("responses", "streamText gives several pieces (openai, its default)", () => streams(openai(BOT)));
check("responses", "generateObject validates (openai, its default)", () => givesAnObject(openai(BOT)));
check("responses", "a second step answers from the tool's result (openai, its default)", () => goesRound(openai(BOT)));
check("messages", "generateText answers, streams and calls a tool (anthropic)", async () => {
  await answers(anthropic(BOT));
  await streams(anthropic(BOT));
  await callsATool(anthropic(BOT));
});
check("errors", "an unknown model is named", () =>
  rejects(APICallError, "acme/nobody", () => generateText(ask(compatible("acme/nobody")))));

await run();
