// Draw a digit: strokes become 28x28 pixels as MNIST's did, are turned, and go through the network.
"use strict";

const DRAW = (() => {
  const { size, network } = NETWORK_DATA;
  const { digits } = THETA_DATA;
  const forward = NETWORK.load(Uint8Array.from(atob(network), (c) => c.charCodeAt(0)), size);
  const figure = document.getElementById("draw-figure");
  const find = (name) => figure.querySelector(name);
  const pad = find(".pad");
  const fine = 10; // dots of the fine drawing to a pixel, each way
  // At first a two, so that there is something to turn.
  let strokes = [[[0.29, 0.27], [0.37, 0.18], [0.48, 0.15], [0.6, 0.18], [0.67, 0.27], [0.67, 0.39], [0.5, 0.62], [0.28, 0.82], [0.74, 0.8]]];
  let chosen = null; // one of MNIST's test digits, in place of strokes
  let drawing = false;

  function brush(canvas, side, width) {
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: width });
    return context;
  }

  function trace(context, scale = 1) {
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of [stroke[0], ...stroke]) context.lineTo(x * scale, y * scale);
      context.stroke();
    }
  }

  // MNIST's digits fill a box of 20 pixels, their centre of mass in the middle of 28.
  const fineCanvas = document.createElement("canvas");
  function rasterise() {
    const values = new Float64Array(size * size);
    const points = strokes.flat();
    if (points.length === 0) return values;
    const [left, right, top, bottom] = [0, 0, 1, 1].map((k, i) => Math[i % 2 ? "max" : "min"](...points.map((p) => p[k])));
    const pen = 2.2; // pixels
    const scale = (20 - pen) / Math.max(right - left, bottom - top, 0.05);
    const middle = centreOfMass();
    const context = brush(fineCanvas, size * fine, 0);
    context.scale(fine, fine);
    context.translate(size / 2, size / 2);
    context.scale(scale, scale);
    context.translate(-middle[0], -middle[1]);
    context.lineWidth = pen / scale;
    trace(context);
    const { data } = context.getImageData(0, 0, size * fine, size * fine);
    for (let y = 0; y < size * fine; y++)
      for (let x = 0; x < size * fine; x++)
        values[Math.floor(y / fine) * size + Math.floor(x / fine)] += data[4 * (y * size * fine + x) + 3] / 255 / fine ** 2;
    return values;
  }

  // Turned clockwise, as the digits of the training were: sampled by a window turned the other way.
  function turned(pixels, degrees) {
    const [c, s] = [Math.cos, Math.sin].map((f) => f((-degrees * Math.PI) / 180));
    const grid = SPATIAL.regularGrid(size).map((point) => SPATIAL.affine([c, -s, 0, s, c, 0], point));
    return SPATIAL.sample(pixels, size, grid);
  }

  // Of the strokes as thin lines.
  function centreOfMass() {
    let [x, y, length] = [0, 0, 0];
    for (const stroke of strokes)
      stroke.forEach((b, i) => {
        const a = stroke[Math.max(i - 1, 0)];
        const part = Math.hypot(b[0] - a[0], b[1] - a[1]) + 1e-6;
        x += (part * (a[0] + b[0])) / 2;
        y += (part * (a[1] + b[1])) / 2;
        length += part;
      });
    return [x / length, y / length];
  }

  function draw() {
    if (chosen) SPATIAL.paint(pad, chosen, size);
    else trace(brush(pad, 560, 40), 560);
    pad.classList.toggle("pixels", chosen !== null);
    const pixels = turned(chosen ?? rasterise(), Number(find("[name=angle]").value));
    const { theta, grid, output, probabilities } = forward(pixels);
    SPATIAL.paint(find(".input canvas"), pixels, size);
    SPATIAL.paint(find(".output canvas"), output, size);
    SPATIAL.drawGrid(find("svg"), grid, size);
    const empty = !chosen && strokes.length === 0;
    const best = probabilities.indexOf(Math.max(...probabilities));
    find(".bars").querySelectorAll("div").forEach((bar, digit) => {
      bar.style.setProperty("--share", empty ? 0 : probabilities[digit]);
      bar.classList.toggle("best", !empty && digit === best);
      bar.setAttribute("aria-label", `${digit}: ${empty ? 0 : Math.round(100 * probabilities[digit])} %`);
    });
    const turn = (Math.atan2(theta[3], theta[0]) * 180) / Math.PI;
    find(".verdict").textContent = empty
      ? "Draw a digit."
      : `The network sees ${best === 8 ? "an" : "a"} ${best} (${Math.round(100 * probabilities[best])} %); its window is turned by ${Math.round(turn)}°.`;
    figure.dataset.verdict = empty ? "" : best;
    figure.dataset.pixels = JSON.stringify(Array.from(pixels));
  }

  let waiting = false;
  function redraw() {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  }

  function place(event) {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    drawing = true;
    chosen = null;
    strokes = [...strokes, [place(event)]];
    event.preventDefault();
    redraw();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    strokes.at(-1).push(...(event.getCoalescedEvents?.() ?? []).map(place), place(event));
    redraw();
  });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { drawing = false; });
  find(".clear").addEventListener("click", () => { [strokes, chosen] = [[], null]; redraw(); });
  SPATIAL.digitButtons(find(".digits"), digits, size, (image) => { [strokes, chosen] = [[], image]; redraw(); });
  find("[name=angle]").addEventListener("input", (event) => {
    find(".degrees").textContent = `${event.target.value}°`;
    redraw();
  });
  draw();
  return { forward };
})();
