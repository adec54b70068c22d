// The corpus as dots: 100,000 of them are written as pixels into one image, so that moving and zooming stay fluent.
"use strict";
(() => {
  const root = document.getElementById("map");
  const points = document.getElementById("points");
  const over = document.getElementById("over");
  const tip = document.getElementById("tip");
  const message = document.getElementById("map-message");
  const openSet = document.getElementById("open-set");
  const colour = document.getElementById("colour");
  const labels = JSON.parse(root.dataset.labels);
  const GRID = 65535;
  const FLAGS = ["clean", "noisy", "inconsistent"];
  const MAX_CORNERS = 100;
  // Eight colours that differ in hue and lightness, legible on light and dark; more labels share them.
  const PALETTE = ["#3b76d1", "#d1682a", "#2f9e6e", "#a24fc0", "#b79a1c", "#cf4a72", "#2a9bb0", "#7d7d86"];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

  let data = null; // { n, ids, x, y, label, flag, confidence, human }
  let view = { x: 0, y: 0, scale: 1 }; // screen = (grid - view) * scale, in device pixels
  let bounds = { left: 0, top: 0, right: GRID, bottom: GRID };
  let tint = null; // Uint32 colour of each point
  let index = null; // cell -> points, for the pointer
  let chosen = -1;
  let lasso = null;
  let waiting = false;

  async function load() {
    const answer = await fetch(root.dataset.points);
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const why = page.querySelector(".message");
      message.textContent = why ? why.textContent : `The points could not be loaded (HTTP ${answer.status}).`;
      return;
    }
    const buffer = await answer.arrayBuffer();
    const n = new DataView(buffer).getUint32(0, true);
    let at = 4;
    const take = (Kind) => {
      const part = new Kind(buffer.slice(at, at + n * Kind.BYTES_PER_ELEMENT));
      at += n * Kind.BYTES_PER_ELEMENT;
      return part;
    };
    data = { n, ids: take(Uint32Array), x: take(Uint16Array), y: take(Uint16Array), label: take(Uint8Array), flag: take(Uint8Array), confidence: take(Uint8Array), human: take(Uint8Array) };
    for (let i = 0; i < n; i++) data.y[i] = GRID - data.y[i]; // up is up
    const kept = Number(answer.headers.get("X-Map"));
    document.getElementById("map-facts").textContent = `${n.toLocaleString("en")} tasks; the two directions shown keep ${(kept * 100).toFixed(0)} % of the variance.`;
    message.textContent = n ? "" : "No task of this round is left.";
    index = cells();
    bounds = { left: GRID, top: GRID, right: 1, bottom: 1 };
    for (let i = 0; i < n; i++) {
      bounds.left = Math.min(bounds.left, data.x[i]);
      bounds.right = Math.max(bounds.right, data.x[i], bounds.left + 1);
      bounds.top = Math.min(bounds.top, data.y[i]);
      bounds.bottom = Math.max(bounds.bottom, data.y[i], bounds.top + 1);
    }
    paint();
    fit();
  }

  // --- what is drawn ---------------------------------------------------------------------------------------------

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

  function scaleColour(share) { // red through sand to blue: doubt to certainty
    const stops = [[178, 34, 40], [222, 160, 84], [120, 160, 190], [33, 92, 168]];
    const place = clamp(share, 0, 1) * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(place));
    return stops[i].map((v, k) => Math.round(v + (stops[i + 1][k] - v) * (place - i)));
  }

  function paint() {
    const unknown = rgb("#7d7d86");
    const of = {
      flag: (i) => rgb(css(`--${FLAGS[data.flag[i]]}-dot`)),
      label: (i) => (data.label[i] === 255 ? unknown : rgb(PALETTE[data.label[i] % PALETTE.length])),
      confidence: (i) => (data.confidence[i] === 255 ? unknown : scaleColour(data.confidence[i] / 200)),
    }[colour.value];
    const seen = new Map();
    const key = { flag: data.flag, label: data.label, confidence: data.confidence }[colour.value];
    tint = new Uint32Array(data.n);
    const count = new Map();
    for (let i = 0; i < data.n; i++) {
      if (!seen.has(key[i])) seen.set(key[i], packed(of(i)));
      tint[i] = seen.get(key[i]);
      count.set(key[i], (count.get(key[i]) || 0) + 1);
    }
    legend(count);
    ask();
  }

  function legend(count) {
    const signs = ["✓", "!", "≠"];
    const rows = {
      flag: () => FLAGS.map((name, i) => [css(`--${name}-dot`), `${signs[i]} ${name}`, count.get(i) || 0]),
      label: () => [...labels.map((name, i) => [PALETTE[i % PALETTE.length], name, count.get(i) || 0]), ...(count.get(255) ? [["#7d7d86", "no verdict", count.get(255)]] : [])],
      confidence: () => [0, 0.25, 0.5, 0.75, 1].map((share) => [`rgb(${scaleColour(share)})`, share.toFixed(2), null]),
    }[colour.value]();
    document.getElementById("legend").replaceChildren(...rows.map(([fill, words, n]) => {
      const row = document.createElement("li");
      const dot = document.createElement("i");
      dot.style.background = fill;
      row.append(dot, n === null ? words : `${words} (${n.toLocaleString("en")})`);
      return row;
    }));
  }

  function ask() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function stamp(radius) { // the pixels of a dot, with how much of each is covered
    const reach = Math.ceil(radius);
    const pixels = [];
    for (let dy = -reach; dy <= reach; dy++)
      for (let dx = -reach; dx <= reach; dx++) {
        const cover = clamp(radius + 0.5 - Math.hypot(dx, dy), 0, 1);
        if (cover > 0) pixels.push([dx, dy, cover]);
      }
    return pixels;
  }

  const radius = () => {
    const zoom = view.scale / whole().scale;
    const base = data.n > 30000 ? 1.1 : data.n > 5000 ? 1.6 : data.n > 1000 ? 2.4 : 3.4;
    return clamp(base * Math.sqrt(zoom), base, 7) * devicePixelRatio;
  };

  function draw() {
    if (!data) return;
    const { width, height } = points;
    const pen = points.getContext("2d");
    const image = pen.createImageData(width, height);
    const out = image.data;
    const dot = stamp(radius());
    for (let i = data.n - 1; i >= 0; i--) { // the most doubtful are drawn last, on top
      const px = Math.round((data.x[i] - view.x) * view.scale);
      const py = Math.round((data.y[i] - view.y) * view.scale);
      if (px < -9 || py < -9 || px > width + 9 || py > height + 9) continue;
      const c = tint[i];
      const r = c & 255, g = (c >> 8) & 255, b = (c >> 16) & 255;
      for (const [dx, dy, cover] of dot) {
        const x = px + dx, y = py + dy;
        if (x < 0 || y < 0 || x >= width || y >= height) continue;
        const at = (y * width + x) * 4;
        const a = cover * 0.85, under = (out[at + 3] / 255) * (1 - a), sum = a + under;
        out[at] = (r * a + out[at] * under) / sum;
        out[at + 1] = (g * a + out[at + 1] * under) / sum;
        out[at + 2] = (b * a + out[at + 2] * under) / sum;
        out[at + 3] = sum * 255;
      }
    }
    pen.putImageData(image, 0, 0);
    drawOver();
  }

  function drawOver() {
    const pen = over.getContext("2d");
    pen.clearRect(0, 0, over.width, over.height);
    pen.strokeStyle = css("--ink");
    pen.lineWidth = 2 * devicePixelRatio;
    points.dataset.task = chosen < 0 ? "" : data.ids[chosen];
    if (chosen >= 0) {
      const x = (data.x[chosen] - view.x) * view.scale, y = (data.y[chosen] - view.y) * view.scale;
      points.dataset.at = `${x / devicePixelRatio},${y / devicePixelRatio}`;
      pen.beginPath();
      pen.arc(x, y, radius() + 4 * devicePixelRatio, 0, 7);
      pen.stroke();
    }
    if (lasso && lasso.length > 1) {
      pen.beginPath();
      for (const [x, y] of lasso) pen.lineTo((x - view.x) * view.scale, (y - view.y) * view.scale);
      pen.closePath();
      pen.globalAlpha = 0.15;
      pen.fillStyle = css("--accent");
      pen.fill();
      pen.globalAlpha = 1;
      pen.stroke();
    }
  }

  // --- where one looks -------------------------------------------------------------------------------------------

  function whole() {
    const pad = 18 * devicePixelRatio;
    // One scale for both directions: distances count, so a wide stage may not stretch them.
    const scale = Math.min((points.width - 2 * pad) / (bounds.right - bounds.left), (points.height - 2 * pad) / (bounds.bottom - bounds.top));
    const middle = (low, high, size) => (low + high) / 2 - size / 2 / scale;
    return { scale, x: middle(bounds.left, bounds.right, points.width), y: middle(bounds.top, bounds.bottom, points.height) };
  }
  function fit() { view = whole(); ask(); }

  function zoom(factor, x = points.width / 2, y = points.height / 2) {
    const scale = clamp(view.scale * factor, whole().scale * 0.5, whole().scale * 400);
    view = { scale, x: view.x + x / view.scale - x / scale, y: view.y + y / view.scale - y / scale };
    ask();
  }

  function resize() {
    const box = points.parentElement.getBoundingClientRect();
    for (const canvas of [points, over]) {
      canvas.width = Math.round(box.width * devicePixelRatio);
      canvas.height = Math.round(box.height * devicePixelRatio);
    }
    if (data) fit();
  }

  // --- which point is under the pointer --------------------------------------------------------------------------

  const CELLS = 256;
  const cell = (v) => Math.min(CELLS - 1, Math.floor((v / (GRID + 1)) * CELLS));
  function cells() {
    const found = new Map();
    for (let i = 0; i < data.n; i++) {
      const key = cell(data.x[i]) * CELLS + cell(data.y[i]);
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(i);
    }
    return found;
  }

  function nearest(px, py) {
    const x = px / view.scale + view.x, y = py / view.scale + view.y;
    const reach = (radius() + 5 * devicePixelRatio) / view.scale;
    let best = -1, distance = reach * reach;
    for (let cx = cell(clamp(x - reach, 0, GRID)); cx <= cell(clamp(x + reach, 0, GRID)); cx++)
      for (let cy = cell(clamp(y - reach, 0, GRID)); cy <= cell(clamp(y + reach, 0, GRID)); cy++)
        for (const i of index.get(cx * CELLS + cy) || []) {
          const d = (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
          if (d < distance || (d === distance && i < best)) [best, distance] = [i, d];
        }
    return best;
  }

  // --- what is said about it -------------------------------------------------------------------------------------

  const known = new Map();
  let asked = 0;
  async function tell(i) {
    chosen = i;
    drawOver();
    points.style.cursor = i >= 0 && mode() === "move" ? "pointer" : "";
    if (i < 0) { tip.hidden = true; return; }
    const turn = ++asked;
    const id = data.ids[i];
    if (!known.has(id)) {
      await new Promise((wait) => setTimeout(wait, 60)); // a pointer on its way asks nothing
      if (turn !== asked) return;
      const answer = await fetch(root.dataset.sample.replace("/0.json", `/${id}.json`));
      if (!answer.ok) return;
      known.set(id, await answer.json());
    }
    if (turn === asked) showTip(i, known.get(id));
  }

  function showTip(i, sample) {
    const line = (words, tag = "p") => Object.assign(document.createElement(tag), { textContent: words });
    const text = document.createElement("p");
    text.append(line(sample.text + (sample.length > sample.text.length ? " …" : ""), "bdi"));
    const number = (v) => (v === null ? "–" : v.toFixed(3));
    const who = sample.human_label !== null ? ` · person ${sample.human_label}` : "";
    const facts = line(`${["✓", "!", "≠"][FLAGS.indexOf(sample.flag)] || "·"} ${sample.flag || "not judged"} · LLM ${sample.llm_label ?? "–"} · SLM ${sample.slm_label ?? "–"}${who}`);
    const small = line(`task ${sample.task_id} · rank ${sample.rank} · confidence ${number(sample.confidence)} · clean-probability ${number(sample.p_clean)}`);
    small.className = "dim";
    tip.replaceChildren(text, facts, small);
    tip.hidden = false;
    const x = ((data.x[i] - view.x) * view.scale) / devicePixelRatio, y = ((data.y[i] - view.y) * view.scale) / devicePixelRatio;
    const stage = points.parentElement;
    tip.style.left = `${clamp(x + 14, 4, Math.max(4, stage.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 14 + tip.offsetHeight > stage.clientHeight ? Math.max(4, y - tip.offsetHeight - 14) : y + 14}px`;
  }

  function open(i) {
    if (i < 0 || !root.dataset.task) return;
    window.open(root.dataset.task.replace(/task=0$/, `task=${data.ids[i]}`), "_blank", "noopener");
  }

  // --- hands -----------------------------------------------------------------------------------------------------

  const mode = () => document.querySelector("input[name=mode]:checked").value;
  const at = (event) => [event.offsetX * devicePixelRatio, event.offsetY * devicePixelRatio];
  const held = new Map(); // pointers that are down
  let moved = 0;

  points.addEventListener("pointerdown", (event) => {
    if (!data) return;
    points.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    moved = 0;
    if (mode() === "lasso" && held.size === 1) { lasso = []; openSet.hidden = true; tell(-1); }
  });
  points.addEventListener("pointermove", (event) => {
    if (!data) return;
    const here = at(event);
    const before = held.get(event.pointerId);
    if (!before) { if (mode() === "move" || !lasso) tell(nearest(...here)); return; }
    moved += Math.hypot(here[0] - before[0], here[1] - before[1]);
    if (held.size === 2) {
      const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (p) => Math.max(1, Math.hypot(p[0] - other[0], p[1] - other[1]));
      zoom(apart(here) / apart(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    } else if (mode() === "lasso" && lasso) {
      lasso.push([clamp(here[0] / view.scale + view.x, 0, GRID), clamp(here[1] / view.scale + view.y, 0, GRID)]);
      drawOver();
    } else {
      view.x -= (here[0] - before[0]) / view.scale;
      view.y -= (here[1] - before[1]) / view.scale;
      tip.hidden = true;
      ask();
    }
    held.set(event.pointerId, here);
  });
  const release = (event) => {
    if (!held.delete(event.pointerId) || !data || event.type === "pointercancel") return;
    if (mode() === "lasso" && lasso) finishLasso();
    else if (moved < 5 * devicePixelRatio) {
      const i = nearest(...at(event));
      // A finger has no hover: its first tap tells, the second on the same dot opens.
      if (event.pointerType !== "mouse" && i !== chosen) tell(i);
      else open(i);
    }
  };
  points.addEventListener("pointerup", release);
  points.addEventListener("pointercancel", release);
  points.addEventListener("pointerleave", () => held.size === 0 && tell(-1));
  points.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), ...at(event));
  }, { passive: false });

  function finishLasso() {
    if (lasso.length < 3) { lasso = null; drawOver(); return; }
    const step = Math.ceil(lasso.length / MAX_CORNERS);
    lasso = lasso.filter((_, i) => i % step === 0);
    const inside = count(lasso);
    const corners = lasso.flatMap(([x, y]) => [Math.round(x), Math.round(GRID - y)]).join(",");
    const where = new URLSearchParams({ round: root.dataset.round, area_round: root.dataset.round, area: corners });
    if (root.dataset.control) where.set("area_control", root.dataset.control);
    openSet.href = `${root.dataset.samples}?${where}`;
    openSet.textContent = `Show the set (${inside.toLocaleString("en")})`;
    openSet.hidden = false;
    drawOver();
  }

  function count(corners) { // even-odd, as the server counts
    let sum = 0;
    for (let i = 0; i < data.n; i++) {
      let hit = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        const [x1, y1] = corners[b], [x2, y2] = corners[a];
        if (y1 > data.y[i] !== y2 > data.y[i] && data.x[i] < ((x2 - x1) * (data.y[i] - y1)) / (y2 - y1) + x1) hit = !hit;
      }
      sum += hit;
    }
    return sum;
  }

  points.addEventListener("keydown", (event) => {
    if (!data || !data.n || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const next = clamp(chosen < 0 ? 0 : chosen + step, 0, data.n - 1);
      const px = (data.x[next] - view.x) * view.scale, py = (data.y[next] - view.y) * view.scale;
      if (px < 0 || py < 0 || px > points.width || py > points.height) {
        view.x += (px - points.width / 2) / view.scale;
        view.y += (py - points.height / 2) / view.scale;
        ask();
      }
      tell(next);
    } else if (event.key === "Enter") open(chosen);
    else if (event.key === "+") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });

  document.getElementById("in").addEventListener("click", () => zoom(1.4));
  document.getElementById("out").addEventListener("click", () => zoom(1 / 1.4));
  document.getElementById("whole").addEventListener("click", fit);
  colour.addEventListener("change", () => data && paint());
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", () => {
    points.classList.toggle("lasso", mode() === "lasso");
    if (mode() === "move") { lasso = null; openSet.hidden = true; drawOver(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => data && paint());
  new ResizeObserver(resize).observe(points.parentElement);
  resize();
  load();
})();
