// Sections 3.2 and 3.3 for one image, as in minist/spatial/, and how grid and pixels are drawn.
"use strict";

const SPATIAL = (() => {
  // The regular grid of size x size pixels: [x, y, 1] of each, row by row.
  function regularGrid(size) {
    const axis = Array.from({ length: size }, (_, i) => (2 * i) / (size - 1) - 1);
    return axis.flatMap((y) => axis.map((x) => [x, y, 1]));
  }

  const affine = (t, [x, y, one]) => [t[0] * x + t[1] * y + t[2] * one, t[3] * x + t[4] * y + t[5] * one]; // Eq. (1)

  const kernels = {
    nearest: { taps: [[0, 0]], weights: () => [1], floor: (x) => Math.floor(x + 0.5) }, // Eq. (4)
    bilinear: {
      taps: [[0, 0], [1, 0], [0, 1], [1, 1]],
      weights: (t, s) => [(1 - t) * (1 - s), t * (1 - s), (1 - t) * s, t * s], // Eq. (5)
      floor: Math.floor,
    },
  };

  // The pixels [m, n, weight] that a point (x, y) in -1..1 is made of.
  function taps(kernel, [x, y], size) {
    // A point a rounding error beside a pixel is at the pixel, as in minist.
    const [px, py] = [x, y].map((v) => Math.round(((v + 1) * (size - 1)) / 2 * 1e9) / 1e9);
    const [m, n] = [kernel.floor(px), kernel.floor(py)];
    const weights = kernel.weights(px - m, py - n);
    return kernel.taps.map(([i, j], k) => [m + i, n + j, weights[k]]);
  }

  const inside = (m, n, size) => m >= 0 && n >= 0 && m < size && n < size;

  // V at each point of a grid, of an image U of size x size pixels.
  function sample(U, size, grid, kernel = kernels.bilinear) {
    return grid.map((point) =>
      taps(kernel, point, size).reduce(
        (sum, [m, n, weight]) => sum + (inside(m, n, size) ? weight * U[n * size + m] : 0), // Eq. (3)
        0,
      ),
    );
  }

  // Ink on paper: 0 is white, 1 is black.
  function paint(canvas, values, size) {
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(size, size);
    values.forEach((v, i) => {
      const ink = Math.round(255 * (1 - Math.min(Math.max(v, 0), 1)));
      picture.data.set([ink, ink, ink, 255], 4 * i);
    });
    context.putImageData(picture, 0, 0);
  }

  function element(name, attributes, parent) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  }

  const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(4)} ${y.toFixed(4)}`).join("L");

  // A grid of size x size points: some of its rows and columns, its upper row by itself.
  function drawGrid(svg, grid, size, lines = 8) {
    const places = Array.from({ length: lines }, (_, i) => Math.round((i * (size - 1)) / (lines - 1)));
    const row = (n) => grid.slice(n * size, (n + 1) * size);
    const column = (m) => grid.filter((_, i) => i % size === m);
    svg.querySelector(".lines").setAttribute("d", [...places.slice(1).map(row), ...places.map(column)].map(path).join(""));
    svg.querySelector(".upper").setAttribute("d", path(row(0)));
  }

  // A button with a picture for each digit, its bytes in base64; pressed, it hands over the pixels.
  function digitButtons(parent, digits, size, press) {
    digits.forEach((text, i) => {
      const image = Array.from(atob(text), (c) => c.charCodeAt(0) / 255);
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `digit ${i + 1}`);
      const canvas = document.createElement("canvas");
      paint(canvas, image, size);
      button.append(canvas);
      button.addEventListener("click", () => {
        for (const other of parent.children) other.setAttribute("aria-pressed", other === button);
        press(image);
      });
      parent.append(button);
    });
  }

  return { regularGrid, affine, kernels, taps, inside, sample, paint, element, drawGrid, digitButtons };
})();
