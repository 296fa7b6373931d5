// The live page: draws what the daemon sends while the page is seen, and asks again when the daemon was away.

const SPAN_S = 12;
const SILENT_MS = 4000; // the daemon says something each second
const GAP_S = 0.3; // by which rows may come early or late without a hole in the picture
const QUIETEST_DB = -80;

const $ = (id) => document.getElementById(id);
const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

let source; // of events
let heardMs = 0; // when the daemon said something last
let seen; // what is known of the pipeline that is shown; see begin()
let shades; // of the spectrogram, 256 colours
let colours;

function begin(hello) {
  seen = {
    pipeline: hello.pipeline, run: hello.run, now: hello.now, words: hello.words,
    scores: hello.scores, marks: [], rows: [], bands: 0, rowS: 0.02, end: undefined, status: undefined,
  };
  $("pipelines").replaceChildren(...hello.pipelines.map((name) => new Option(name, name, false, name === hello.pipeline)));
  $("words").replaceChildren(...hello.words.map(wordRow));
  $("told").replaceChildren();
  $("nothing").hidden = false;
  hello.recent.forEach(tell);
  $("artifact").textContent = `${hello.artifact} · ${hello.runtime} · SHA-256 ${hello.digest.slice(0, 12)}… · EdgeRNN ${hello.version}`;
  const kind = hello.is_sound ? "Sound" : "Frames";
  $("heard").textContent = `${kind} and scores`;
  $("sound-name").textContent = kind;
  $("spectrogram").setAttribute("aria-label", `${hello.is_sound ? "Spectrogram" : "Values"} of the last ${SPAN_S} seconds, ${hello.is_sound ? "low pitch" : "the first"} at the bottom`);
  $("level-row").hidden = !hello.is_sound; // full scale means nothing to a sensor
  document.title = `${hello.pipeline} · EdgeRNN`;
  draw();
}

function wordRow({ word, threshold }, index) {
  const row = element("div", undefined, "row");
  const picture = element("canvas");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `Score of ${word}, last ${SPAN_S} seconds; threshold ${threshold}`);
  const value = element("output", "0.00");
  value.setAttribute("aria-live", "off");
  row.append(element("span", word, "name"), picture, value);
  row.dataset.index = index;
  return row;
}

function tell(event) {
  seen.marks.push({ t: Date.parse(event.time) / 1000 - seen.run, word: event.label });
  seen.marks.splice(0, seen.marks.length - 100);
  const line = element("li");
  const time = element("time", new Date(event.time).toLocaleTimeString());
  time.dateTime = event.time;
  line.append(time, element("b", event.label), element("span", event.score.toFixed(2)));
  line.dataset.id = event.id;
  $("told").prepend(line);
  while ($("told").children.length > 100) $("told").lastChild.remove();
  $("nothing").hidden = true;
}

function hear(sound) {
  seen.now = sound.now;
  seen.scores.push(...sound.scores);
  const first = seen.scores.findIndex(([t]) => t > sound.now - SPAN_S - 1);
  if (first > 0) seen.scores.splice(0, first);
  const bytes = Uint8Array.from(atob(sound.rows), (letter) => letter.charCodeAt(0));
  if (sound.bands !== seen.bands && bytes.length) Object.assign(seen, { bands: sound.bands, rows: [], end: undefined });
  if (bytes.length) addRows(bytes, sound);
  showLevel(sound.level);
  draw();
}

function addRows(bytes, sound) {
  const count = bytes.length / sound.bands;
  const most = Math.ceil(SPAN_S / sound.row_s) + 50;
  const missing = seen.end === undefined ? 0 : Math.round((sound.end - seen.end) / sound.row_s) - count;
  if (missing * sound.row_s > GAP_S) seen.rows.push(...Array(Math.min(most, missing)).fill(null));
  for (let row = 0; row < count; row++) seen.rows.push(bytes.subarray(row * sound.bands, (row + 1) * sound.bands));
  seen.rows.splice(0, seen.rows.length - most);
  // The rows' own clock: it only follows the sound card's where the two have come apart.
  const expected = seen.end === undefined ? sound.end : seen.end + count * sound.row_s;
  seen.end = Math.abs(sound.end - expected) > GAP_S ? sound.end : expected + 0.05 * (sound.end - expected);
  seen.rowS = sound.row_s;
}

function showLevel(level) {
  const db = Math.max(QUIETEST_DB, 20 * Math.log10(Math.max(level, 1e-9)));
  $("level").firstElementChild.style.width = `${100 * (1 - db / QUIETEST_DB)}%`;
  $("level").setAttribute("aria-valuenow", Math.round(db));
  $("level-value").textContent = `${Math.round(db)} dB`;
}

function canvasOf(picture) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(picture.clientWidth * scale);
  const height = Math.round(picture.clientHeight * scale);
  if (picture.width !== width || picture.height !== height) Object.assign(picture, { width, height });
  const context = picture.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, scale, x: (t) => width * (1 - (seen.now - t) / SPAN_S) };
}

function draw() {
  if (!seen) return;
  drawSpectrogram();
  for (const row of $("words").children) drawScores(row);
}

function drawSpectrogram() {
  const { context, width, height, scale, x } = canvasOf($("spectrogram"));
  const count = seen.rows.length;
  if (count && width) {
    const image = new ImageData(count, seen.bands);
    const pixels = new Uint32Array(image.data.buffer);
    seen.rows.forEach((row, column) => {
      for (let band = 0; row && band < seen.bands; band++) {
        pixels[(seen.bands - 1 - band) * count + column] = shades[row[band]];
      }
    });
    const small = new OffscreenCanvas(count, seen.bands);
    small.getContext("2d").putImageData(image, 0, 0);
    const left = x(seen.end - count * seen.rowS);
    context.drawImage(small, left, 0, x(seen.end) - left, height);
  }
  const marks = seen.marks.filter((mark) => mark.t > seen.now - SPAN_S - 1);
  context.fillStyle = colours.hot;
  for (const { t } of marks) context.fillRect(x(t), 0, 1.5 * scale, height);
  drawWords(context, marks, width, scale, x);
}

// Each word at the beginning of its line, in the first row of signs where there is room.
function drawWords(context, marks, width, scale, x) {
  const tall = 19 * scale;
  const ends = [];
  context.font = `600 ${13 * scale}px system-ui, sans-serif`;
  for (const { t, word } of marks) {
    const wide = context.measureText(word).width + 8 * scale;
    const left = Math.min(x(t), width - wide);
    const free = ends.findIndex((end) => end < left);
    const row = free < 0 ? ends.length : free;
    ends[row] = left + wide + scale;
    context.fillStyle = colours.hot;
    context.fillRect(left, row * tall, wide, tall - scale);
    context.fillStyle = colours.card;
    context.fillText(word, left + 4 * scale, row * tall + 14 * scale);
  }
}

function drawScores(row) {
  const index = Number(row.dataset.index);
  const { context, width, height, scale, x } = canvasOf(row.children[1]);
  const { threshold } = seen.words[index];
  const values = seen.scores.map((score) => score[index + 2]);
  const [low, high] = rangeOf(values, threshold);
  const y = (value) => height - 1 - ((value - low) / (high - low)) * (height - 2);
  if (seen.scores.length) {
    context.beginPath();
    context.moveTo(x(seen.scores[0][0]), height);
    seen.scores.forEach(([t], place) => context.lineTo(x(t), y(values[place])));
    context.lineTo(x(seen.scores.at(-1)[0]), height);
    context.fillStyle = colours.accent;
    context.fill();
  }
  context.fillStyle = colours.hot;
  for (let left = 0; left < width; left += 8 * scale) context.fillRect(left, y(threshold), 4 * scale, scale);
  const latest = values.at(-1) ?? 0;
  row.children[2].textContent = latest.toFixed(2);
  row.children[2].className = latest >= threshold ? "over" : "";
}

// Posteriors are shown from 0 to 1, values of another kind as far as they reach.
function rangeOf(values, threshold) {
  const [least, most] = [Math.min(0, ...values), Math.max(0, ...values)];
  if (threshold >= 0.1 && threshold <= 1 && least >= 0 && most <= 1) return [0, 1];
  return [Math.min(least, 1.5 * threshold), Math.max(most, 1.5 * threshold)];
}

function report(status) {
  const pipeline = status.pipeline;
  const before = seen.status;
  seen.status = status;
  const badges = { running: "good", ended: "wait", starting: "wait", reopening: "bad", failed: "bad" };
  badge(status.healthy ? pipeline.state : `${pipeline.state}, no progress`, status.healthy ? badges[pipeline.state] : "bad");
  $("down").hidden = !status.down.length;
  $("down").replaceChildren(...status.down.map(({ what, for_s, why }) => {
    const line = document.createElement("li");
    line.textContent = `${what}, for ${duration(for_s)}: ${why}`;
    return line;
  }));
  list("numbers", numbers(status, before));
  list("board", board(status));
  showLatency(pipeline.latency);
  showSinks(status.sinks);
}

function numbers(status, before) {
  const { pipeline } = status;
  const seconds = before && status.uptime_s - before.uptime_s;
  const load = seconds > 0 ? `${short.format((100 * (pipeline.busy_s - before.pipeline.busy_s)) / seconds)} % of a core` : "–";
  const steps = pipeline.step.counts.reduce((sum, count) => sum + count, 0);
  return {
    "Heard": duration(pipeline.seconds),
    "Frames": whole.format(pipeline.frames),
    "Steps": whole.format(pipeline.steps),
    "Mean step": steps ? `${short.format((1e6 * pipeline.step.sum_s) / steps)} µs` : "–",
    "Computing": load,
    "Deadline misses": whole.format(pipeline.deadline_misses),
    "Samples dropped": causes(pipeline.dropped),
    "Source reopened": whole.format(pipeline.reopened),
    "State begun anew": whole.format(pipeline.resets),
    "Artifact replaced": whole.format(pipeline.reloads),
    "Events": whole.format(Object.values(pipeline.words).reduce((sum, count) => sum + count, 0)),
  };
}

function board(status) {
  const found = status.board;
  return {
    "Up for": duration(status.uptime_s),
    "Health": status.healthy ? "progressing" : "stuck",
    "Ready": status.ready ? "yes" : "no",
    "Memory": `${short.format(found.memory_bytes / 1e6)} MB`,
    "Temperature": found.temperature_c === null ? "not told" : `${found.temperature_c.toFixed(1)} °C`,
    "Throttling": found.limits === null ? "not told" : found.limits.join(", ") || "none",
    "Clock": found.clock_hz === null ? "not told" : `${short.format(found.clock_hz / 1e6)} MHz`,
    "Events dropped": causes(status.events_dropped),
  };
}

function list(id, values) {
  const target = $(id);
  if (target.children.length !== Object.keys(values).length) {
    target.replaceChildren(...Object.keys(values).map((name) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd"));
      return pair;
    }));
  }
  Object.values(values).forEach((value, index) => { target.children[index].lastChild.textContent = value; });
}

function showLatency({ bounds_s, counts }) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const last = counts.findLastIndex((count) => count > 0);
  const first = Math.max(0, counts.findIndex((count) => count > 0));
  const rows = counts.slice(first, last + 1).map((count, offset) => {
    const row = element("tr");
    const share = element("td");
    const bar = element("i");
    bar.style.width = `${(100 * count) / total}%`;
    share.append(bar);
    const bound = bounds_s[first + offset];
    row.append(element("td", bound === undefined ? "more" : milliseconds(bound)), share, element("td", whole.format(count)));
    return row;
  });
  $("latency").tBodies[0].replaceChildren(...rows);
}

function showSinks(sinks) {
  const rows = Object.entries(sinks).map(([name, sink]) => {
    const row = element("tr");
    const title = element("td", name);
    if (sink.fault) title.append(element("span", sink.fault, "fault"));
    row.append(title, element("td", whole.format(sink.waiting)), element("td", whole.format(sink.delivered)));
    return row;
  });
  $("sinks").tBodies[0].replaceChildren(...rows);
}

const milliseconds = (seconds) => (seconds < 1 ? `${short.format(1000 * seconds)} ms` : `${short.format(seconds)} s`);
const causes = (counts) => Object.entries(counts).filter(([, count]) => count)
  .map(([cause, count]) => `${whole.format(count)} ${cause}`).join(", ") || "none";

function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  return units.slice(first, first + 2)
    .map(([unit, size], index) => `${Math.floor(index ? (seconds % units[first][1]) / size : seconds / size)} ${unit}`).join(" ");
}

function badge(words, mood) {
  const target = $("state");
  if (target.textContent !== words) target.textContent = words;
  target.dataset.mood = mood;
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = Object.fromEntries(["accent", "hot", "card"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  const stops = style.getPropertyValue("--shades").split(",").map((stop) => parseInt(stop.trim().slice(1), 16));
  shades = Uint32Array.from({ length: 256 }, (_, shade) => {
    const place = (shade / 255) * (stops.length - 1);
    const below = Math.min(stops.length - 2, Math.floor(place));
    const mix = (shift) => {
      const [from, to] = [stops[below], stops[below + 1]].map((stop) => (stop >> shift) & 255);
      return Math.round(from + (to - from) * (place - below));
    };
    return (255 << 24) | (mix(0) << 16) | (mix(8) << 8) | mix(16);
  });
  draw();
}

function connect() {
  source?.close();
  const wanted = decodeURIComponent(location.hash.slice(1));
  source = new EventSource(`/events?pipeline=${encodeURIComponent(wanted)}`);
  const on = (name, act) => source.addEventListener(name, (message) => {
    heardMs = performance.now();
    act(JSON.parse(message.data));
  });
  on("hello", begin);
  on("sound", hear);
  on("told", tell);
  on("status", report);
  source.addEventListener("error", () => badge("no connection, trying again", "bad"));
}

setInterval(() => {
  if (document.hidden) return;
  const lost = performance.now() - heardMs > SILENT_MS;
  if (lost) badge("no connection, trying again", "bad");
  if (source.readyState === EventSource.CLOSED || (lost && source.readyState === EventSource.OPEN)) connect();
}, 2000);

document.addEventListener("visibilitychange", () => { // nobody looks: the daemon need not send
  if (document.hidden) source.close();
  else connect();
});
$("pipelines").addEventListener("change", (event) => { location.hash = encodeURIComponent(event.target.value); });
window.addEventListener("hashchange", connect);
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColours);
readColours();
connect();
