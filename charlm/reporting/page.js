"use strict";
{
  const data = document.getElementById("characters").textContent;
  const characters = JSON.parse(data);
  const text = document.getElementById("text");
  const box = document.getElementById("box");
  const places = new Map([...text.children].map((child, i) => [child, i]));
  const show = event => {
    const entry = characters[places.get(event.target)];
    box.hidden = !entry;
    if (!entry) return;
    const name = char => JSON.stringify(char);
    const lines = entry.expected.map((char, i) =>
      `${name(char)}  ${(100 * entry.probabilities[i]).toFixed(1)} %`);
    const own = `${name(entry.character)}  ${entry.nats.toFixed(2)} nats`;
    box.textContent = [own, "expected:", ...lines].join("\n");
  };
  text.addEventListener("pointerover", show);
  text.addEventListener("click", show);
  text.addEventListener("pointerleave", () => { box.hidden = true; });
}
