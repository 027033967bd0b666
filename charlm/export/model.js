"use strict";

// The model: it runs in a worker, so that the page stays alive.
// Shapes: V entries of the vocabulary, H units, G gates. A matrix has a row of
// weights for each output, so that a product reads memory in order.

const PADDING = 1;  // an entry that is never drawn, as is 0, the unknown one
const NUM_LIKELIEST = 5;

// Returns the 16-bit floats in a base64 string, widened once.
function widen(base64) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  return Float32Array.from(new Uint16Array(bytes.buffer), bits => {
    const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31;
    const fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024)
      : 2 ** -24 * fraction);
  });
}

// Computes `matrix @ vector + bias` in float64, four rows at a time: each number
// of the vector is then read once for four, which more than doubles the speed.
function multiply(matrix, vector, bias, out) {
  const size = vector.length;
  let row = 0;
  for (; row + 3 < out.length; row += 4) {
    const p = row * size, q = p + size, r = q + size, s = r + size;
    let a = bias[row], b = bias[row + 1], c = bias[row + 2], d = bias[row + 3];
    for (let i = 0; i < size; i++) {
      const x = vector[i];
      a += matrix[p + i] * x;
      b += matrix[q + i] * x;
      c += matrix[r + i] * x;
      d += matrix[s + i] * x;
    }
    [out[row], out[row + 1], out[row + 2], out[row + 3]] = [a, b, c, d];
  }
  for (; row < out.length; row++) {
    out[row] = bias[row];
    for (let i = 0; i < size; i++) out[row] += matrix[row * size + i] * vector[i];
  }
  return out;
}

const sigmoid = x => 1 / (1 + Math.exp(-x));

// A time step: takes what the input and the last output add to the gates, and
// changes the state, whose first H numbers are the output.
const STEPS = {
  gru(x, y, state, H) {  // gates z, r, n
    for (let j = 0; j < H; j++) {
      const z = sigmoid(x[j] + y[j]);
      const r = sigmoid(x[H + j] + y[H + j]);
      const n = Math.tanh(x[2 * H + j] + r * y[2 * H + j]);
      state[j] = n + z * (state[j] - n);
    }
  },
  lstm(x, y, state, H) {  // gates i, f, g, o
    for (let j = 0; j < H; j++) {
      const i = sigmoid(x[j] + y[j]);
      const f = sigmoid(x[H + j] + y[H + j]);
      const g = Math.tanh(x[2 * H + j] + y[2 * H + j]);
      const o = sigmoid(x[3 * H + j] + y[3 * H + j]);
      const c = f * state[H + j] + i * g;
      state[H + j] = c;
      state[j] = o * Math.tanh(c);
    }
  },
};

class Model {
  constructor({ layer, units, embeddings, layers, dense, bias }) {
    const H = this.units = units;
    this.step = STEPS[layer];
    this.layers = layers.map(each => ({
      kernel: widen(each.kernel),  // [G H, D]
      recurrent: widen(each.recurrent),  // [G H, H]
      bias: widen(each.bias),  // [G H]
      recurrentBias: widen(each.recurrentBias),  // [G H]
      state: new Float64Array(H * { gru: 1, lstm: 2 }[layer]),
    }));
    for (const each of this.layers) {
      each.inputs = new Float64Array(each.bias.length);
      each.gates = new Float64Array(each.bias.length);
    }
    this.dense = widen(dense);  // [V, H]
    this.bias = widen(bias);
    const size = this.bias.length;
    this.logProbs = new Float64Array(size);
    // What each entry adds to the gates of the first layer, [V, G H].
    const [first] = this.layers, table = widen(embeddings);
    const width = table.length / size;
    this.table = Array.from({ length: size }, (_, id) => multiply(
      first.kernel, Float64Array.from(table.subarray(id * width, (id + 1) * width)),
      first.bias, new Float64Array(first.bias.length)));
    this.ids = [];  // that the states have read
  }

  // Reads an entry: changes the states, and the log-probabilities of the next.
  read(id) {
    let x = null;
    for (const each of this.layers) {
      const h = each.state.subarray(0, this.units);
      const inputs = x ? multiply(each.kernel, x, each.bias, each.inputs)
        : this.table[id];
      multiply(each.recurrent, h, each.recurrentBias, each.gates);
      this.step(inputs, each.gates, each.state, this.units);
      x = h;
    }
    const logits = multiply(this.dense, x, this.bias, this.logProbs);
    const most = Math.max(...logits);
    let sum = 0;
    for (const logit of logits) sum += Math.exp(logit - most);
    const shift = most + Math.log(sum);
    for (let i = 0; i < logits.length; i++) logits[i] -= shift;
    this.ids.push(id);
  }

  // Resets the states, unless they have read a beginning of these entries.
  begin(ids) {
    const known = this.ids.every((id, i) => id === ids[i]);
    if (!known || this.ids.length > ids.length) {
      for (const each of this.layers) each.state.fill(0);
      this.ids = [];
    }
  }

  // Returns the likeliest entries and their probabilities, in order.
  likeliest() {
    const found = [...this.logProbs.entries()].sort(([, a], [, b]) => b - a);
    return found.slice(0, NUM_LIKELIEST).map(([id, value]) => [id, Math.exp(value)]);
  }

  // Draws an entry by a uniform number; at temperature 0, takes the likeliest.
  draw(temperature, uniform) {
    const { logProbs } = this;
    let best = PADDING + 1, sum = 0;
    for (let id = best; id < logProbs.length; id++) {
      if (logProbs[id] > logProbs[best]) best = id;
    }
    if (!temperature) return best;
    const sums = [];
    for (let id = PADDING + 1; id < logProbs.length; id++) {
      sum += Math.exp((logProbs[id] - logProbs[best]) / temperature);
      sums.push(sum);
    }
    return PADDING + 1 + sums.findIndex(value => uniform * sum < value);
  }
}

// Returns a number in [0, 1) that depends on seed and position alone, so that a
// text does not depend on where it was stopped.
function uniform(seed, position) {
  let x = Math.imul(seed, 0x9E3779B1) ^ Math.imul(position + 1, 0x85EBCA6B);
  x = Math.imul(x ^ x >>> 16, 0x21F0AAAD);
  x = Math.imul(x ^ x >>> 15, 0x735A2D97);
  x = Math.imul(x ^ x >>> 15, 0x2C1B3C6D);
  return ((x ^ x >>> 16) >>> 0) / 2 ** 32;
}

// Returns how strongly two series go together, from -1 to 1.
function correlation(one, other) {
  const n = one.length;
  const mean = values => values.reduce((a, b) => a + b, 0) / n;
  const [m, k] = [mean(one), mean(other)];
  let both = 0, first = 0, second = 0;
  for (let i = 0; i < n; i++) {
    both += (one[i] - m) * (other[i] - k);
    first += (one[i] - m) ** 2;
    second += (other[i] - k) ** 2;
  }
  return both / Math.sqrt(first * second) || 0;
}

let model = null, current = 0;
const pause = () => new Promise(resolve => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = resolve;
  port2.postMessage(null);
});

// Each task ends when a newer one comes. It posts what it has from time to time.
const TASKS = {
  load: async task => {
    model = new Model(task.weights);
    postMessage({ task: task.number, done: true });
  },
  stop: async () => {},

  // Scores ids, all but the first; keeps the outputs of the units.
  score: async task => {
    const { ids } = task, H = model.units;
    model.begin([]);
    model.outputs = model.layers.map(() => []);
    await inTime(task, ids.length - 1, i => {
      model.read(ids[i]);
      model.layers.forEach((each, layer) => model.outputs[layer]
        .push(Float32Array.from(each.state.subarray(0, H))));
      return { nats: -model.logProbs[ids[i + 1]], likeliest: model.likeliest() };
    });
  },

  // Continues ids; a result has the entry that was drawn.
  write: async task => {
    model.begin(task.ids);
    for (let i = model.ids.length; i < task.ids.length; i++) {
      model.read(task.ids[i]);
      if (i % 64 === 63) await pause();
      if (task.number !== current) return;
    }
    await inTime(task, task.count, () => {
      const number = uniform(task.seed, model.ids.length);
      const id = model.draw(task.temperature, number);
      const result = {
        id, nats: -model.logProbs[id], likeliest: model.likeliest(),
      };
      model.read(id);
      return result;
    });
  },

  // Ranks units by how well they follow series of numbers, by their names.
  rank: async task => {
    const found = [];
    for (const [layer, seen] of model.outputs.entries()) {
      for (let unit = 0; unit < model.units; unit++) {
        const values = seen.map(outputs => outputs[unit]);
        const all = Object.entries(task.series).map(([name, series]) =>
          ({ layer, unit, name, r: correlation(values, series) }));
        found.push(all.reduce((a, b) => Math.abs(b.r) > Math.abs(a.r) ? b : a));
      }
      await pause();
      if (task.number !== current) return;
    }
    found.sort((a, b) => Math.abs(b.r) - Math.abs(a.r));
    postMessage({ task: task.number, found, done: true });
  },

  unit: async task => {
    const values = model.outputs[task.layer]
      .map(outputs => outputs[task.unit]);
    postMessage({ task: task.number, values, done: true });
  },
};

// Computes `count` results, and posts them 20 times a second.
async function inTime(task, count, compute) {
  let results = [], last = performance.now();
  for (let i = 0; i < count; i++) {
    results.push(compute(i));
    if (performance.now() - last > 50) {
      postMessage({ task: task.number, results });
      await pause();
      if (task.number !== current) return;
      [results, last] = [[], performance.now()];
    }
  }
  postMessage({ task: task.number, results, done: true });
}

onmessage = ({ data }) => {
  current = data.number;
  TASKS[data.kind](data);
};
