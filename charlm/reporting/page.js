"use strict";
{
  const map = JSON.parse(document.getElementById("heat-map").textContent);
  const [text, box, one, other] =
    ["text", "box", "one", "other"].map(id => document.getElementById(id));
  // By code points, as in Python. The first one is not predicted.
  const cells = [...map.text].map(character => {
    const cell = document.createElement("i");
    cell.textContent = character;
    return cell;
  });
  text.append(...cells);
  const places = new Map(cells.map((cell, i) => [cell, i - 1]));
  const paint = () => {
    const [a, b] = [map.runs[one.value], map.runs[other.value]];
    cells.slice(1).forEach((cell, i) => {
      const loss = b ? (a.nats[i] - b.nats[i]) / 3 : a.nats[i] / 6;
      const color = loss > 0 ? "255 60 0" : "0 110 255";
      const share = Math.min(Math.abs(loss), 1).toFixed(2);
      cell.style.background = `rgb(${color} / calc(${share} * 0.8))`;
    });
  };
  const describe = (run, i, character) => {
    const name = JSON.stringify;
    const lines = run.expected[i].map((expected, n) =>
      `${name(expected)}  ${(100 * run.probabilities[i][n]).toFixed(1)} %`);
    const own = `${name(character)}  ${run.nats[i].toFixed(2)} nats`;
    return [run.run, own, "expected:", ...lines].join("\n");
  };
  const show = event => {
    const i = places.get(event.target);
    box.hidden = !(i >= 0);
    if (box.hidden) return;
    const runs = [map.runs[one.value], map.runs[other.value]].filter(Boolean);
    const character = event.target.textContent;
    box.textContent =
      runs.map(run => describe(run, i, character)).join("\n\n");
  };
  [one, other].forEach(select => select.addEventListener("change", paint));
  text.addEventListener("pointerover", show);
  text.addEventListener("click", show);
  text.addEventListener("pointerleave", () => { box.hidden = true; });
  paint();
}
