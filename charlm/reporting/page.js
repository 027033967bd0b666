{
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
