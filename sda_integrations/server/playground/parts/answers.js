// One of the three answers: its request, its text as it comes, and its figures.

class Answer {
  constructor(article) {
    this.article = article;
    this.kind = article.dataset.kind;
    this.title = article.querySelector("h2").firstChild.textContent.trim();
    this.text = article.querySelector(".said");
    this.tokens = [];
    this.listen();
  }

  /** Streams an answer into the page; how it ended: "done", "stopped", or the error. */
  async run(request, signal) {
    this.clear(signal);
    try {
      for await (const chunk of streamAnswer(request, signal)) {
        signal.throwIfAborted();
        this.add(chunk);
      }
      return this.end("done");
    } catch (error) {
      if (this.signal !== signal) return "stopped"; // the next run has taken the place over
      if (!signal.aborted) this.showError(error);
      return this.end(signal.aborted ? "stopped" : error);
    }
  }

  clear(signal) {
    this.signal = signal;
    if (this.tokens.includes(current)) forgetDetails();
    this.tokens = [];
    this.figures = { started: performance.now() };
    this.sda = {};
    this.usage = null;
    this.finish = null;
    for (const text of this.article.querySelectorAll(".text, .figures, .warnings")) text.replaceChildren();
    for (const part of this.article.querySelectorAll(".thought, .error, .warnings, .rated")) part.hidden = true;
    this.article.setAttribute("aria-busy", "true");
    this.writing = this.text;
  }

  /** One chunk of the stream. The last one with a choice has SDA's figures, and the very last one the usage. */
  add({ choices, sda, usage }) {
    const { delta = {}, finish_reason: finish } = choices?.[0] ?? {};
    if (finish) this.finish = finish;
    if (delta.reasoning_content) this.writing = this.thought();
    else if (delta.content) this.writing = this.text;
    const trace = sda?.trace ?? [];
    const said = delta.reasoning_content || delta.content;
    if (trace.length) trace.forEach((token) => this.addToken(token));
    else if (said) this.writing.append(said);
    if (trace.length || said) this.countTime(trace.length);
    if (usage) this.usage = usage;
    const { trace: _trace, token_ids: _ids, ...figures } = sda ?? {};
    Object.assign(this.sda, figures);
  }

  /** Where thoughts go: above the answer, and only shown if there are any. */
  thought() {
    const part = this.article.querySelector(".thought");
    part.hidden = false;
    return part.querySelector(".text");
  }

  addToken(token) {
    const element = tokenElement(token);
    shown.set(element, { token, answer: this, index: this.tokens.length });
    this.tokens.push(element);
    if (this.tokens.length === 1) this.makeReachable(element);
    this.writing.append(element);
  }

  countTime(tokens) {
    const now = performance.now();
    this.figures.first ??= { at: now, tokens };
    this.figures.last = now;
  }

  end(how) {
    const last = this.tokens.at(-1);
    if (how === "done" && last?.classList.contains("blank")) last.classList.replace("blank", "end");
    this.article.removeAttribute("aria-busy");
    this.showFigures();
    this.showWarnings(this.sda.warnings ?? []);
    if (this.sda.base_response) this.showRated(this.sda.base_response);
    return how;
  }

  showError(error) {
    const part = this.article.querySelector(".error");
    part.textContent = error instanceof ServerError ? error.message : `This page could not show the answer: ${error.message}`;
    part.hidden = false;
  }

  showFigures() {
    const rows = figuresOf(this).map(([name, ...values]) => makeFigure(name, ...values));
    this.article.querySelector("dl.figures").replaceChildren(...rows);
  }

  showWarnings(warnings) {
    const part = this.article.querySelector(".warnings");
    part.replaceChildren(...warnings.map((warning) => make("li", "", warningInWords(warning))));
    part.hidden = !warnings.length;
  }

  showRated(response) {
    const part = this.article.querySelector(".rated");
    part.querySelector(".text").textContent = response;
    part.hidden = false;
  }

  // One token of an answer is a tab stop, and the arrow keys move it: hundreds of stops would be a trap

  makeReachable(element) {
    this.reachable?.removeAttribute("tabindex");
    this.reachable = element;
    element.tabIndex = 0;
  }

  focusToken(element) {
    if (!element) return;
    this.makeReachable(element);
    element.focus({ preventScroll: true });
    showDetails(element, { aloud: true });
    element.scrollIntoView({ block: "nearest" }); // after the panel has opened, which could lie over it
  }

  listen() {
    const tokenOf = ({ target }) => target.closest(".t");
    this.article.addEventListener("pointerover", (event) => {
      if (tokenOf(event)) showDetails(tokenOf(event));
    });
    this.article.addEventListener("click", (event) => this.focusToken(tokenOf(event)));
    this.article.addEventListener("focusin", (event) => {
      if (tokenOf(event)) showDetails(tokenOf(event), { aloud: true });
    });
    this.article.addEventListener("keydown", (event) => {
      if (tokenOf(event)) this.moveBy(event);
    });
  }

  moveBy(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const { index } = shown.get(event.target);
    const places = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: this.tokens.length - 1 };
    if (!(event.key in places)) return;
    event.preventDefault();
    this.focusToken(this.tokens[places[event.key]]);
  }
}

/** An answer's figures: a name and what to show, each. Those that it does not have are left out. */
function figuresOf({ kind, sda, usage, finish, figures, tokens }) {
  const { started, first, last } = figures;
  const rows = [];
  const add = (name, value, ...words) => value != null && rows.push([name, ...words]);
  if (kind !== "plain") {
    add("Strength", sda.strength, figure(sda.strength, 2));
    add("Amplification", sda.amplification, figure(sda.amplification));
    add("Mean divergence", sda.mean_divergence, `${figure(sda.mean_divergence)} nats`);
  }
  if (first) {
    const rated = (sda.base_response_tokens ?? 0) + (sda.dropped_tokens ?? 0); // which the usage counts, too
    const count = tokens.length || (usage?.completion_tokens ?? 0) - rated;
    const rate = (1000 * (count - first.tokens)) / (last - first.at);
    add("Tokens", count, finish === "length" ? `${count}, cut off` : String(count));
    if (rated) add("Base response", rated, `${rated} tokens`);
    add("First token", first.at, seconds(first.at - started));
    if (Number.isFinite(rate) && rate > 0) add("Tokens per second", rate, figure(rate, 1));
  }
  if (kind !== "plain") add("Score", sda.score, ...scoreInWords(sda.score));
  return rows;
}

/** A score, who gave it, and why. One that is null but for its fallback was never given. */
function scoreInWords(score) {
  const { value, evaluator, reason, fallback } = score ?? {};
  const words = [value == null ? "none" : `${figure(value, 1)} of 100`];
  const about = [evaluator && `by ${evaluator}`, fallback && `fallback: ${fallback}`, reason].filter(Boolean);
  if (about.length) words.push(" ", make("small", "", about.join("; ")));
  return words;
}

/** What the guard saw, in the words of `Trace.warnings`. */
function warningInWords({ kind, place, detail, strength, new_strength: lowered }) {
  const change = lowered == null ? "" : `, lowered to ${figure(lowered)}`;
  return `${kind} at token ${place + 1}: ${detail} (strength ${figure(strength)}${change})`;
}

function seconds(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
