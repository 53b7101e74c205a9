// A client of the HTTP server for Node 20, Deno, Bun and browsers, without a dependency.
//
//   import { Scorer } from "./http_client.mjs";
//   const scorer = new Scorer("http://127.0.0.1:8000", process.env.BEARER_TOKEN);
//   const items = await scorer.score(["good morning", "win a free phone now"]);
//
//   BEARER_TOKEN=… node http_client.mjs http://127.0.0.1:8000 < texts.txt    prints a line of JSON each

const AGAIN = new Set([429, 503]); // the server is busy or starts: a later attempt may succeed
const BATCH = 100; // texts in a request, at most MAX_TEXTS_PER_REQUEST
const ATTEMPTS = 8;
const LONGEST_PAUSE = 30_000; // milliseconds

/** The service refuses the request. `type` is its error_type, such as "validation". */
export class ScoringError extends Error {
  constructor(status, type, message) {
    super(message);
    Object.assign(this, { name: "ScoringError", status, type });
  }
}

export class Scorer {
  constructor(url, token, { timeout = 60_000 } = {}) {
    Object.assign(this, { url: url.replace(/\/$/, ""), token, timeout });
  }

  /** Score any number of texts. Returns an item for each: scores, or an `error` of its own. */
  async score(texts, options = {}) {
    const items = [];
    for (let i = 0; i < texts.length; i += BATCH) {
      const body = { ...options, texts: texts.slice(i, i + BATCH) };
      items.push(...(await this.#post("/score", body)).items);
    }
    return items;
  }

  /** Scoring twice does no harm, so every failure that may pass is tried again. */
  async #post(path, body) {
    for (let attempt = 1; ; attempt++) {
      const reply = await this.#send(path, body).catch((reason) => reason);
      if (reply.ok) return reply.json();
      const refused = reply instanceof Response;
      if (attempt === ATTEMPTS || (refused && !AGAIN.has(reply.status))) throw await failure(reply);
      const told = refused ? Number(reply.headers.get("Retry-After")) * 1000 : 0;
      const pause = Math.min(told || 2 ** attempt * 100 * (0.5 + Math.random()), LONGEST_PAUSE);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  #send(path, body) {
    return fetch(this.url + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${this.token}` },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(this.timeout),
    });
  }
}

/** Return the error to throw for a refusal, or for a connection that failed. */
async function failure(reply) {
  if (!(reply instanceof Response)) return reply;
  const { error, error_type } = await reply.json().catch(() => ({}));
  return new ScoringError(reply.status, error_type, error ?? `HTTP ${reply.status}`);
}

if (globalThis.process?.argv[1]?.endsWith("http_client.mjs")) {
  const { text } = await import("node:stream/consumers");
  const texts = (await text(process.stdin)).split("\n").filter((line) => line.trim() !== "");
  const scorer = new Scorer(process.argv[2] ?? "http://127.0.0.1:8000", process.env.BEARER_TOKEN);
  for (const item of await scorer.score(texts)) console.log(JSON.stringify(item));
}
