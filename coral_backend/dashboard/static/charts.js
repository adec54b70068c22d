// Draws the charts of a page with uPlot from the JSON in their data-chart attribute.
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const HEIGHT = 250;

  function axes(chart, more) {
    const font = "12px system-ui, sans-serif";
    const axis = (label) => ({ label, labelFont: font, font, stroke: css("--dim"), labelSize: 20, grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 } });
    return [{ ...axis(chart.x_title), ...more }, { ...axis(chart.y_title), size: 56 }];
  }

  function draw(place, options, data) {
    const size = () => ({ width: Math.max(260, place.clientWidth), height: HEIGHT });
    const plot = new uPlot({ ...size(), cursor: { drag: { x: false, y: false } }, ...options }, data, place);
    new ResizeObserver(() => plot.width !== size().width && plot.setSize(size())).observe(place);
  }

  const kinds = {
    // Stacked bars by flag, each bin with both its edges, and curves over them on a finer grid of their own.
    bars(place, chart) {
      const width = chart.edges[1] - chart.edges[0];
      const middles = chart.edges.slice(0, -1).map((edge) => edge + width / 2);
      const curves = chart.curves || [];
      const x = [...new Set([...middles, ...curves.flatMap((curve) => curve.x)])].sort((a, b) => a - b);
      const bin = new Map(middles.map((middle, i) => [middle, i]));
      const at = (i, upTo) => chart.bars.slice(0, upTo + 1).reduce((sum, bar) => sum + bar.values[i], 0);
      // The highest stack is drawn first; the lower ones lie before it.
      const stacks = chart.bars.map((bar, k) => ({ bar, k })).reverse();
      const series = stacks.map(({ bar, k }) => ({
        label: bar.label, fill: css(`--${bar.label}-dot`), stroke: css(`--${bar.label}-dot`), width: 0, points: { show: false },
        paths: (u, s, from, to) => stacked(u, s, from, to, width),
        value: (u, v, s, i) => (i == null || !bin.has(x[i]) ? "–" : bar.values[bin.get(x[i])]),
      }));
      const rows = stacks.map(({ k }) => x.map((v) => (bin.has(v) ? at(bin.get(v), k) : null)));
      const lines = curves.map((curve, i) => {
        const y = new Map(curve.x.map((v, j) => [v, curve.y[j]]));
        rows.push(x.map((v) => (y.has(v) ? y.get(v) : undefined)));
        return { label: curve.label, stroke: css("--ink"), width: 2, dash: i ? [6, 4] : undefined, points: { show: false }, spanGaps: true, value: (u, v, s, k) => (k == null ? "–" : height(curve, x[k]).toFixed(1)) };
      });
      const top = Math.max(...middles.map((_, i) => at(i, chart.bars.length - 1)));
      // The curves may rise far over the bars (a narrow heap at zero): the bars decide the scale.
      const scales = { x: { time: false, range: [chart.edges[0], chart.edges.at(-1)] }, y: { range: [0, top * 1.12 || 1] } };
      const snap = { dataIdx: (u, s, i) => (bin.has(x[i]) ? i : nearest(x, bin, i)) };
      draw(place, { scales, axes: axes(chart), cursor: { drag: { x: false, y: false }, ...snap }, series: [{ label: "around", value: (u, v) => (v == null ? "–" : v.toFixed(3)) }, ...series, ...lines] }, [x, ...rows]);
    },
    reliability(place, chart) {
      const x = [0, ...chart.x, 1];
      const pad = (values, first = null, last = null) => [first, ...values, last];
      const right = pad(chart.y);
      const count = pad(chart.n);
      const solid = pad(chart.y.map((y, i) => (chart.joined[i] ? y : null)));
      const dot = (fill) => ({ show: true, size: 8, fill, stroke: css("--accent"), width: 2 });
      const share = (u, v) => (v == null ? "–" : `${(v * 100).toFixed(1)} %`);
      draw(place, {
        scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1.02] } }, axes: axes(chart),
        series: [{ label: "confidence", value: share }, { label: "as it says", stroke: css("--dim"), dash: [4, 4], width: 1, points: { show: false }, value: share },
          { label: "few tasks", stroke: "transparent", width: 0, points: dot(css("--card")), value: share },
          { label: "right", stroke: css("--accent"), width: 2, spanGaps: true, points: dot(css("--accent")), value: (u, v, s, i) => (i == null || right[i] == null ? "–" : `${share(u, right[i])} of ${count[i]}`) }],
      }, [x, x, right, solid]);
    },
    lines(place, chart) {
      const series = chart.lines.map((line) => ({ label: line.label, stroke: css("--accent"), width: 2, points: { show: true, size: 7, fill: css("--accent") } }));
      const whole = { values: (u, ticks) => ticks.map((v) => (Number.isInteger(v) ? v : "")) };
      const ends = [Math.min(...chart.x) - 0.2, Math.max(...chart.x) + 0.2];
      const scales = { x: { time: false, range: ends }, y: { range: (u, low, high) => [0, high * 1.1 || 1] } };
      draw(place, { scales, axes: axes(chart, whole), series: [{ label: chart.x_title }, ...series] }, [chart.x, ...chart.lines.map((line) => line.values)]);
    },
  };

  const height = (curve, at) => curve.y[Math.min(curve.y.length - 1, Math.max(0, Math.round((at - curve.x[0]) / (curve.x[1] - curve.x[0]))))];

  function nearest(x, bin, i) {
    for (let step = 1; step < x.length; step++) {
      if (bin.has(x[i - step])) return i - step;
      if (bin.has(x[i + step])) return i + step;
    }
    return i;
  }

  function stacked(u, s, from, to, width) {
    const path = new Path2D();
    const zero = u.valToPos(0, "y", true);
    for (let i = from; i <= to; i++) {
      const value = u.data[s][i];
      if (value == null || value === 0) continue;
      const left = u.valToPos(u.data[0][i] - width / 2, "x", true);
      const right = u.valToPos(u.data[0][i] + width / 2, "x", true);
      const top = u.valToPos(value, "y", true);
      path.rect(left + 0.5, top, Math.max(1, right - left - 1), zero - top);
    }
    return { fill: path, stroke: null, clip: null };
  }

  for (const place of document.querySelectorAll(".chart")) kinds[place.dataset.kind](place, JSON.parse(place.dataset.chart));
})();
