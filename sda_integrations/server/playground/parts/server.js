// Talking with the server: requests with the key, errors in words, and streams.

// The key lives here and nowhere else: no storage, no address, no cookie
let apiKey = "";

const API = new URL("v1/", document.baseURI);

/** What went wrong, in words for the reader; `status` is 0 where no reply came. */
class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The server's reply to GET, or to POST where there is a body. Throws a ServerError unless it is a success. */
async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  if (body) headers["Content-Type"] = "application/json";
  let reply;
  try {
    const method = body ? "POST" : "GET";
    reply = await fetch(new URL(path, API), { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.");
  }
  if (!reply.ok) throw new ServerError(await reasonOf(reply), reply.status);
  return reply;
}

/** Why a reply is none, in the server's own words where it has any. */
async function reasonOf(reply) {
  const text = await reply.text().catch(() => "");
  const request = reply.headers.get("x-request-id");
  const reason = inWords(parsed(text)?.error) || `The server answered ${reply.status} ${reply.statusText}`.trim() + ".";
  return request ? `${reason} (request ${request})` : reason;
}

/** What an error of OpenAI's shape says, with the field that it is about; "" where it has another shape. */
function inWords(error) {
  if (typeof error?.message !== "string") return "";
  const { message, param } = error;
  return param && !message.includes(param) ? `${param}: ${message}` : message;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The models, without the names that have an alignment after a colon: the page has a field for that. */
async function listModels() {
  return (await list("models")).filter(({ id }) => !id.includes(":"));
}

async function listPresets() {
  return list("sda/presets");
}

async function list(path) {
  const data = parsed(await (await ask(path)).text())?.data;
  if (!Array.isArray(data)) throw new ServerError("What answers here is no server of SDA.");
  return data;
}

/** The chunks of one streamed answer. Throws where the stream brings an error, or breaks off before its end. */
async function* streamAnswer(body, signal) {
  const reply = await ask("chat/completions", { body, signal });
  for await (const data of eventsOf(reply.body)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (!chunk) throw new ServerError("The server sent something that is no chunk of an answer.");
    if (chunk.error) throw new ServerError(inWords(chunk.error) || "The answer broke off.");
    yield chunk;
  }
  throw new ServerError("The answer broke off: the connection closed before its end.");
}

/** The data of each server-sent event. A reader rather than `for await`, which Safari's streams do not know. */
async function* eventsOf(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let pending = ""; ; ) {
      const { done, value } = await readOn(reader);
      if (done) return;
      const events = (pending + value).split(/\r?\n\r?\n/);
      pending = events.pop();
      yield* events.map(dataOf).filter((data) => data !== "");
    }
  } finally {
    reader.cancel().catch(() => {}); // the server need not go on for a stream that nobody reads
  }
}

/** The data of one event; "" for a comment that only keeps the connection alive. */
function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}

async function readOn(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The answer broke off: the connection was lost.");
  }
}
