// A chart of rows: a line for the mean of a row's runs, a band for their range.
// All but the best rows are grey, until they are pointed at or picked.
const COLORED = 6, MOST_LINES = 10, NS = "http://www.w3.org/2000/svg";
const fixed = value => value.toFixed(4);
// `log` also of distances, so that ticks and points agree.
const scaled = (log, value) => log ? Math.log(value) : value;

// The value of a curve at x, between two of its points; null outside of it.
function at({ xs, ys }, x) {
  const i = xs.findIndex(each => each >= x);
  if (i < 0 || x < xs[0]) return null;
  if (xs[i] === x) return ys[i];
  const share = (x - xs[i - 1]) / (xs[i] - xs[i - 1]);
  return ys[i - 1] + share * (ys[i] - ys[i - 1]);
}

// Curves of several runs as one: their mean, lowest and highest loss where all
// of them have one.
function band(curves) {
  const [first] = curves, points = [];
  for (const x of first.xs) {
    const ys = curves.map(curve => at(curve, x));
    if (ys.includes(null)) continue;
    const y = ys.reduce((sum, each) => sum + each, 0) / ys.length;
    points.push({ x, y, low: Math.min(...ys), high: Math.max(...ys) });
  }
  return points;
}

// About `count` round numbers between two limits.
function ticks(low, high, log, count) {
  const round = [1, 2, 5];
  if (log) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
      for (const digit of round) found.push(digit * 10 ** e);
    }
    const within = found.filter(tick => tick >= low && tick <= high);
    if (within.length > 1) return within;
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [...round, 10].find(digit => digit * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(Number((i * step).toPrecision(10)));
  }
  return found;
}

class Group {
  constructor(section, { rows, part, unit }) {
    Object.assign(this, { rows, part, unit, picked: new Set(), at: -1 });
    this.lines = [...section.querySelectorAll(".settings tbody tr")];
    this.lines.forEach((line, i) => {
      line.tabIndex = 0;
      line.addEventListener("pointerenter", () => this.point(i));
      line.addEventListener("pointerleave", () => this.point(-1));
      line.addEventListener("click", () => this.pick(i));
      line.addEventListener("keydown", event => {
        if (event.key === "Enter") this.pick(i);
      });
    });
    if (rows.length > MOST_LINES + 2) {
      const button = document.createElement("button");
      button.textContent = `all ${rows.length} settings`;
      button.addEventListener("click", () => {
        this.lines.forEach(line => { line.hidden = false; });
        button.remove();
      });
      section.querySelector(".settings").append(button);
      this.lines.slice(MOST_LINES).forEach(line => { line.hidden = true; });
    }
    const place = section.querySelector(".charts");
    this.charts = [];
    if (rows.some(row => row.runs.some(run => run.scored.steps.length))) {
      this.charts.push(new Chart(place, this, ""));
    }
    // An axis of the sweep: a setting of numbers in which alone rows differ.
    for (const name of Object.keys(rows[0]?.settings ?? {})) {
      const others = rows.map(({ settings }) =>
        JSON.stringify({ ...settings, [name]: 0 }));
      const numbers = rows.every(row => !Number.isNaN(Number(row.settings[name])));
      if (numbers && new Set(others).size < rows.length) {
        this.charts.push(new Chart(place, this, name));
      }
    }
    this.draw();
  }

  color(i) {
    const colored = this.picked.size ? this.picked.has(i) : i < COLORED;
    return colored || i === this.at ? `var(--c${i % COLORED})` : null;
  }

  point(i) {
    if (i === this.at) return;
    this.at = i;
    this.draw();
  }

  pick(i) {
    if (!this.picked.delete(i)) this.picked.add(i);
    this.draw();
  }

  draw() {
    this.lines.forEach((line, i) => {
      line.classList.toggle("at", i === this.at);
      line.classList.toggle("unfinished", !this.rows[i].finished);
      line.setAttribute("aria-selected", this.picked.has(i));
      line.style.setProperty("--color", this.color(i) ?? "var(--grey)");
    });
    this.charts.forEach(chart => chart.draw());
  }
}

class Chart {
  constructor(place, group, axis) {
    Object.assign(this, { group, axis, x: axis || "steps", on: new Set() });
    this.root = place.appendChild(document.createElement("div"));
    this.root.className = axis ? "chart" : "chart wide";
    this.root.innerHTML = "<h3></h3><div></div><svg></svg><div class=tip hidden></div>";
    [this.title, this.bar, this.svg, this.tip] = this.root.children;
    this.title.textContent = axis ? `Loss by ${axis}` : "Loss in training";
    if (!axis) {
      for (const name of ["steps", "minutes", "characters"]) {
        this.button(name, () => this.x === name, () => { this.x = name; });
      }
    }
    const toggles = ["log x", "log y"];
    if (!axis) toggles.push("train loss");
    for (const name of toggles) {
      this.button(name, () => this.on.has(name), () => {
        if (!this.on.delete(name)) this.on.add(name);
      });
    }
    if (axis) {
      const values = group.rows.map(row => Number(row.settings[axis]));
      const low = Math.min(...values);
      if (low > 0 && Math.max(...values) / low >= 4) this.on.add("log x");
    } else if (group.rows.length <= 2) this.on.add("train loss");
    // Kept while --follow has the page reloaded.
    const kept = sessionStorage.getItem(`charlm ${axis}`);
    if (kept) {
      const [x, on] = JSON.parse(kept);
      Object.assign(this, { x, on: new Set(on) });
    }
    this.svg.addEventListener("pointermove", event => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("click", () => {
      if (group.at >= 0) group.pick(group.at);
    });
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  button(name, pressed, press) {
    const button = this.bar.appendChild(document.createElement("button"));
    button.textContent = name;
    button.pressed = pressed;
    button.addEventListener("click", () => {
      press();
      const kept = JSON.stringify([this.x, [...this.on]]);
      sessionStorage.setItem(`charlm ${this.axis}`, kept);
      this.draw();
    });
  }

  // A run's curve against the chosen axis.
  curve({ steps, losses, minutes }, perStep) {
    const xs = { steps, minutes, characters: steps.map(step => step * perStep) };
    const kept = xs[this.x].map((x, i) => [x, losses[i]])
      .filter(([x], i, all) => !(this.on.has("log x") && x <= 0)
        && (i === 0 || x > all[i - 1][0]));
    return { xs: kept.map(([x]) => x), ys: kept.map(([, y]) => y) };
  }

  // What is drawn: points of rows, and the lines of single runs to name.
  series() {
    const { rows } = this.group;
    if (!this.axis) {
      return rows.flatMap((row, i) => ["scored", "train"].flatMap(split => {
        const train = split === "train";
        if (train && !(this.on.has("train loss") && this.group.color(i))) return [];
        const runs = row.runs.filter(run => run[split].steps.length)
          .map(run => ({ ...run, ...this.curve(run[split], run.perStep) }));
        if (!runs.length) return [];
        return { row: i, train, runs, points: band(runs), name: row.name };
      }));
    }
    // A line joins the rows that differ in this setting alone.
    const lines = new Map();
    rows.forEach((row, i) => {
      const { [this.axis]: x, ...others } = row.settings;
      const key = JSON.stringify(others), ys = row.runs.map(run => run.loss);
      const point = { row: i, x: Number(x), y: row.loss, low: Math.min(...ys),
        high: Math.max(...ys), name: row.name };
      lines.set(key, [...(lines.get(key) ?? []), point]);
    });
    return [...lines.values()].map(points => ({ points: points.sort((a, b) => a.x - b.x),
      row: Math.min(...points.map(({ row }) => row)), runs: [] }));
  }

  // The part of the plane that is shown.
  limit(all) {
    const points = all.flatMap(({ points }) => points);
    const xs = points.map(({ x }) => x), ys = points.map(({ y }) => y);
    let low = Math.min(...points.map(({ low }) => low));
    let high = Math.max(...points.map(({ high }) => high));
    // The losses of the first steps, or of bad settings, would flatten the rest.
    if (!this.on.has("log y")) {
      const sorted = ys.toSorted((a, b) => a - b);
      const share = this.axis ? 0.9 : 0.7;
      const most = sorted[Math.ceil(share * (sorted.length - 1))];
      high = Math.min(high, most + 0.3 * (most - low) + 0.02);
    }
    const margin = 0.05 * (high - low) || 0.01;
    this.ys = [low - (this.on.has("log y") ? 0 : margin), high + margin];
    const [least, most] = [Math.min(...xs), Math.max(...xs)];
    const pad = this.axis && !this.on.has("log x") ? 0.06 * (most - least) : 0;
    this.xs = [least - pad, most + pad];
    if (this.axis && this.on.has("log x")) {
      const factor = (most / least) ** 0.06;
      this.xs = [least / factor, most * factor];
    }
    if (least === most) this.xs = [least * 0.9, most * 1.1 + 1e-9];
  }

  place(x, y) {
    const share = (value, [low, high], log) =>
      (scaled(log, value) - scaled(log, low)) / (scaled(log, high) - scaled(log, low));
    const { left, right, top, bottom } = this.box;
    return [
      left + (right - left) * share(x, this.xs, this.on.has("log x")),
      bottom - (bottom - top) * share(y, this.ys, this.on.has("log y")),
    ];
  }

  add(name, attributes, text) {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return this.inside.appendChild(node);
  }

  path(points, attributes) {
    const d = points.map(point => this.place(...point).map(v => v.toFixed(1)).join(" "));
    return this.add("path", { d: `M${d.join("L")}`, fill: "none", ...attributes });
  }

  draw() {
    const width = this.root.clientWidth, height = this.axis ? 230 : 330;
    if (!width) return;
    for (const button of this.bar.children) {
      button.setAttribute("aria-pressed", button.pressed());
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.inside = this.svg;
    this.box = { left: 46, right: width - 46, top: 24, bottom: height - 36 };
    this.drawn = this.series();
    this.limit(this.drawn);
    this.svg.replaceChildren();
    this.grid(width, height);
    // A nested SVG clips: what leaves the plane is not drawn.
    const { left, right, top, bottom } = this.box;
    const size = { width: right - left + 12, height: bottom - top + 9 };
    this.inside = this.add("svg", { x: left - 6, y: top - 3, ...size,
      viewBox: `${left - 6} ${top - 3} ${size.width} ${size.height}` });
    // The best row last, on top, and the one that is pointed at above it.
    const order = [...this.drawn].sort((a, b) => b.row - a.row);
    const rank = ({ row }) => (row === this.group.at) + Boolean(this.group.color(row));
    order.sort((a, b) => rank(a) - rank(b)).forEach(each => this.line(each));
    this.inside = this.svg;
    if (this.axis) this.names();
  }

  // Names lines by the one other setting.
  names() {
    const heights = [];
    for (const { points, row } of this.drawn) {
      if (!this.group.color(row)) continue;
      const { [this.axis]: own, ...others } = this.group.rows[row].settings;
      if (Object.keys(others).length !== 1 || points.length < 2) continue;
      const [[name, value]] = Object.entries(others), { x, y } = points.at(-1);
      const [right, height] = this.place(x, y);
      const overlaps = heights.some(other => Math.abs(other - height) < 12);
      if (overlaps || height < this.box.top + 20) continue;
      heights.push(height);
      this.add("text", { x: right - 8, y: height - 8, class: "name", "text-anchor": "end" },
        `${name} ${value}`);
    }
  }

  grid(width, height) {
    const { left, right, top, bottom } = this.box, { unit, part } = this.group;
    const short = value => value >= 1e6 ? `${value / 1e6} M`
      : value >= 1e4 ? `${value / 1e3} k` : String(value);
    const axis = this.axis ? [...new Set(this.group.rows.map(row => Number(row.settings[this.axis])))] : null;
    const some = axis && axis.length <= 8 ? axis : ticks(...this.xs, this.on.has("log x"), width / 110);
    let last = -99;
    for (const tick of some.sort((a, b) => a - b)) {
      const [x] = this.place(tick, this.ys[0]);
      if (x - last < 36) continue;
      last = x;
      this.add("line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" });
      this.add("text", { x, y: bottom + 16, "text-anchor": "middle" }, short(tick));
    }
    const bit = Math.LN2;
    for (const tick of ticks(...this.ys, this.on.has("log y"), height / 55)) {
      const [, y] = this.place(this.xs[0], tick);
      this.add("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" });
      this.add("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, tick);
    }
    for (const tick of ticks(this.ys[0] / bit, this.ys[1] / bit, this.on.has("log y"), height / 55)) {
      const [, y] = this.place(this.xs[0], tick * bit);
      this.add("text", { x: right + 6, y: y + 4 }, tick);
    }
    this.add("text", { x: 0, y: 12 }, `${part} loss, nats per ${unit}`);
    this.add("text", { x: width, y: 12, "text-anchor": "end" }, "bits");
    const label = { characters: `${unit}s seen` }[this.x] ?? this.x;
    this.add("text", { x: (left + right) / 2, y: height - 3, "text-anchor": "middle" }, label);
  }

  line({ row, train, points, runs }) {
    const color = this.group.color(row), shown = row === this.group.at;
    const stroke = color ?? "var(--grey)";
    if (color && points.length > 1 && !train) {
      const up = points.map(({ x, high }) => [x, high]);
      const down = points.map(({ x, low }) => [x, low]).reverse();
      this.path([...up, ...down], { fill: stroke, "fill-opacity": 0.15 });
    }
    if (shown && runs.length > 1) {
      for (const { xs, ys } of runs) {
        this.path(xs.map((x, i) => [x, ys[i]]), { stroke, "stroke-opacity": 0.5 });
      }
    }
    this.path(points.map(({ x, y }) => [x, y]), { stroke,
      "stroke-width": shown ? 3 : color ? 2 : 1,
      "stroke-opacity": color ? 1 : 0.55,
      "stroke-linejoin": "round",
      "stroke-dasharray": train ? "2 4" : "none" });
    // Dots where a line alone would hide its points, or has only one.
    if (!this.axis && points.length > 1) return;
    for (const point of points) {
      const own = this.axis ? this.group.color(point.row) : color;
      const [cx, cy] = this.place(point.x, point.y);
      const at = point.row === this.group.at;
      if (point.high > point.low) {
        this.path([[point.x, point.low], [point.x, point.high]], { stroke: own ?? stroke });
      }
      this.add("circle", { cx, cy, r: at ? 6 : 4, fill: own ?? stroke });
    }
  }

  // Points at the row, and names the run, that is nearest to the pointer.
  hover(event) {
    const { left, top, width } = this.svg.getBoundingClientRect();
    const x = event.clientX - left, y = event.clientY - top;
    const reach = 60;  // in pixels
    let nearest = { distance: reach };
    for (const each of this.drawn) {
      for (const point of each.points) {
        const [px, py] = this.place(point.x, point.y);
        // Beside a curve, its height decides; at dots, both directions do.
        const across = (this.axis ? 1 : 0.6) * Math.abs(px - x);
        const distance = Math.hypot(across, py - y);
        if (distance < nearest.distance) nearest = { ...each, ...point, distance, px, py };
      }
    }
    if (nearest.distance === reach) return this.leave();
    this.group.point(nearest.row);
    this.tip.textContent = this.describe(nearest, y);
    this.tip.hidden = false;
    const above = this.root.getBoundingClientRect().top;
    this.tip.style.top = `${top - above + nearest.py + 14}px`;
    const across = Math.min(nearest.px + 12, width - this.tip.offsetWidth);
    this.tip.style.left = `${Math.max(0, across)}px`;
  }

  describe({ name, train, runs, x, y, low, high, row }, pointed) {
    const several = this.group.rows[row].runs.length > 1;
    const range = several ? `, ${fixed(low)} to ${fixed(high)} over seeds` : "";
    const lines = [`${name}${train ? " (train)" : ""}`];
    const shown = Number(x.toPrecision(4)).toLocaleString("en");
    if (!this.axis) lines.push(`${this.x} ${shown}`);
    lines.push(`loss ${fixed(y)}${range}`);
    const there = runs.map(run => ({ name: run.name, y: at(run, x) }))
      .filter(run => run.y !== null)
      .map(run => ({ ...run, far: Math.abs(this.place(x, run.y)[1] - pointed) }))
      .sort((a, b) => a.far - b.far);
    if (there.length) lines.push(`run ${there[0].name}: ${fixed(there[0].y)}`);
    return lines.join("\n");
  }

  leave() {
    this.tip.hidden = true;
    this.group.point(-1);
  }
}

{
  const data = JSON.parse(document.getElementById("curves").textContent);
  document.querySelectorAll("section[data-group]").forEach((section, i) =>
    new Group(section, data[i]));
}

if (document.getElementById("heat-map")) {
  const data = JSON.parse(document.getElementById("heat-map").textContent);
  const [text, box, one, other] =
    ["text", "box", "one", "other"].map(id => document.getElementById(id));
  const chosen = () =>
    [one, other].map(select => data.runs[select.value]).filter(Boolean);
  // By code points, as in Python. The first one is not predicted.
  const characters = [...data.text];
  const describe = (run, i) => {
    const name = JSON.stringify;
    const lines = run.expected[i].map((expected, n) =>
      `${name(expected)}  ${(100 * run.probabilities[i][n]).toFixed(1)} %`);
    const own = `${name(characters[i + 1])}  ${run.nats[i].toFixed(2)} nats`;
    return [run.run, own, "expected:", ...lines].join("\n");
  };
  const map = new HeatMap(text, box, place => place &&
    [chosen().map(run => describe(run, place - 1)).join("\n\n")]);
  map.show(characters);
  const paint = () => {
    const [a, b] = chosen();
    a.nats.forEach((nats, i) =>
      map.paint(i + 1, b ? (nats - b.nats[i]) / 3 : nats / 6));
  };
  [one, other].forEach(select => select.addEventListener("change", () => {
    map.look(-1);
    paint();
  }));
  paint();
}
