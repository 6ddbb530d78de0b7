// Drag theta: the grid of a transformation over a digit, and what is sampled there.
//
// A grid is T = M(theta) B (Eq. (1), and the end of Sect. 3.2); spatial.js samples there. Digits
// and the thin plate spline's solution come from minist, in theta_data.js, when the site is built.
"use strict";

(() => {
  const { size, digits, controlPoints, solution } = THETA_DATA;
  const { regularGrid, kernels, taps, inside, sample, paint, element, drawGrid } = SPATIAL;
  const half = (size - 1) / 2; // pixels in one unit of -1..1
  const view = 1.5; // units shown on each side of the middle

  // --- the grid --------------------------------------------------------------------------------

  const homogeneous = regularGrid(size); // B, pixel by pixel
  const spline = homogeneous.map(([x, y]) => splineBasis(x, y));

  // b(p) = S^T (phi(|p - c_1|), ..., 1, x, y)
  function splineBasis(x, y) {
    const bumps = controlPoints.map(([cx, cy]) => {
      const r2 = (x - cx) ** 2 + (y - cy) ** 2;
      return r2 === 0 ? 0 : r2 * Math.log(r2);
    });
    const features = [...bumps, 1, x, y];
    return controlPoints.map((_, i) => features.reduce((sum, f, j) => sum + f * solution[j][i], 0));
  }

  // A family says what its identity is, where its grid lies, where its handles are, and what theta
  // becomes when one of them is dragged to a place.
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]];
  const families = {
    affine: {
      name: "Affine()",
      identity: [1, 0, 0, 0, 1, 0],
      at: SPATIAL.affine, // Eq. (1)
      handles: (t) => [[0, 0], [1, 0], [0, -1], ...corners].map(([x, y]) => families.affine.at(t, [x, y, 1])),
      labels: ["middle: move", "right edge", "upper edge", ...Array(4).fill("corner: turn and scale")],
      drag([a, b, c, d, e, f], i, [x, y]) {
        if (i === 0) return [a, b, x, d, e, y];
        if (i === 1) return [x - c, b, c, y - f, e, f];
        if (i === 2) return [a, c - x, c, d, f - y, f];
        // A corner turns and scales the window: both columns times the complex number p / q.
        const [u, v] = corners[i - 3];
        const q = [a * u + b * v, d * u + e * v];
        const p = [x - c, y - f];
        const square = q[0] * q[0] + q[1] * q[1];
        if (square < 1e-4) return [a, b, c, d, e, f];
        const re = (p[0] * q[0] + p[1] * q[1]) / square;
        const im = (p[1] * q[0] - p[0] * q[1]) / square;
        return [re * a - im * d, re * b - im * e, c, im * a + re * d, im * b + re * e, f];
      },
    },
    attention: {
      name: "Attention()",
      identity: [1, 0, 0],
      at: ([s, tx, ty], [x, y]) => [s * x + tx, s * y + ty], // Eq. (2)
      handles: (t) => [[0, 0], ...corners].map((p) => families.attention.at(t, p)),
      labels: ["middle: move", ...Array(4).fill("corner: scale")],
      drag([s, tx, ty], i, [x, y]) {
        if (i === 0) return [s, x, y];
        const [u, v] = corners[i - 1];
        return [((x - tx) * u + (y - ty) * v) / 2, tx, ty];
      },
    },
    projective: {
      name: "Projective()",
      identity: [1, 0, 0, 0, 1, 0, 0, 0],
      at([a, b, c, d, e, f, g, h], [x, y]) {
        const w = g * x + h * y + 1;
        return Math.abs(w) <= 1e-8 ? [1e6, 1e6] : [(a * x + b * y + c) / w, (d * x + e * y + f) / w];
      },
      handles: (t) => corners.map((p) => families.projective.at(t, p)),
      labels: Array(4).fill("corner"),
      drag(t, i, place) {
        const seen = families.projective.handles(t);
        seen[i] = place;
        return projection(seen) ?? t;
      },
    },
    tps: {
      name: "ThinPlateSpline(4, 4)",
      identity: controlPoints.flat(),
      at: (t, _, b) => [0, 1].map((k) => b.reduce((sum, v, i) => sum + v * t[2 * i + k], 0)),
      handles: (t) => controlPoints.map((_, i) => [t[2 * i], t[2 * i + 1]]),
      labels: controlPoints.map((_, i) => `control point ${i + 1}`),
      drag: (t, i, place) => t.map((v, j) => (j >> 1 === i ? place[j & 1] : v)),
    },
  };

  // theta (8) of the projection that takes the four corners to four places: two lines of a linear
  // system for each. None where three places lie on a line.
  function projection(places) {
    const rows = corners.flatMap(([x, y], i) => {
      const [u, v] = places[i];
      return [
        [x, y, 1, 0, 0, 0, -u * x, -u * y, u],
        [0, 0, 0, x, y, 1, -v * x, -v * y, v],
      ];
    });
    for (let k = 0; k < 8; k++) {
      let best = k;
      for (let i = k; i < 8; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
      if (Math.abs(rows[best][k]) < 1e-9) return null;
      [rows[k], rows[best]] = [rows[best], rows[k]];
      for (let i = 0; i < 8; i++) {
        if (i === k) continue;
        const times = rows[i][k] / rows[k][k];
        for (let j = k; j < 9; j++) rows[i][j] -= times * rows[k][j];
      }
    }
    const theta = rows.map((row, k) => row[8] / row[k]);
    // A window with a horizon in it cannot be drawn.
    return corners.every(([x, y]) => theta[6] * x + theta[7] * y + 1 > 0.05) ? theta : null;
  }

  // --- the picture -----------------------------------------------------------------------------

  const figure = document.getElementById("theta-figure");
  const find = (name) => figure.querySelector(name);
  const svg = find("svg");
  const state = { family: "affine", theta: families.affine.identity, image: null, kernel: "bilinear", probe: null };

  function draw() {
    const family = families[state.family];
    const U = state.image;
    const grid = homogeneous.map((p, i) => family.at(state.theta, p, spline[i]));
    paint(find(".output canvas"), sample(U, size, grid, kernels[state.kernel]), size);
    drawGrid(svg, grid, size);
    family.handles(state.theta).forEach(([x, y], i) => {
      // Handles never leave the picture, so that they can be fetched back.
      const shown = [x, y].map((v) => Math.min(Math.max(v, 0.04 - view), view - 0.04));
      for (const node of svg.querySelectorAll(`[data-handle="${i}"]`)) {
        node.setAttribute("cx", shown[0]);
        node.setAttribute("cy", shown[1]);
      }
    });
    drawProbe(grid, U);
    const numbers = state.theta.map((v) => Number(v.toFixed(3)) + 0);
    find(".theta").textContent =
      `theta = [${numbers.join(", ")}]\n` +
      `grid = spatial.${family.name}.grid([theta], (${size}, ${size}))\n` +
      `V = spatial.grid_sample(U, grid${state.kernel === "bilinear" ? "" : ', mode="nearest"'})`;
    figure.dataset.theta = JSON.stringify(state.theta);
  }

  // One pixel of the output, the point where it looks, and the pixels that its value is made of.
  function drawProbe(grid, U) {
    const group = find(".probe");
    group.replaceChildren();
    const mark = find(".output .mark");
    mark.hidden = state.probe === null;
    if (state.probe === null) {
      find(".sum").textContent = "Point at a pixel of the output to see what it is made of.";
      return;
    }
    const [column, row] = [state.probe % size, Math.floor(state.probe / size)];
    Object.assign(mark.style, { left: `${(100 * column) / size}%`, top: `${(100 * row) / size}%` });
    const point = grid[state.probe];
    const parts = taps(kernels[state.kernel], point, size).filter(([, , weight]) => weight > 0);
    for (const [m, n, weight] of parts) {
      const [x, y] = [m / half - 1, n / half - 1];
      element("rect", { x: x - 0.5 / half, y: y - 0.5 / half, width: 1 / half, height: 1 / half, "fill-opacity": weight }, group);
    }
    element("circle", { cx: point[0], cy: point[1], r: 0.02 }, group);
    const terms = parts.map(([m, n, weight]) => `${weight.toFixed(2)} · ${inside(m, n, size) ? U[n * size + m].toFixed(2) : "0"}`);
    const value = parts.reduce((sum, [m, n, weight]) => sum + (inside(m, n, size) ? weight * U[n * size + m] : 0), 0);
    const place = point.map((v) => ((v + 1) * half).toFixed(2)).join(", ");
    find(".sum").textContent = `V at pixel (${column}, ${row}) is U at (${place}): ${terms.join(" + ")} = ${value.toFixed(2)}`;
  }

  let waiting = false;
  function change(values) {
    Object.assign(state, values);
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  }

  function choose(name) {
    const family = families[name];
    const group = find(".handles");
    group.replaceChildren();
    family.labels.forEach((label, i) => {
      // A finger needs more room than the eye: each handle has a large unseen circle around it.
      element("circle", { class: "dot", "data-handle": i, r: i === 0 && name !== "tps" && name !== "projective" ? 0.055 : 0.042 }, group);
      element("circle", { class: "reach", "data-handle": i, r: 0.13, tabindex: 0, role: "button", "aria-label": label }, group);
    });
    change({ family: name, theta: family.identity });
  }

  // --- hands on --------------------------------------------------------------------------------

  // Where the pointer is, in -1..1.
  function place(event) {
    const box = svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => (2 * v - 1) * view);
  }

  let held = null;
  // Of several handles in reach the nearest is meant.
  function nearest(point) {
    const away = families[state.family].handles(state.theta).map(([x, y]) => Math.hypot(x - point[0], y - point[1]));
    return away.indexOf(Math.min(...away));
  }

  svg.addEventListener("pointerdown", (event) => {
    const handle = event.target.dataset.handle;
    if (handle === undefined) return;
    const point = place(event);
    held = svg.querySelectorAll(".reach").length > 1 && Math.hypot(...point) < view ? nearest(point) : Number(handle);
    svg.setPointerCapture(event.pointerId);
    svg.querySelector(`.reach[data-handle="${held}"]`).focus({ preventScroll: true });
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    if (held === null) return;
    change({ theta: families[state.family].drag(state.theta, held, place(event)) });
  });
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => { held = null; });

  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const handle = event.target.dataset.handle;
    if (!step || handle === undefined) return;
    const family = families[state.family];
    const from = family.handles(state.theta)[handle];
    change({ theta: family.drag(state.theta, Number(handle), from.map((v, i) => v + 0.02 * step[i])) });
    event.preventDefault();
    event.stopPropagation();
  });

  const output = find(".output");
  function probe(event) {
    const box = output.querySelector("canvas").getBoundingClientRect();
    const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.floor(v * size));
    change({ probe: inside(column, row, size) ? row * size + column : null });
  }
  output.addEventListener("pointermove", probe);
  output.addEventListener("pointerdown", probe);
  output.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") change({ probe: null });
  });

  find("[name=family]").addEventListener("change", (event) => choose(event.target.value));
  find("[name=kernel]").addEventListener("change", (event) => change({ kernel: event.target.value }));
  find(".identity").addEventListener("click", () => change({ theta: families[state.family].identity }));
  SPATIAL.digitButtons(find(".digits"), digits, size, (image) => {
    paint(find(".input canvas"), image, size);
    change({ image });
  });

  find(".digits button").click();
  choose(state.family);
})();
