
const $ = id => document.getElementById(id);
const read = id => JSON.parse($(id).textContent);
const { weights, vocabulary, unit, lowercase, lineBreak } = read("data");
const UNKNOWN = 0, MOST_NATS = 6;
const MOST_SEEN = 20000;  // characters that are coloured
const ids = new Map(vocabulary.map((entry, id) => [entry, id]));
const bytes = unit === "byte";

// A text as entries of the vocabulary: characters, or bytes as U+0000 to U+00FF.
const entriesOf = text => bytes
  ? Array.from(new TextEncoder().encode(text), byte => String.fromCharCode(byte))
  : [...(lowercase ? text.toLowerCase() : text)];
const idsOf = text => entriesOf(text).map(entry => ids.get(entry) ?? UNKNOWN);

// The text in a field, which knows no other line break than \n.
const textIn = id => $(id).value.replaceAll("\n", lineBreak);

// Groups entries as characters, of which one of bytes may have several. Half of
// a character, as at the end of a text that is being written, is shown as one.
function cellsOf(entries) {
  if (!bytes) return entries.map((text, start) => ({ text, start, end: start + 1 }));
  const cells = [], decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let start = 0;
  entries.forEach((entry, i) => {
    const byte = Uint8Array.of(entry.charCodeAt(0));
    const stream = i < entries.length - 1;
    const text = decoder.decode(byte, { stream });
    if (!text) return;
    cells.push({ text, start, end: i + 1 });
    start = i + 1;
  });
  return cells;
}

// Returns the number of an input, which it sets within its limits.
function numberIn(id) {
  const { value, defaultValue, min, max } = $(id);
  const number = value === "" ? +defaultValue : +value;
  $(id).value = Math.min(Math.max(number, +min), max === "" ? Infinity : +max);
  return +$(id).value;
}

// The worker, and the newest task, which ends the ones before it.
const source = new Blob([read("worker")], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(source));
let number = 0, listener = null;
worker.onmessage = ({ data }) => {
  if (data.task === number) listener?.(data);
};
function ask(kind, values, onResults) {
  number += 1;
  return new Promise(resolve => {
    listener = data => {
      onResults?.(data);
      if (data.done) resolve(data);
    };
    worker.postMessage({ kind, number, ...values });
  });
}

const named = entry => ({ "\n": "line break", " ": "space" })[entry]
  ?? (bytes && entry > "\x7f" ? `byte ${entry.charCodeAt(0).toString(16)}` : entry);
const percent = share => `${(100 * share).toFixed(1)} %`;

// What a person sees of a place: its loss, and the likeliest entries.
function description(entry, { nats, likeliest }, take) {
  const share = percent(Math.exp(-nats));
  const lines = [`${named(entry)}  ${share} (${nats.toFixed(2)} nats)\nmost likely:`];
  return lines.concat(likeliest.map(([id, share]) => {
    const words = `${named(vocabulary[id])}  ${percent(share)}`;
    if (!take || id < 2) return `\n${words}`;
    const button = document.createElement("button");
    button.textContent = words;
    button.addEventListener("click", () => take(id));
    return button;
  }));
}

// Writing. The prefix is shown as it was typed, and read with a line break before
// the first character if it is empty. `shown` counts the entries in `cells`.
const written = { prefix: [], read: [], results: [], cells: [], shown: 0 };
const box = $("box");
const writtenMap = new HeatMap($("written"), box, place => {
  const cell = written.cells[place];
  const result = written.results[cell.start - written.prefix.length];
  if (!result) return null;
  const entry = vocabulary[result.id];
  return description(entry, result, id => takeAnother(cell.start, id));
});
const entriesWritten = () => [
  ...written.prefix,
  ...written.results.map(({ id }) => vocabulary[id]),
];

// Shows what was added; only the cells that may have changed are made anew.
function showWritten() {
  const entries = entriesWritten();
  // A character of bytes has up to four, which may have come apart.
  const kept = Math.max(0, written.cells.findLastIndex(
    cell => cell.end <= written.shown) - 3);
  const begin = written.cells[kept]?.start ?? 0;
  const added = cellsOf(entries.slice(begin)).map(cell =>
    ({ ...cell, start: cell.start + begin, end: cell.end + begin }));
  written.cells = [...written.cells.slice(0, kept), ...added];
  writtenMap.show(added.map(cell => cell.text), kept);
  written.shown = entries.length;
}

async function write(count) {
  const started = performance.now(), before = written.results.length;
  $("speed").textContent = "";
  await ask("write", {
    ids: written.read.concat(written.results.map(({ id }) => id)),
    seed: numberIn("seed"),
    temperature: numberIn("temperature"),
    count,
  }, ({ results }) => {
    written.results.push(...results);
    showWritten();
  });
  const seconds = (performance.now() - started) / 1000;
  const speed = (written.results.length - before) / seconds;
  $("speed").textContent = `${Math.round(speed).toLocaleString()} ${unit}s a second`;
}

let last = "";
function start() {
  const prefix = textIn("prefix");
  const asked = () => JSON.stringify([prefix, ...["temperature", "length", "seed"]
    .map(id => numberIn(id))]);
  // Pressed again, it writes another text.
  if (asked() === last) $("seed").value = numberIn("seed") + 1;
  last = asked();
  written.prefix = entriesOf(prefix);
  const unknown = new Set(written.prefix.filter(entry => !ids.has(entry)));
  $("unknown").textContent = unknown.size
    ? `The model has never seen: ${[...unknown].map(named).join(" ")}` : "";
  // A text without a prefix begins a line.
  written.read = idsOf(prefix || "\n");
  written.results = [];
  written.cells = [];
  written.shown = 0;
  showWritten();
  return write(numberIn("length"));
}

function takeAnother(place, id) {
  const kept = place - written.prefix.length;
  const [nats] = written.results[kept].likeliest
    .filter(([each]) => each === id).map(([, share]) => -Math.log(share));
  const { likeliest } = written.results[kept];
  written.results = [...written.results.slice(0, kept), { id, nats, likeliest }];
  written.shown = place;
  showWritten();
  $("written").focus();
  writtenMap.look(written.cells.findIndex(cell => cell.end > place));
  const rest = numberIn("length") - written.results.length;
  return write(Math.max(rest, 100));
}

const textWritten = () => written.cells.map(cell => cell.text).join("");
$("start").addEventListener("click", start);
$("numbers").addEventListener("keydown", ({ key, target }) => {
  if (key === "Enter" && target.type === "number") start();
});
$("stop").addEventListener("click", () => ask("stop", {}));
$("more").addEventListener("click", () => write(numberIn("length")));
$("copy").addEventListener("click", () => {
  getSelection().selectAllChildren($("written"));
  document.execCommand("copy");  // also where a page may not use the clipboard
});
$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  const saved = bytes
    ? Uint8Array.from(entriesWritten(), entry => entry.charCodeAt(0)) : textWritten();
  link.href = URL.createObjectURL(new Blob([saved]));
  link.download = "text.txt";
  link.click();
});

// Looking.
const seen = { entries: [], cells: [], results: [], ranks: [], painted: 0 };
const seenMap = new HeatMap($("seen"), box, place => {
  const cell = seen.cells[place], result = seen.results[cell.start - 1];
  return result ? description(seen.entries[cell.start], result) : null;
});

async function look() {
  const given = entriesOf(textIn("given")), entries = given.slice(0, MOST_SEEN);
  seen.entries = entries;
  seen.cells = cellsOf(entries);
  seen.results = [];
  seen.ranks = [];
  seen.painted = 0;
  seenMap.show(seen.cells.map(cell => cell.text));
  $("mean").textContent = "";
  $("unit").textContent = "";
  if (entries.length < 2) return ask("stop", {});
  const all = entries.map(entry => ids.get(entry) ?? UNKNOWN);
  await ask("score", { ids: all }, ({ results }) => {
    seen.results.push(...results);
    $("mean").textContent = `${seen.results.length + 1} of ${entries.length}`;
    if ($("colour").value === "loss") paintLosses();
  });
  const mean = seen.results.reduce((sum, { nats }) => sum + nats, 0)
    / seen.results.length;
  $("mean").textContent = `mean loss ${mean.toFixed(4)} nats, `
    + `${(mean / Math.LN2).toFixed(4)} bits per ${unit}`
    + (given.length > MOST_SEEN ? `, of the first ${MOST_SEEN}` : "");
  const { found } = await ask("rank", { series: seriesOf(entries.slice(0, -1)) });
  seen.ranks = found;
  $("rank").max = found.length - 1;
  if ($("colour").value === "unit") paintUnit();
}

// What a unit may follow in a text: numbers that a person can name.
function seriesOf(entries) {
  const series = {
    "the position in the line": [], "the position in the word": [],
    "being inside quotes": [], "being inside brackets": [],
  };
  let column = 0, letters = 0, quoted = 0, depth = 0;
  for (const entry of entries) {
    column = entry === "\n" ? 0 : column + 1;
    letters = /[\p{L}\p{N}'\u2019]/u.test(entry) ? letters + 1 : 0;
    if (entry === '"') quoted = 1 - quoted;
    if ("\u201c\u00ab".includes(entry)) quoted = 1;
    if ("\u201d\u00bb".includes(entry)) quoted = 0;
    if ("([{".includes(entry)) depth += 1;
    if (")]}".includes(entry)) depth = Math.max(0, depth - 1);
    [column, letters, quoted, depth].forEach((value, i) =>
      Object.values(series)[i].push(value));
  }
  return series;
}

// Paints the cells that are scored, from the first one that is not painted.
function paintLosses() {
  const { cells, results } = seen;
  for (; cells[seen.painted]?.end <= results.length + 1; seen.painted++) {
    const { start, end } = cells[seen.painted];
    const nats = results.slice(Math.max(0, start - 1), end - 1)
      .reduce((sum, result) => sum + result.nats, 0);
    seenMap.paint(seen.painted, start ? nats / MOST_NATS : 0);
  }
}

async function paintUnit() {
  const rank = seen.ranks[+$("rank").value];
  if (!rank) return;
  const { layer, unit: index, name, r } = rank;
  // In a short text any unit follows something.
  const follows = Math.abs(r) > 0.3 && seen.entries.length > 50;
  $("unit").textContent = `${index} of layer ${layer + 1}`
    + (follows ? `, follows ${name} (correlation ${r.toFixed(2)})` : "");
  const { values } = await ask("unit", { layer, unit: index });
  seen.cells.forEach(({ end }, i) => seenMap.paint(i, values[end - 1] ?? 0));
}

let typing = 0;
$("given").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(look, 300);
});
const colour = () => {
  const byUnit = $("colour").value === "unit";
  $("which").hidden = !byUnit;
  seen.painted = 0;
  if (byUnit) paintUnit();
  else paintLosses();
};
$("colour").addEventListener("change", colour);
$("rank").addEventListener("input", paintUnit);

for (const name of ["write", "look"]) {
  $(`${name}-tab`).addEventListener("click", () => {
    for (const each of ["write", "look"]) {
      $(each).hidden = each !== name;
      $(`${each}-tab`).setAttribute("aria-selected", each === name);
    }
    [writtenMap, seenMap].forEach(map => map.look(-1));
    if (name !== "look") return;
    $("given").value ||= textWritten();
    // Also where writing has ended an earlier look.
    if (!seen.ranks.length) look();
  });
}

ask("load", { weights }).then(() => {
  for (const id of ["start", "stop", "more"]) $(id).disabled = false;
  start();
});
