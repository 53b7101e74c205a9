// The page of GET /demo: sends the text to POST /score and shows the reply.
//
// The page's Content-Security-Policy forbids style attributes and markup made from strings, so text
// is inserted as text and shades are set through the element's style object. The token is read from
// its field for every request and stored nowhere else.

import { behind, inWords, LABELS, make, percent, result, WARNINGS } from "./items.js";
import { program } from "./programs.js";
import { csv, table } from "./table.js";

const [form, text, explain, robust, token, submit, stop] = byIds(
  "form", "text", "explain", "robust", "token", "submit", "stop",
);
const [status, error, results, title, legend, items, facts] = byIds(
  "status", "error", "results", "results-title", "legend", "items", "facts",
);
const [signIn, accepted, thresholds, own, download, code, copied] = byIds(
  "sign-in", "accepted", "thresholds", "own", "download", "program", "copied",
);
const [trial, loading] = byIds("trial", "loading");
const LOOK_AGAIN_MS = 2000;
const FIELDS = { token, text, thresholds }; // each has a place for an error beside it

let running = null; // the AbortController of the current request
let shown = null; // the items on the page, and the request that brought them

function byIds(...ids) {
  return ids.map((id) => document.getElementById(id));
}

/** An error that is shown beside a field, by default the one that it is about. */
class FieldError extends Error {
  constructor(about, message, field = FIELDS[about]) {
    super(message);
    this.place = document.getElementById(`${about}-error`);
    this.field = field;
  }
}

/** Describe the reply in one line, for the status that screen readers announce. */
function summary(replies, many) {
  if (!many) {
    const [item] = replies;
    const warnings = (item.warnings ?? []).map((each) => ` ${WARNINGS[each]}`).join("");
    return `${item.label}, ${percent(item[item.label])}${warnings && "."}${warnings}`;
  }
  const counts = LABELS.map((label) => [label, replies.filter((r) => r.label === label).length]);
  counts.push(["with a warning", replies.filter((reply) => reply.warnings).length]);
  counts.push(["not scored", replies.filter((reply) => "error" in reply).length]);
  const named = counts.filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`);
  return `${replies.length} ${replies.length === 1 ? "text" : "texts"}: ${named.join(", ")}`;
}

/** Return the thresholds of the request: a name, numbers, or none. */
function chosenThresholds() {
  if (thresholds.value !== "own") return thresholds.value || undefined;
  const numbers = {};
  for (const field of own.querySelectorAll("input")) {
    if (field.validity.badInput || field.validity.rangeOverflow || field.validity.rangeUnderflow) {
      const told = `The threshold of ${field.dataset.flag} must be a number from 0 to 1.`;
      throw new FieldError("thresholds", told, field);
    }
    if (field.value !== "") numbers[field.dataset.flag] = field.valueAsNumber;
  }
  return numbers;
}

/** Return the request's body: the text as it is, or its lines that are not empty. */
function body() {
  const many = form.elements.mode.value === "many";
  const texts = text.value.split("\n").filter((line) => line.trim() !== "");
  if (texts.length === 0) throw new FieldError("text", "Type a text first.");
  const flags = chosenThresholds();
  return {
    ...(many ? { texts } : { text: text.value }),
    explain: explain.checked,
    ...(robust.checked && { robust: true }), // without it the service's own setting applies
    ...(flags !== undefined && { thresholds: flags }),
  };
}

/** Return what a refusal means in a person's words, and which field it is about. */
function refusal(response, reply) {
  const said = reply?.error;
  if (said === undefined) {
    return new Error(`The reply (${response.status}) is not from this service, but perhaps from a proxy.`);
  }
  const wait = response.headers.get("Retry-After") ?? "";
  const later = /^\d+$/.test(wait) ? `Try again in ${wait} s.` : "Try again later.";
  switch (response.status) {
    case 401: {
      const given = token.value.trim() !== "";
      const told = given ? "This token is not accepted." : "Give the token of this service first.";
      return new FieldError("token", told);
    }
    case 429:
      return new Error(
        reply.error_type === "rate_limited"
          ? `You have sent as much as one token may for now. ${later}`
          : `The service has more to do than it can. ${later}`,
      );
    case 503:
      return new Error(`The service can't score now: ${said}. ${later}`);
    case 413:
    case 422: {
      const about = said.startsWith("thresholds") ? "thresholds" : "text";
      return new FieldError(about, inWords(said));
    }
    default: {
      const refused = response.status < 500;
      const told = refused ? "The service refuses this" : "The service failed";
      return new Error(`${told} (${response.status}): ${said}.`);
    }
  }
}

/** Call the service; return its reply, or throw an Error that can be shown. */
async function ask(request, signal) {
  const headers = { "Content-Type": "application/json" };
  const secret = token.value.trim();
  if (!/^[\x21-\x7e]*$/.test(secret)) {
    throw new FieldError("token", "A token has only visible ASCII characters.");
  }
  if (secret !== "") headers["X-API-Key"] = secret;
  const options = { method: "POST", headers, body: JSON.stringify(request), signal };
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
  if (!response.ok || reply === null) throw refusal(response, reply);
  return reply;
}

function show(reply, request) {
  const many = "items" in reply;
  const replies = many ? reply.items : [reply];
  const numbers = reply.thresholds ?? (typeof request.thresholds === "object" ? request.thresholds : {});
  items.replaceChildren(...(many ? [table(replies), behind(reply)] : [result(reply, numbers)]));
  title.textContent = many ? "Results" : "Result";
  legend.hidden = items.querySelector("mark") === null;
  facts.textContent = `Model ${reply.model}, ${Math.round(reply.timing.compute_ms)} ms`;
  shown = { replies, request };
  download.hidden = !many;
  showProgram(null);
  results.hidden = false;
  status.textContent = summary(replies, many);
  accepted.hidden = token.value.trim() === "";
  signIn.open = false;
}

/** Show an error beside its field, or below the form. */
function complain(reason) {
  const { field, place = error } = reason;
  place.textContent = reason.message;
  place.hidden = false;
  if (field === undefined) return;
  if (field === token) {
    signIn.open = true;
    accepted.hidden = true;
  }
  field.ariaInvalid = "true";
  field.focus();
}

function forgetComplaints() {
  for (const place of [error, ...form.querySelectorAll(".wrong")]) {
    place.textContent = "";
    place.hidden = true;
  }
  for (const field of form.querySelectorAll("[aria-invalid]")) field.ariaInvalid = null;
}

async function score(event) {
  event.preventDefault();
  if (running !== null) return;
  running = new AbortController();
  const { signal } = running;
  // Never show the result of another request.
  results.hidden = true;
  items.replaceChildren();
  forgetComplaints();
  status.textContent = "Scoring …";
  submit.ariaDisabled = "true";
  stop.hidden = false;
  try {
    const request = body();
    show(await ask(request, signal), request);
  } catch (reason) {
    status.textContent = signal.aborted ? "Stopped." : "";
    if (!signal.aborted) complain(reason);
  } finally {
    running = null;
    submit.ariaDisabled = null;
    if (document.activeElement === stop) submit.focus();
    stop.hidden = true;
  }
}

/** Show the request in a language and copy it, where the browser lets a page do that. */
async function showProgram(language) {
  for (const button of document.querySelectorAll("button[data-language]")) {
    button.ariaPressed = String(button.dataset.language === language);
  }
  copied.textContent = "";
  code.hidden = language === null;
  code.textContent = "";
  if (language === null) return;
  const needsToken = !signIn.hidden;
  const url = new URL("score", document.baseURI).href;
  code.textContent = program(language, url, shown.request, needsToken);
  const told = needsToken ? "Set the environment variable TOKEN first." : "";
  try {
    await navigator.clipboard.writeText(code.textContent);
    copied.textContent = `Copied. ${told}`;
  } catch {
    copied.textContent = told; // a page may copy over https and on this machine only
  }
}

function save() {
  const file = new Blob(["\ufeff", csv(shown.replies)], { type: "text/csv" }); // Excel needs the mark
  const link = make("a", { href: URL.createObjectURL(file), download: "scores.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Say whether the model is for trying only, and whether it is still being loaded. */
async function lookAtHealth() {
  const reply = await fetch("health", { cache: "no-store" }).catch(() => null);
  const health = await reply?.json().catch(() => null);
  trial.hidden = !health?.embedded;
  loading.hidden = health?.status !== "loading";
  if (!loading.hidden) setTimeout(lookAtHealth, LOOK_AGAIN_MS);
}

form.addEventListener("submit", score);
stop.addEventListener("click", () => running?.abort());
download.addEventListener("click", save);
thresholds.addEventListener("change", () => {
  own.hidden = thresholds.value !== "own";
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
for (const button of document.querySelectorAll("button[data-language]")) {
  button.addEventListener("click", () => showProgram(button.dataset.language));
}
for (const example of document.querySelectorAll("button[data-text]")) {
  example.addEventListener("click", () => {
    text.value = example.dataset.text;
    form.elements.mode.value = "one";
    if ("robust" in example.dataset) robust.checked = true;
    form.requestSubmit();
  });
}
lookAtHealth();
