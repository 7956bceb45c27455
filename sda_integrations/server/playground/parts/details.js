// The panel with the details of one token: what it could have been before and after steering.

const panel = document.getElementById("details");

/** The element of the token that the panel shows. */
let current = null;

/** Shows a token's details; says them to a screen reader, too, where the reader moved to the token on purpose. */
function showDetails(element, { aloud = false } = {}) {
  if (element !== current) {
    current?.classList.remove("current");
    current = element;
    current.classList.add("current");
    fillPanel(shown.get(element));
  }
  panel.hidden = false;
  if (aloud) byId("spoken").textContent = inOneSentence(shown.get(element));
}

function closeDetails() {
  if (panel.contains(document.activeElement)) current.focus();
  forgetDetails();
}

/** Closes the panel where the text that it is about goes away. */
function forgetDetails() {
  panel.hidden = true;
  byId("spoken").textContent = "";
  current?.classList.remove("current");
  current = null;
}

function fillPanel({ token, answer, index }) {
  panel.querySelector(".token").textContent = visible(token.text) || "(no text of its own)";
  panel.querySelector(".place").textContent = `${answer.title}, token ${index + 1}`;
  panel.querySelector(".figures").replaceChildren(...factsOf(token, answer).map(([name, value]) => makeFigure(name, value)));
  panel.querySelector(".distributions").replaceChildren(...distributionsOf(token, answer).map(makeDistribution(token)));
}

/** Figures of one token: pairs of a name and a text. In a plain answer nothing is steered. */
function factsOf(token, answer) {
  const temperature = ["Temperature", figure(token.temperature)];
  if (answer.kind === "plain") return [temperature];
  const facts = [["Divergence", `${figure(token.divergence)} nats`], temperature, ["Strength", figure(token.strength, 2)]];
  if (token.spent != null) facts.push(["Spent", `${figure(token.spent, 2)} nats`]);
  if (token.forced) facts.push(["Forced", "the model had no choice"]);
  else if (token.position === 0) facts.push(["Decided by", "the base context alone"]);
  return facts;
}

/** The most likely tokens of each context: pairs of a title and candidates, themselves pairs of text and probability. */
function distributionsOf(token, { kind }) {
  if (kind === "plain") return [["Most likely", token.steered ?? []]];
  const titles = [["Base", token.base], ["Instructed", token.instructed], ["Steered", token.steered]];
  return titles.filter(([, candidates]) => candidates?.length);
}

/** Bars of the most likely tokens; the one that was taken is bold. */
function makeDistribution(token) {
  return ([title, candidates]) => {
    const rows = make("ul");
    for (const [text, probability] of candidates) {
      const row = make("li", text === token.text ? "taken" : "");
      row.style.setProperty("--p", probability);
      row.append(make("span", "token", visible(text)), " ", make("span", "", percent(probability)));
      rows.append(row);
    }
    const group = make("section");
    group.append(make("h3", "", title), rows);
    return group;
  };
}

/** A name with its value; one with words beside the number takes a line of its own. */
function makeFigure(name, ...values) {
  const row = make("div", values.length > 1 ? "wide" : "");
  const value = make("dd");
  value.append(...values);
  row.append(make("dt", "", name), value);
  return row;
}

/** What the panel shows, for those who hear it. */
function inOneSentence({ token, answer, index }) {
  const facts = factsOf(token, answer).map(([name, value]) => `${name} ${value}`);
  const likely = distributionsOf(token, answer).map(([title, candidates]) => {
    return `${title}: ${candidates.map(([text, probability]) => `${spoken(text)} ${percent(probability)}`).join(", ")}`;
  });
  return [`Token ${index + 1}, ${spoken(token.text)}`, ...facts, ...likely].join(". ");
}

/** A token as a screen reader can say it. */
function spoken(text) {
  if (!text) return "no text";
  if (text.trim()) return text.trim();
  return text.includes("\n") ? "line break" : "space";
}

/** Goes to the token before or after the one that is shown. */
function stepDetails(step) {
  const { answer, index } = shown.get(current);
  const next = answer.tokens[index + step];
  if (!next) return;
  answer.makeReachable(next);
  next.scrollIntoView({ block: "nearest" });
  showDetails(next, { aloud: true });
}

panel.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.step) stepDetails(Number(button.dataset.step));
  else if (button) closeDetails();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !panel.hidden) closeDetails();
});
