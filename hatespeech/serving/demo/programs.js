// The request on the page as a program, with the token where a program has it: outside.

/** Return a JSON value as Python writes it. */
function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each)}`);
    return `{${pairs.join(", ")}}`;
  }
  return JSON.stringify(value); // a string or a number is the same in both
}

/** Return a string as one word of a shell. */
function word(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return the request as a program in a language. `url` is that of POST /score. */
export function program(language, url, body, needsToken) {
  const json = JSON.stringify(body);
  const ifToken = (code) => (needsToken ? code : "");
  if (language === "curl") {
    return `curl -sS ${word(url)} ${ifToken('-H "X-API-Key: $TOKEN" ')}\\
  -H 'Content-Type: application/json' --data-binary ${word(json)}`;
  }
  if (language === "python") {
    const headers = ifToken('\n    headers={"X-API-Key": os.environ["TOKEN"]},');
    return `import json${ifToken(", os")}, requests

reply = requests.post(
    ${python(url)},${headers}
    json=${python(body)},
    timeout=60,
)
reply.raise_for_status()
print(json.dumps(reply.json(), indent=2))`;
  }
  const header = ifToken(', "X-API-Key": process.env.TOKEN');
  return `const reply = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: { "Content-Type": "application/json"${header} },
  body: JSON.stringify(${json}),
});
if (!reply.ok) throw new Error((await reply.json()).error);
console.log(JSON.stringify(await reply.json(), null, 2));`;
}
