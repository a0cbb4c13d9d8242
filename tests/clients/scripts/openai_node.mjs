// openai-node.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  BOT, CITIES, KEY, QUESTION, RAW, SHORT, THINKER, V1, WEATHER_SCHEMA, assert, check, gathered, rejects, run,
} from "./checks.mjs";

const client = new OpenAI({ baseURL: V1, apiKey: KEY, maxRetries: 0 });
const USER = { role: "user", content: QUESTION };
const WEATHER = {
  type: "function",
  function: { name: "get_weather", description: "Today's weather in a city", parameters: WEATHER_SCHEMA },
};
const Ticket = z.object({ topic: z.enum(["repair", "return"]), urgent: z.boolean() });
const City = z.object({ city: z.enum(CITIES) });

const ask = (options = {}) =>
  client.chat.completions.create({ model: BOT, messages: [USER], max_tokens: SHORT, temperature: 0, ...options });

check("models", "models are listed and one is retrieved", async () => {
  const ids = (await gathered(client.models.list())).map((model) => model.id);
  assert(ids.includes(BOT));
  assert((await client.models.retrieve(BOT)).id === BOT);
});

check("chat", "a question is answered, with usage", async () => {
  const answer = await ask();
  assert(answer.choices[0].message.content);
  assert(answer.usage.completion_tokens > 0);
});

check("stream", "a stream has several pieces, with usage at the end", async () => {
  const chunks = await gathered(await ask({ stream: true, stream_options: { include_usage: true } }));
  assert(chunks.filter((chunk) => chunk.choices[0]?.delta.content).length > 3);
  assert(chunks.at(-1).usage.completion_tokens > 0);
});

check("stream", "the stream helper gathers the answer", async () => {
  const stream = client.chat.completions.stream({ model: BOT, messages: [USER], max_tokens: SHORT, temperature: 0 });
  let pieces = 0;
  stream.on("content", () => (pieces += 1));
  const answer = await stream.finalChatCompletion();
  assert(pieces > 3 && answer.choices[0].message.content);
});

check("tools", "a required tool is called with valid arguments", async () => {
  const answer = await ask({ tools: [WEATHER], tool_choice: "required", max_tokens: 128 });
  const [call] = answer.choices[0].message.tool_calls;
  City.parse(JSON.parse(call.function.arguments));
  assert(answer.choices[0].finish_reason === "tool_calls");
});

check("tools", "a call is streamed", async () => {
  const options = { tools: [WEATHER], tool_choice: "required", max_tokens: 128, model: BOT, messages: [USER] };
  const message = await client.chat.completions.stream(options).finalMessage();
  City.parse(JSON.parse(message.tool_calls[0].function.arguments));
});

check("tools", "zodFunction's strict tool is parsed", async () => {
  const tool = zodFunction({ name: "get_weather", parameters: City });
  const answer = await client.chat.completions.parse({
    model: BOT, messages: [USER], tools: [tool], tool_choice: "required", max_tokens: 128,
  });
  City.parse(answer.choices[0].message.tool_calls[0].function.parsed_arguments);
});

check("round trip", "runTools calls a function, sends its result back and ends", async () => {
  let called = "";
  const tool = zodFunction({
    name: "get_weather",
    parameters: City,
    function: ({ city }) => {
      called = city;
      return "It is sunny.";
    },
  });
  const options = { maxChatCompletions: 3 };
  const named = { type: "function", function: { name: "get_weather" } };
  const request = { model: BOT, messages: [USER], tools: [tool], tool_choice: named, max_tokens: 128 };
  const runner = client.chat.completions.runTools(request, options);
  await runner.done();
  assert(CITIES.includes(called));
  assert(runner.messages.some((message) => message.role === "tool"));
  const call = runner.messages.slice(0, 3);
  const answer = await ask({ messages: call, tools: [WEATHER], tool_choice: "none" });
  assert(answer.choices[0].message.content);
});

check("typed", "chat.completions.parse gives a typed result", async () => {
  const format = zodResponseFormat(Ticket, "ticket");
  const request = { model: BOT, messages: [USER], response_format: format, max_tokens: 128 };
  Ticket.parse((await client.chat.completions.parse(request)).choices[0].message.parsed);
});

check("reasoning", "thoughts are streamed as reasoning_content", async () => {
  const chunks = await gathered(await ask({ model: THINKER, stream: true }));
  assert(chunks.filter((chunk) => chunk.choices[0]?.delta.reasoning_content).length > 3);
});

check("reasoning", "reasoning_effort none leaves thoughts out", async () => {
  const message = (await ask({ model: THINKER, reasoning_effort: "none" })).choices[0].message;
  assert(message.content && !message.reasoning_content);
});

check("sampling", "seed, penalties, top_k and min_p are taken; a seed repeats an answer", async () => {
  const more = { seed: 7, temperature: 1, top_p: 0.9, presence_penalty: 0.1, top_k: 20, min_p: 0.05 };
  const texts = [(await ask(more)), (await ask(more))].map((answer) => answer.choices[0].message.content);
  assert(texts[0] && texts[0] === texts[1]);
});

check("stop", "a stop sequence ends an answer", async () => {
  const whole = (await ask()).choices[0].message.content;
  const word = whole.split(" ")[3];
  const { finish_reason, message } = (await ask({ stop: [word] })).choices[0];
  assert(finish_reason === "stop" && message.content === whole.slice(0, whole.indexOf(word)));
});

check("hints", "hints and unknown names are ignored", async () => {
  const hints = { user: "u", store: false, service_tier: "auto", prompt_cache_key: "k", a_name_of_tomorrow: 1 };
  assert((await ask(hints)).choices[0].message.content);
});

check("system", "a developer message is taken", async () => {
  assert((await ask({ messages: [{ role: "developer", content: "Be brief." }, USER] })).choices[0].message.content);
});

check("n", "n gives several choices", async () => {
  assert((await ask({ n: 2, temperature: 1 })).choices.length === 2);
});

check("logprobs", "logprobs for each token", async () => {
  const answer = await ask({ logprobs: true, top_logprobs: 2, max_tokens: 6 });
  assert(answer.choices[0].logprobs.content.length === answer.usage.completion_tokens);
});

check("errors", "a wrong key, an unknown model and a bad value throw OpenAI's errors", async () => {
  await rejects(OpenAI.AuthenticationError, "key", () => client.withOptions({ apiKey: "wrong" }).models.list());
  await rejects(OpenAI.NotFoundError, "acme/nobody", () => ask({ model: "acme/nobody" }));
  await rejects(OpenAI.BadRequestError, "temperature", () => ask({ temperature: 9 }));
});

check("completions", "completions.create continues a text, streamed too", async () => {
  const request = { model: RAW, prompt: "The capital of France is", max_tokens: 8, temperature: 0 };
  assert((await client.completions.create(request)).choices[0].text.includes("Paris"));
  assert((await gathered(await client.completions.create({ ...request, stream: true }))).length > 3);
});

check("responses", "responses.create answers and is streamed", async () => {
  const request = { model: BOT, input: QUESTION, max_output_tokens: SHORT };
  assert((await client.responses.create(request)).output_text);
  const kinds = (await gathered(await client.responses.create({ ...request, stream: true }))).map((e) => e.type);
  assert(kinds.filter((kind) => kind === "response.output_text.delta").length > 3);
  assert(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds.at(-1));
});

check("responses", "responses.parse gives a typed result, and a tool is called", async () => {
  const format = zodTextFormat(Ticket, "ticket");
  const typed = await client.responses.parse({ model: BOT, input: QUESTION, text: { format } });
  Ticket.parse(typed.output_parsed);
  const tool = { type: "function", name: "get_weather", strict: true, parameters: WEATHER_SCHEMA };
  const answer = await client.responses.create({ model: BOT, input: QUESTION, tools: [tool], tool_choice: "required" });
  const call = answer.output.find((item) => item.type === "function_call");
  City.parse(JSON.parse(call.arguments));
});

await run();
