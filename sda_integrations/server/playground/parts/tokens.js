// The tokens of an answer: text with a shade. Text of a model only ever becomes a text node.

const LN_2 = Math.log(2);

/** What the trace says of the token that an element shows, and where it stands. */
const shown = new WeakMap();

/** A new element with text in it. */
function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The element of one token, shaded by how far the two contexts diverged at its place. */
function tokenElement(token) {
  const element = make("span", "t", token.text);
  element.style.setProperty("--d", shareOfLn2(token.divergence));
  // Without a sign there would be nothing to point at; the end of an answer is its last token, told once it is there
  if (!token.text) element.classList.add("blank");
  else if (/^\s+$/.test(token.text) && token.text.includes("\n")) element.classList.add("line");
  if (token.position === 0) element.classList.add("alone");
  return element;
}

function shareOfLn2(divergence) {
  const share = divergence / LN_2;
  return Number.isFinite(share) ? Math.min(Math.max(share, 0), 1).toFixed(3) : "0";
}

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };

/** A token's text with its white space as signs, and what has no glyph by its code. */
function visible(text) {
  const seen = text.replace(/[ \n\t]/g, (char) => SIGNS[char]);
  return seen.replace(/[\p{C}\p{Z}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

function percent(probability) {
  if (probability > 0 && probability < 0.0005) return "<0.1%";
  return `${(100 * probability).toFixed(1)}%`;
}

/** A figure with as many digits as it is worth, without zeros at its end. */
function figure(value, digits = 3) {
  return Number.isFinite(value) ? String(Number(value.toFixed(digits))) : "–";
}
