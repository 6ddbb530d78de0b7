// A spatial transformer network in the page: weights from a safetensors file, layers in plain loops.
//
// The ST-CNN of minist/models/distorted_mnist.py for one image: each function below is one of its
// operations, on a feature map { data, c, h, w }, data row by row, channel by channel.
"use strict";

const NETWORK = (() => {
  // A safetensors file: the length of a header, the header in JSON, the numbers. Names to arrays.
  function readSafetensors(bytes) {
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const arrays = {};
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const [begin, end] = entry.data_offsets.map((offset) => 8 + length + offset);
      arrays[name] = { shape: entry.shape, data: new Float32Array(bytes.slice(begin, end).buffer) };
    }
    return arrays;
  }

  // y[f, h, w] = b[f] + sum over c, i, j of W[f, c, i, j] x[c, h + i, w + j]
  function conv2d(x, weight, bias) {
    const [filters, channels, kh, kw] = weight.shape;
    const [h, w] = [x.h - kh + 1, x.w - kw + 1];
    const y = new Float64Array(filters * h * w);
    for (let f = 0; f < filters; f++) {
      const out = f * h * w;
      y.fill(bias.data[f], out, out + h * w);
      for (let c = 0; c < channels; c++)
        for (let i = 0; i < kh; i++)
          for (let j = 0; j < kw; j++) {
            const k = weight.data[((f * channels + c) * kh + i) * kw + j];
            for (let row = 0; row < h; row++) {
              const from = (c * x.h + row + i) * x.w + j;
              const to = out + row * w;
              for (let column = 0; column < w; column++) y[to + column] += k * x.data[from + column];
            }
          }
    }
    return { data: y, c: filters, h, w };
  }

  // Windows of 2x2; one that hangs over the edge counts what is there, as with ceil_mode.
  function pool(x, reduce) {
    const [h, w] = [Math.ceil(x.h / 2), Math.ceil(x.w / 2)];
    const y = new Float64Array(x.c * h * w);
    for (let c = 0; c < x.c; c++)
      for (let row = 0; row < h; row++)
        for (let column = 0; column < w; column++) {
          const window = [];
          for (let i = 2 * row; i < Math.min(2 * row + 2, x.h); i++)
            for (let j = 2 * column; j < Math.min(2 * column + 2, x.w); j++) window.push(x.data[(c * x.h + i) * x.w + j]);
          y[(c * h + row) * w + column] = reduce(window);
        }
    return { data: y, c: x.c, h, w };
  }

  const largest = (values) => Math.max(...values);
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const relu = (x) => ({ ...x, data: x.data.map((v) => Math.max(v, 0)) });

  function linear(x, weight, bias) {
    const [outputs, inputs] = weight.shape;
    const data = Float64Array.from({ length: outputs }, (_, o) => {
      let sum = bias.data[o];
      for (let i = 0; i < inputs; i++) sum += weight.data[o * inputs + i] * x.data[i];
      return sum;
    });
    return { data, c: outputs, h: 1, w: 1 };
  }

  // The network of a file's bytes: a function from size x size pixels to all that can be shown.
  function load(bytes, size) {
    const arrays = readSafetensors(bytes);
    const grid0 = SPATIAL.regularGrid(size);
    const layer = (operation, x, name) => operation(x, arrays[`${name}.weight`], arrays[`${name}.bias`]);

    function localise(u) {
      let x = pool(u, mean);
      x = relu(pool(layer(conv2d, x, "transformer.localisation.1"), largest));
      x = relu(layer(conv2d, x, "transformer.localisation.4"));
      x = relu(layer(linear, x, "transformer.localisation.7"));
      return Array.from(layer(linear, x, "transformer.localisation.9").data);
    }

    function classify(v) {
      let x = relu(pool(layer(conv2d, v, "classifier.0"), largest));
      x = relu(pool(layer(conv2d, x, "classifier.3"), largest));
      return Array.from(layer(linear, x, "classifier.7").data);
    }

    return (pixels) => {
      const theta = localise({ data: pixels, c: 1, h: size, w: size }); // Sect. 3.1
      const grid = grid0.map((point) => SPATIAL.affine(theta, point)); // Sect. 3.2
      const output = SPATIAL.sample(pixels, size, grid); // Sect. 3.3
      const logits = classify({ data: output, c: 1, h: size, w: size });
      const exponentials = logits.map((v) => Math.exp(v - Math.max(...logits)));
      const total = exponentials.reduce((sum, v) => sum + v, 0);
      return { theta, grid, output, logits, probabilities: exponentials.map((v) => v / total) };
    };
  }

  return { load };
})();
