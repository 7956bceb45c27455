// What the form says, and the three requests that it means.

const OWN = "\u0000own"; // the choice of an instruction of one's own; no preset has that name

const byId = (id) => document.getElementById(id);

/** Presets by their names, as the server lists them. */
const presets = new Map();

/** All that the form says. Fields that are left empty are undefined: then the server's own settings hold. */
function readSettings() {
  return {
    model: byId("model").value,
    system: byId("system").value.trim() ? byId("system").value : undefined,
    prompt: byId("prompt").value,
    alignment: readAlignment(),
    strength: byId("strength").valueAsNumber,
    byScore: byId("by-score").checked,
    maxTokens: readNumber("max-tokens"),
    temperature: readNumber("temperature"),
    seed: readNumber("seed"),
  };
}

function readNumber(id) {
  const number = byId(id).valueAsNumber;
  return Number.isNaN(number) ? undefined : number;
}

/** A preset's name or an instruction; an object where there is something to avoid, too. */
function readAlignment() {
  const name = byId("alignment").value;
  const instruction = byId("instruction").value.trim();
  const avoid = byId("avoid").value.trim();
  if (!avoid) return name === OWN ? instruction : name;
  if (name === OWN) return instruction ? { instruction, avoid } : { avoid };
  const preset = presets.get(name);
  const parts = { name, instruction: preset.instruction, rubric: preset.rubric, avoid };
  return Object.fromEntries(Object.entries(parts).filter(([, value]) => value != null));
}

/** The fields of Steering that fix the strength, which is gain * amplification, or leave the latter to the score. */
function steeringOf(settings) {
  const fixed = { gain: settings.strength, amplification: 1 };
  return settings.byScore ? { gain: settings.strength } : fixed;
}

/** The body of each of the three requests, by the kind of answer. */
function requestsOf(settings) {
  const { alignment } = settings;
  return {
    plain: requestOf(settings, { alignment: null }),
    // By the published formulas: a budget would let the base context decide alone once it is spent
    prompt: requestOf(settings, { alignment, policy: "paper", amplification: 0 }),
    steered: requestOf(settings, { alignment, ...steeringOf(settings) }),
  };
}

function requestOf(settings, sda) {
  return {
    model: settings.model,
    messages: messagesOf(settings),
    max_tokens: settings.maxTokens, // what is undefined does not become JSON
    temperature: settings.temperature,
    seed: settings.seed,
    stream: true,
    stream_options: { include_usage: true },
    sda: { ...sda, trace: true },
  };
}

function messagesOf({ system, prompt }) {
  const asked = { role: "user", content: prompt };
  return system === undefined ? [asked] : [{ role: "system", content: system }, asked];
}

/** Tells the browser what is missing, in its own words where it has some; whether nothing is. */
function settingsAreComplete() {
  const missing = (id, words) => byId(id).setCustomValidity(words);
  const own = byId("alignment").value === OWN;
  const nothing = own && !byId("instruction").value.trim() && !byId("avoid").value.trim();
  missing("prompt", byId("prompt").value.trim() ? "" : "Write a prompt.");
  missing("instruction", nothing ? "Say what to do, or below what to avoid." : "");
  return byId("settings").reportValidity();
}
