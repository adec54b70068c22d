// How far along is the round? Asks every other second, moves the bars, and loads the page anew when a round begins or ends.
"use strict";
(() => {
  const card = document.getElementById("live");
  const hint = document.getElementById("live-hint");
  const WINDOW = 60000; // ms of progress that the time left is estimated from
  let active = card.dataset.active === "yes";
  let seen = { stage: null, points: [] };

  const span = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);

  // The rate of the last minute: a stage is done in chunks, and its first seconds say little.
  function left(stage, now) {
    if (seen.stage !== stage.name) seen = { stage: stage.name, points: [] };
    if (!stage.total) return "";
    seen.points.push([now, stage.done]);
    seen.points = seen.points.filter(([at]) => now - at <= WINDOW);
    const [at, done] = seen.points[0];
    const rate = (stage.done - done) / ((now - at) / 1000);
    if (now - at < 3000 || !(rate > 0)) return "";
    return `about ${span((stage.total - stage.done) / rate)} left in this stage`;
  }

  function show(found) {
    let words = "";
    for (const stage of found.stages || []) {
      const row = card.querySelector(`[data-stage="${stage.name}"]`);
      if (!row) continue;
      row.className = stage.state;
      const bar = row.querySelector("progress");
      bar.max = stage.total || 1;
      bar.value = stage.done;
      row.querySelector(".count").textContent = stage.count;
      row.querySelector(".detail").textContent = stage.detail;
      if (stage.state === "now" && found.status === "running") words = left(stage, Date.now());
    }
    if (found.silent) words = `No sign of life for ${span(found.silent)}. Is a worker running? Start one: coral worker`;
    if (hint.textContent !== words) hint.textContent = words;
    const status = document.querySelector("#live-status .status");
    status.textContent = found.status;
    status.className = `status ${found.status}`;
  }

  async function look() {
    try {
      const answer = await fetch(card.dataset.url, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const found = await answer.json();
      active = found.active;
      // A round that is waiting and one that runs have the same buttons; every other change needs the page.
      const plain = (mark) => mark.replace("-pending", "-running");
      if (plain(found.mark) !== plain(card.dataset.mark)) {
        // Not under somebody's hands: an open "Cancel…" stays.
        if (!card.querySelector("details[open]")) return location.replace(card.dataset.page);
      } else if (found.stages) show(found);
    } catch (error) {
      if (hint) hint.textContent = "CORAL does not answer; trying again.";
    }
    setTimeout(look, document.hidden ? 15000 : active ? 1500 : 8000);
  }
  setTimeout(look, active ? 500 : 8000);
})();
