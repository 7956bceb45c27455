// The page itself: connects, runs the three requests at once, and keeps the form and the code in step.

const answers = Array.from(document.querySelectorAll(".answer"), (article) => new Answer(article));
const tabs = Array.from(document.querySelectorAll("[role=tab]"));

// What the example in the prompt's field is about; the server's own default goes first
const EXAMPLE_PRESET = "empathy";

/** Ends the three requests that run now; null while none does. */
let running = null;

// --- Connecting ---

/** Reads what the server offers; asks for a key where it wants one. */
async function connect() {
  try {
    const models = await listModels(); // alone at first: a key that is missing is missed once
    fillChoices(models, await listPresets());
    byId("connection").hidden = true;
    showSettings();
  } catch (error) {
    showTrouble(error);
  }
}

function fillChoices(models, known) {
  presets.clear();
  known.forEach((preset) => presets.set(preset.name, preset));
  setChoices(byId("model"), models.map(({ id }) => [id, id]));
  const names = known.map(({ name }) => [name, name]);
  setChoices(byId("alignment"), [...names, [OWN, "your own instruction"]], [models[0]?.sda?.alignment, EXAMPLE_PRESET]);
}

/** Puts choices into a select. The one that was made stays; at first it is the first of the preferred ones there is. */
function setChoices(select, choices, preferred = []) {
  const values = choices.map(([value]) => value);
  const chosen = [select.value, ...preferred].find((value) => values.includes(value));
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  if (chosen !== undefined) select.value = chosen;
}

function showTrouble(error) {
  const wantsKey = error.status === 401;
  byId("trouble").textContent = wantsKey && !apiKey ? "This server asks for an API key." : error.message;
  byId("key-field").hidden = !wantsKey;
  byId("key").disabled = !wantsKey; // a hidden field must not hold up the form
  byId("again").hidden = wantsKey;
  byId("connection").hidden = false;
  if (wantsKey) byId("key").focus();
}

byId("connection").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!byId("key").disabled) apiKey = byId("key").value;
  connect();
});

// --- The form ---

/** Shows what follows from the settings: the instruction of a preset, the strength in words, the code. */
function showSettings() {
  const own = byId("alignment").value === OWN;
  const preset = presets.get(byId("alignment").value);
  byId("instruction").hidden = !own;
  byId("instruction-shown").hidden = own;
  byId("instruction-shown").textContent = preset?.instruction ?? "";
  const byScore = byId("by-score").checked;
  byId("strength-shown").textContent = byId("strength").valueAsNumber.toFixed(1);
  byId("strength-label").textContent = byScore ? "Gain" : "Strength";
  byId("strength-note").textContent = byScore
    ? "Strength is gain × amplification: 0 for a perfect score, nearly 1 for a bad one."
    : "0 is the instruction in the prompt; more goes further the same way.";
  showSnippet();
}

byId("settings").addEventListener("input", showSettings);
byId("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  byId("settings").requestSubmit();
});

// --- Running ---

async function run() {
  if (!settingsAreComplete()) return;
  running?.abort();
  const mine = new AbortController();
  setRunning(mine, "Answering…");
  showAnswers();
  const requests = requestsOf(readSettings());
  const ends = await Promise.all(answers.map((answer) => answer.run(requests[answer.kind], mine.signal)));
  if (running !== mine) return;
  setRunning(null, inSummary(ends));
  const refused = ends.find((end) => end.status === 401);
  if (refused) showTrouble(refused);
}

function inSummary(ends) {
  const failed = ends.filter((end) => end instanceof Error).length;
  if (failed) return failed === ends.length ? "No answer." : `${failed} of ${ends.length} answers failed.`;
  return ends.includes("stopped") ? "Stopped." : "Done.";
}

function setRunning(controller, words) {
  running = controller;
  byId("status").textContent = words;
  byId("stop").setAttribute("aria-disabled", String(!controller)); // not `disabled`, which would lose the focus
}

/** Where the answers lie below what can be seen, as on a phone, shows them. */
function showAnswers() {
  const top = byId("answers").getBoundingClientRect().top;
  if (top > 0.7 * window.innerHeight) byId("answers").scrollIntoView();
}

byId("stop").addEventListener("click", () => running?.abort());

// --- The code ---

function showSnippet() {
  const { language } = tabs.find((tab) => tab.ariaSelected === "true").dataset;
  byId("snippet").querySelector("code").textContent = SNIPPETS[language](readSettings());
  byId("copied").textContent = "";
}

function selectTab(chosen) {
  for (const tab of tabs) {
    tab.ariaSelected = String(tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
  byId("snippet").setAttribute("aria-labelledby", chosen.id);
  showSnippet();
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => selectTab(tab));
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!step) return;
    const next = tabs.at((index + step) % tabs.length);
    selectTab(next);
    next.focus();
  });
});

/** Copies the code; where the browser keeps pages without https from that, selects it for the reader to copy. */
async function copySnippet() {
  const code = byId("snippet").querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(code);
    byId("copied").textContent = "Selected: copy it with your keyboard.";
  }
}

byId("copy").addEventListener("click", copySnippet);

byId("run").querySelector("kbd").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
connect();
