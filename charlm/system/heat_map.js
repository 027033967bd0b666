"use strict";

// A text whose characters are coloured, and a box that describes the one that
// the pointer or the cursor is at. Arrow keys move the cursor. A click keeps the
// box, so that the pointer can reach it; Escape or another click lets it go.
class HeatMap {
  // `describe` returns the nodes or strings for a place, or nothing.
  constructor(text, box, describe) {
    this.text = text;
    this.cells = [];
    this.box = box;
    this.describe = describe;
    this.place = -1;
    this.keeps = false;
    text.tabIndex = 0;
    text.addEventListener("pointerover", ({ target }) => {
      if (!this.keeps && target !== text) this.look(target.place);
    });
    text.addEventListener("click", ({ target }) => {
      const keeps = target !== text && !(this.keeps && target.place === this.place);
      this.look(keeps ? target.place : -1, keeps);
    });
    text.addEventListener("pointerleave", () => {
      if (!this.keeps) this.look(-1);
    });
    box.addEventListener("keydown", ({ key }) => {
      if (key !== "Escape" || this.place < 0) return;
      text.focus();
      this.look(-1);
    });
    text.addEventListener("keydown", event => {
      if (event.key === "Escape") this.look(-1);
      const last = this.cells.length - 1;
      const by = { ArrowRight: 1, ArrowLeft: -1, End: last, Home: -last }[event.key];
      if (!by) return;
      event.preventDefault();
      this.look(Math.min(Math.max(this.place + by, 0), last), true);
      this.cells[this.place].scrollIntoView({ block: "nearest" });
    });
  }

  // Takes an array of strings, a cell each; keeps the first `kept` cells.
  show(characters, kept = 0) {
    const added = characters.map((character, i) => {
      const cell = document.createElement("i");
      cell.textContent = character;
      if (character === "\n") cell.className = "line-break";
      cell.place = kept + i;
      return cell;
    });
    this.cells.splice(kept).forEach(cell => cell.remove());
    this.cells = this.cells.concat(added);
    added.forEach(cell => this.text.append(cell));
    if (this.place >= kept) {
      this.look(this.place < this.cells.length ? this.place : -1, this.keeps);
    }
  }

  // Colours a cell: red above 0, blue below, from -1 to 1.
  paint(place, value) {
    const color = value > 0 ? "255 60 0" : "0 110 255";
    const alpha = (0.8 * Math.min(Math.abs(value), 1)).toFixed(2);
    this.cells[place].style.background = `rgb(${color} / ${alpha})`;
  }

  // Moves the cursor to a place, and describes it; -1 hides the box. A box that
  // is kept stays until the cursor is moved.
  look(place, keeps = false) {
    this.cells[this.place]?.classList.remove("at");
    this.place = place;
    this.cells[place]?.classList.add("at");
    const nodes = place >= 0 ? this.describe(place) : null;
    this.keeps = keeps && Boolean(nodes);
    this.box.hidden = !nodes;
    if (nodes) this.box.replaceChildren(...nodes);
  }
}
