// The steered call as code. The key is never part of it: all three read SDA_API_KEY.

const SNIPPETS = { langchain: langchainSnippet, llamaindex: llamaindexSnippet, curl: curlSnippet };

// What would show as something else than it is in an editor, such as marks that turn the direction of text
const UNSEEN = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** JSON whose text shows as what it is. Every JSON string is a Python string of the same meaning, too. */
function quoted(value, indent) {
  const escape = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value, null, indent).replace(UNSEEN, escape);
}

function langchainSnippet(settings) {
  const roles = { system: "system", user: "human" };
  const messages = messagesOf(settings).map(({ role, content }) => `    (${quoted(roles[role])}, ${quoted(content)}),`);
  return pythonSnippet({
    imports: ["from sda_integrations.langchain import ChatSDA"],
    made: `chat = ChatSDA(\n${fieldsOf(settings)}\n)`,
    messages,
    loop: "for piece in chat.stream(messages):\n    print(piece.text, end=\"\", flush=True)",
    settings,
  });
}

function llamaindexSnippet(settings) {
  const messages = messagesOf(settings).map(
    ({ role, content }) => `    ChatMessage(role=${quoted(role)}, content=${quoted(content)}),`,
  );
  return pythonSnippet({
    imports: ["from llama_index.core.llms import ChatMessage", "from sda_integrations.llama_index import SDALLM"],
    made: `llm = SDALLM(\n${fieldsOf(settings)}\n)`,
    messages,
    loop: "for piece in llm.stream_chat(messages):\n    print(piece.delta, end=\"\", flush=True)",
    settings,
  });
}

function pythonSnippet({ imports, made, messages, loop, settings }) {
  const needed = typeof settings.alignment === "string" ? imports : ["from sda_engine import Alignment", ...imports];
  const system = apiKey ? "import os\n\n" : "";
  return `${system}${needed.join("\n")}\n\n${made}\nmessages = [\n${messages.join("\n")}\n]\n${loop}\n`;
}

/** The keyword arguments that ChatSDA and SDALLM have in common, one a line. */
function fieldsOf(settings) {
  const { gain, amplification } = steeringOf(settings);
  const fields = {
    base_url: quoted(apiAddress()),
    api_key: apiKey ? 'os.environ["SDA_API_KEY"]' : undefined,
    model: quoted(settings.model),
    alignment: alignmentInPython(settings.alignment),
    gain,
    amplification,
    max_tokens: settings.maxTokens,
    temperature: settings.temperature,
    seed: settings.seed,
  };
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return given.map(([name, value]) => `    ${name}=${value},`).join("\n");
}

function alignmentInPython(alignment) {
  if (typeof alignment === "string") return quoted(alignment);
  const parts = Object.entries(alignment).map(([name, value]) => `        ${name}=${quoted(value)},`);
  return `Alignment(\n${parts.join("\n")}\n    )`;
}

/** The body goes in by a quoted here-document, in which the shell changes nothing, and which no line of JSON can end. */
function curlSnippet(settings) {
  const body = requestsOf(settings).steered;
  delete body.sda.trace; // what this page shows at each token, and many times the size of the answer
  const headers = ["-H 'Content-Type: application/json'"];
  if (apiKey) headers.unshift('-H "Authorization: Bearer $SDA_API_KEY"');
  const address = shellQuoted(new URL("chat/completions", API).href);
  return `curl -N ${address} \\\n  ${headers.join(" \\\n  ")} \\\n  --data-binary @- <<'JSON'\n${quoted(body, 2)}\nJSON\n`;
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function apiAddress() {
  return API.href.replace(/\/$/, "");
}
