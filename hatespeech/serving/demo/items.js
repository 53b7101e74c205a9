// Shows one scored text: its shaded words, its bars, and what else the reply says of it.

export const LABELS = ["hate", "abusing", "neutral", "spam"];
// What each warning means, in the order of the reply.
export const WARNINGS = {
  unread: "The model can't read most of this text. The scores say nothing about it.",
  language: "This text is in a language that the model was not trained on. Do not rely on the scores.",
};
// What the service's errors are about, if not a text.
const SUBJECTS = { body: "the request", texts: "the list" };
// The influence, on a score from 0 to 1, that gets the full shade if no word has a stronger one. So
// weak influences do not look strong when there are only weak ones.
const FULL_SHADE = 0.05;
const LEAST_SHADE = 0.1; // of the full shade; a weaker word is not shaded
const NAMED_WORDS = 3;

/** Make an element with properties (not attributes) and children: nodes, or strings as text. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Format a probability in percent; 0 and 100 only if it is exactly that. */
export function percent(probability) {
  if (probability > 0 && probability < 0.0005) return "< 0.1 %";
  if (probability < 1 && probability >= 0.9995) return "> 99.9 %";
  return `${(probability * 100).toFixed(1)} %`;
}

/** Format an influence in percentage points, with its sign. */
function points(influence) {
  return `${influence < 0 ? "−" : "+"}${Math.abs(influence * 100).toFixed(1)}`;
}

/** Return which score the words are shaded by: what a moderator looks for, or spam in spam. */
function shadedScore(item) {
  return item.label === "spam" ? "spam" : "toxic";
}

/** Return the text with its words shaded by how much of that score they carry. */
export function shadedText(item) {
  // Offsets are code points; indices of a string are UTF-16 code units.
  const characters = Array.from(item.text);
  const cut = (from, to) => characters.slice(from, to).join("");
  const [from, to] = item.window ?? [0, characters.length];
  const words = item.words ?? [];
  const score = shadedScore(item);
  const scale = Math.max(FULL_SHADE, ...words.map((word) => Math.abs(word[score])));
  const shown = make("p", { className: "text", dir: "auto" });
  if (from > 0) shown.append(make("span", { className: "outside" }, cut(0, from)));
  let at = from;
  for (const word of words) {
    const influence = word[score];
    const strength = Math.abs(influence) / scale;
    shown.append(cut(at, word.start));
    at = word.end;
    if (strength < LEAST_SHADE) {
      shown.append(cut(word.start, word.end));
      continue;
    }
    const mark = make(
      "mark",
      { className: influence < 0 ? "against" : "for", title: `${score} ${points(influence)}` },
      cut(word.start, word.end),
    );
    mark.style.setProperty("--strength", strength.toFixed(3));
    shown.append(mark);
  }
  shown.append(cut(at, to));
  if (to < characters.length) {
    shown.append(make("span", { className: "outside" }, cut(to)));
  }
  return shown;
}

/** Return one bar for each label; the winner's is marked, and a tick shows a threshold. */
function bars(item, thresholds) {
  const list = make("ul", { className: "bars" });
  for (const label of LABELS) {
    const from = thresholds[label];
    const meter = make("meter", { min: 0, max: 1, value: item[label], ariaLabel: label });
    const flagged = from === undefined ? "" : `, flagged from ${percent(from)}`;
    meter.ariaValueText = percent(item[label]) + flagged;
    const track = make("span", { className: "track" }, meter);
    if (from !== undefined) {
      const tick = make("span", { className: "tick", title: `flagged from ${percent(from)}` });
      tick.style.setProperty("left", `${from * 100}%`);
      track.append(tick);
    }
    const row = make(
      "li",
      { className: label === item.label ? "won" : "" },
      make("span", { textContent: label, ariaHidden: "true" }), // the meter says it
      track,
      make("output", { textContent: percent(item[label]), ariaHidden: "true" }),
    );
    row.dataset.label = label;
    list.append(row);
  }
  return list;
}

/** Name the strongest words, for people who cannot see the shades. */
function strongestWords(item) {
  const score = shadedScore(item);
  const side = (sign) =>
    item.words
      .filter((word) => word[score] * sign >= 0.0005) // smaller ones would show as 0.0
      .sort((a, b) => (b[score] - a[score]) * sign)
      .slice(0, NAMED_WORDS)
      .map((word) => `“\u2068${word.word}\u2069” ${points(word[score])}`) // any direction
      .join(", ") || "no word";
  const said = `Raised by: ${side(1)}. Lowered by: ${side(-1)}.`;
  return make("p", {
    className: "words",
    textContent: `Percentage points of ${score}. ${said}`,
  });
}

/** Return what the reply warns of, as paragraphs. */
function warnings(item) {
  return (item.warnings ?? []).map((code) =>
    make("p", { className: "warning", textContent: WARNINGS[code] ?? code }),
  );
}

/** Return what was flagged, in words, if thresholds were given. */
function flags(item) {
  if (item.flagged === undefined) return [];
  const names = item.flagged.length === 0 ? "nothing" : item.flagged.join(", ");
  return [make("p", { className: "flags", textContent: `Flagged: ${names}` })];
}

/** Return what is said about a text beside its scores. */
export function remarks(item) {
  const said = [];
  if (item.read_as === "folded") {
    const told = "This text is disguised. The scores are those of what it spells.";
    said.push(make("p", { className: "read-as", textContent: told }));
  }
  if (item.windows > 1) {
    const [from, to] = item.window;
    const told =
      `This text is too long to be read in one piece. It has ${item.windows} overlapping windows; ` +
      `the scores are those of the least neutral one: characters ${from + 1} to ${to}.`;
    said.push(make("p", { className: "windows", textContent: told }));
  }
  return said;
}

/** Return the JSON of a reply, folded away. */
export function behind(reply) {
  const json = make("pre", { textContent: JSON.stringify(reply, null, 2), tabIndex: 0 });
  return make("details", {}, make("summary", { textContent: "JSON" }), json);
}

/** Return an element that shows the reply to one text, and the thresholds it was flagged by. */
export function result(item, thresholds) {
  const shown = make("article", { className: "card result" });
  shown.dataset.label = item.label;
  const winner = make("strong", { className: "winner", textContent: item.label });
  const from = thresholds.toxic === undefined ? "" : ` (flagged from ${percent(thresholds.toxic)})`;
  const toxic = make("p", {
    className: "toxic",
    textContent: `toxic, the sum of hate and abusing: ${percent(item.toxic)}${from}`,
  });
  // Warnings come before the scores, so that nobody reads those first.
  shown.append(shadedText(item), ...warnings(item), winner, bars(item, thresholds), toxic);
  shown.append(...flags(item));
  if (item.words) shown.append(strongestWords(item));
  shown.append(...remarks(item), behind(item));
  return shown;
}

/** Return what the text's cell of a table holds. */
export function cell(item) {
  if ("error" in item) {
    const text = make("p", { className: "text", dir: "auto", textContent: item.text });
    return [text, make("p", { className: "wrong", textContent: inWords(item.error) })];
  }
  return [shadedText(item), ...warnings(item), ...remarks(item)];
}

/** Return an error in a person's words: the service's own say a place instead of a subject. */
export function inWords(error) {
  const found = /^(?:[a-z_]+: )?(text|texts|texts\[\d+\]|body): (.*)$/s.exec(error);
  if (found === null) return `Not scored: ${error}.`;
  const [, place, said] = found;
  return `Not scored: ${SUBJECTS[place] ?? "the text"} ${said}.`;
}
