// The page of GET /demo: sends the text to POST /score and shows the reply.
//
// The page's Content-Security-Policy forbids style attributes and markup made from strings, so text
// is inserted as text and shades are set through the element's style object. The token is read from
// its field for every request and stored nowhere else.

const LABELS = ["hate", "abusing", "neutral", "spam"];
// Headings by status, before the service's own message.
const TITLES = {
  401: "Token needed",
  413: "Too large",
  422: "Not accepted",
  429: "Too many requests",
  503: "Not ready",
};
// What each warning means, in the order of the reply.
const WARNINGS = {
  unread: "The model can't read most of this text. The scores say nothing about it.",
  language: "This text is in a language that the model was not trained on. Do not rely on the scores.",
};
// The influence, on a score from 0 to 1, that gets the full shade if no word has a stronger one. So
// weak influences do not look strong when there are only weak ones.
const FULL_SHADE = 0.05;
const LEAST_SHADE = 0.1; // of the full shade; a weaker word is not shaded
const NAMED_WORDS = 3;

const [form, text, explain, robust, token, submit, stop] = byIds(
  "form", "text", "explain", "robust", "token", "submit", "stop",
);
const [status, error, results, title, legend, items, facts] = byIds(
  "status", "error", "results", "results-title", "legend", "items", "facts",
);

let running = null; // the AbortController of the current request

function byIds(...ids) {
  return ids.map((id) => document.getElementById(id));
}

/** Make an element with properties (not attributes) and children: nodes, or strings as text. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Format a probability in percent; 0 and 100 only if it is exactly that. */
function percent(probability) {
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
function shadedText(item) {
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

/** Return one bar for each label; the winner's is marked. */
function bars(item) {
  const list = make("ul", { className: "bars" });
  for (const label of LABELS) {
    const meter = make("meter", { min: 0, max: 1, value: item[label], ariaLabel: label });
    meter.ariaValueText = percent(item[label]);
    const row = make(
      "li",
      { className: label === item.label ? "won" : "" },
      make("span", { textContent: label, ariaHidden: "true" }), // the meter says it
      meter,
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

/** Return a list item that shows the reply to one text; `behind` is the JSON to show with it. */
function result(item, behind) {
  const shown = make("li", { className: "card result" });
  if ("error" in item) {
    const text = make("p", { className: "text", dir: "auto", textContent: item.text });
    shown.append(text, make("p", { className: "alert", textContent: item.error }));
  } else {
    shown.dataset.label = item.label;
    const winner = make("strong", { className: "winner", textContent: item.label });
    const toxic = make("p", {
      className: "toxic",
      textContent: `toxic, the sum of hate and abusing: ${percent(item.toxic)}`,
    });
    const warnings = (item.warnings ?? []).map((code) =>
      make("p", { className: "warning", textContent: WARNINGS[code] }),
    );
    // Before the scores, so that nobody reads those first.
    shown.append(shadedText(item), ...warnings, winner, bars(item), toxic);
    if (item.words) shown.append(strongestWords(item));
    if (item.read_as === "folded") {
      shown.append(
        make("p", {
          className: "read-as",
          textContent: "This text is disguised. The scores are those of what it spells.",
        }),
      );
    }
    if (item.windows > 1) {
      const [from, to] = item.window;
      shown.append(
        make("p", {
          className: "windows",
          textContent:
            `This text is too long to be read at once. Of ${item.windows} overlapping windows the ` +
            `least neutral one speaks for it: characters ${from + 1} to ${to}.`,
        }),
      );
    }
  }
  const json = make("pre", { textContent: JSON.stringify(behind, null, 2) });
  shown.append(make("details", {}, make("summary", { textContent: "JSON" }), json));
  return shown;
}

/** Describe the reply in one line, for the status that screen readers announce. */
function summary(replies, many) {
  if (!many) {
    const [item] = replies;
    const warnings = (item.warnings ?? []).map((code) => ` ${WARNINGS[code]}`).join("");
    return `${item.label}, ${percent(item[item.label])}${warnings && "."}${warnings}`;
  }
  const counts = LABELS.map((label) => [label, replies.filter((r) => r.label === label).length]);
  counts.push(["with a warning", replies.filter((reply) => reply.warnings).length]);
  counts.push(["not scored", replies.filter((reply) => "error" in reply).length]);
  const named = counts.filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`);
  return `${replies.length} ${replies.length === 1 ? "text" : "texts"}: ${named.join(", ")}`;
}

/** Return the request's body: the text as it is, or its lines that are not empty. */
function body() {
  // Without the field the service's own setting applies.
  const options = { explain: explain.checked, ...(robust.checked && { robust: true }) };
  if (form.elements.mode.value === "one") return { text: text.value, ...options };
  const texts = text.value.split("\n").filter((line) => line.trim() !== "");
  return { texts, ...options };
}

/** Call the service; return its reply, or throw an Error that can be shown. */
async function ask(signal) {
  const headers = { "Content-Type": "application/json" };
  const secret = token.value.trim();
  if (!/^[\x21-\x7e]*$/.test(secret)) throw new Error("Token: only visible ASCII characters are allowed.");
  if (secret !== "") headers["X-API-Key"] = secret;
  const options = { method: "POST", headers, body: JSON.stringify(body()), signal };
  let response;
  try {
    response = await fetch("score", { ...options, cache: "no-store", redirect: "error" });
  } catch (reason) {
    if (signal.aborted) throw reason;
    throw new Error("The service cannot be reached. Is the network up? Is the server running?");
  }
  const reply = await response.json().catch((reason) => {
    if (signal.aborted) throw reason;
    return null;
  });
  if (response.ok && reply !== null) return reply;
  if (response.status === 401) token.focus();
  const said = reply?.error ?? "the reply is not from this service, but perhaps from a proxy";
  const wait = response.headers.get("Retry-After") ?? "";
  const later = /^\d+$/.test(wait) ? ` Try again in ${wait} s.` : "";
  const heading = TITLES[response.status] ?? "Failed";
  throw new Error(`${heading} (${response.status}): ${said}.${later}`);
}

function show(reply) {
  const many = "items" in reply;
  const replies = many ? reply.items : [reply];
  items.replaceChildren(...replies.map((item) => result(item, item)));
  title.textContent = many ? "Results" : "Result";
  legend.hidden = items.querySelector("mark") === null;
  facts.textContent = `Model ${reply.model}, ${Math.round(reply.timing.compute_ms)} ms`;
  results.hidden = false;
  status.textContent = summary(replies, many);
}

async function score(event) {
  event.preventDefault();
  if (running !== null) return;
  running = new AbortController();
  const { signal } = running;
  // Never show the result of another request.
  results.hidden = error.hidden = true;
  items.replaceChildren();
  error.textContent = "";
  status.textContent = "Scoring …";
  submit.ariaDisabled = "true";
  stop.hidden = false;
  try {
    show(await ask(signal));
  } catch (reason) {
    status.textContent = signal.aborted ? "Stopped." : "";
    error.textContent = signal.aborted ? "" : reason.message;
    error.hidden = signal.aborted;
  } finally {
    running = null;
    submit.ariaDisabled = null;
    if (document.activeElement === stop) submit.focus();
    stop.hidden = true;
  }
}

form.addEventListener("submit", score);
stop.addEventListener("click", () => running?.abort());
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
for (const example of document.querySelectorAll("button[data-text]")) {
  example.addEventListener("click", () => {
    text.value = example.dataset.text;
    form.elements.mode.value = "one";
    if ("robust" in example.dataset) robust.checked = true;
    form.requestSubmit();
  });
}
