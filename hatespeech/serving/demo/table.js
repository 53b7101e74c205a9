// Many scored texts as a table that can be sorted and saved.

import { cell, LABELS, make, percent } from "./items.js";

const SCORES = [...LABELS, "toxic"];
const COLUMNS = ["#", "text", "label", ...SCORES];
const SORTABLE = new Set(["#", "label", ...SCORES]);

/** Return the four probabilities as one bar of four colours, with a text for screen readers. */
function stacked(item) {
  const said = LABELS.map((label) => `${label} ${percent(item[label])}`).join(", ");
  const bar = make("span", { className: "stacked", role: "img", ariaLabel: said, title: said });
  for (const label of LABELS) {
    const part = make("span");
    part.dataset.label = label;
    part.style.setProperty("width", `${item[label] * 100}%`);
    bar.append(part);
  }
  return bar;
}

/** Return a row; one that was not scored has no numbers. */
function row(item, index) {
  const scored = !("error" in item);
  const said = [];
  if (scored) said.push(make("strong", { className: "winner", textContent: item.label }), stacked(item));
  if (item.flagged?.length) {
    said.push(make("span", { className: "hint", textContent: `flagged: ${item.flagged.join(", ")}` }));
  }
  const shown = make(
    "tr",
    {},
    make("th", { scope: "row", textContent: index + 1 }),
    make("td", { className: "of-text" }, ...cell(item)),
    make("td", { className: "of-label" }, ...said),
    ...SCORES.map((name) =>
      make("td", { className: `number of-${name}`, textContent: scored ? percent(item[name]) : "" }),
    ),
  );
  if (scored) shown.dataset.label = item.label;
  return shown;
}

/** Return a table of all items, which sorts itself when a column's head is pressed. */
export function table(items) {
  const body = make("tbody");
  const rows = items.map((item, index) => ({ item, index, shown: row(item, index) }));
  const heads = COLUMNS.map((name) => make("th", { scope: "col" }));

  function sort(column, descending) {
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => {
      if (column === "#") return sign * (a.index - b.index);
      const [one, other] = [a.item[column], b.item[column]];
      // Texts that were not scored have nothing to compare. They come last in both directions.
      if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
      return sign * (one > other ? 1 : one < other ? -1 : 0) || a.index - b.index;
    });
    body.replaceChildren(...rows.map(({ shown }) => shown));
    COLUMNS.forEach((name, i) => {
      heads[i].ariaSort = name === column ? (descending ? "descending" : "ascending") : null;
    });
  }

  COLUMNS.forEach((name, i) => {
    if (SCORES.includes(name)) heads[i].className = `number of-${name}`;
    if (!SORTABLE.has(name)) {
      heads[i].textContent = name;
      return;
    }
    const press = make("button", { type: "button", textContent: name, title: `Sort by ${name}` });
    press.addEventListener("click", () => {
      const first = SCORES.includes(name) ? "descending" : "ascending"; // what one looks for
      const again = heads[i].ariaSort === first;
      sort(name, (first === "descending") !== again);
    });
    heads[i].append(press);
  });
  sort("#", false);
  const caption = make("caption", { textContent: "Press a column's name to sort by it." });
  const shown = make("table", {}, caption, make("thead", {}, make("tr", {}, ...heads)), body);
  return make("div", { className: "card scrolls", tabIndex: 0, role: "group", ariaLabel: "Table" }, shown);
}

/** Return the items as CSV (RFC 4180) for a spreadsheet, in the order sent. */
export function csv(items) {
  const names = ["text", ...SCORES, "label", "flagged", "error"];
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  // A spreadsheet would run a text that begins so as a formula. An apostrophe makes it a text.
  const inert = (value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  const lines = items.map((item) =>
    names.map((name) => quoted(inert([item[name] ?? ""].flat().join(" ")))).join(","),
  );
  return [names.join(","), ...lines, ""].join("\r\n");
}
