// Drawing: loudness of a stream, the wave strip and the small plots. Knows nothing of the call.

const FLOOR_DB = -60;
const WAVE_SECONDS = 8;

// Loudness of a stream, 0 to 1 on a scale of decibels.
export class Loudness {
  constructor(context, stream) {
    this.analyser = new AnalyserNode(context, { fftSize: 1024 });
    this.samples = new Float32Array(this.analyser.fftSize);
    this.source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    this.source.connect(this.analyser);
  }

  read() {
    this.analyser.getFloatTimeDomainData(this.samples);
    const power = this.samples.reduce((sum, x) => sum + x * x, 0) / this.samples.length;
    const db = 10 * Math.log10(power + 1e-12);
    return Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
  }
}

// A meter that rises at once and falls slowly.
export class Meter {
  level = 0;

  constructor(element, ring) {
    this.element = element;
    this.fill = element.firstElementChild;
    this.ring = ring;
  }

  show(level) {
    this.level = Math.max(level, this.level * 0.92 - 0.002, 0);
    this.fill.style.transform = `translateX(${(101 * (this.level - 1)).toFixed(1)}%)`;
    this.ring.style.transform = `scale(${(1 + this.level * 0.42).toFixed(3)})`;
  }

  announce() {
    this.element.setAttribute("aria-valuenow", String(Math.round(this.level * 100)));
  }
}

// The last seconds of two loudnesses: one above the line, one below.
export class Wave {
  points = [];

  constructor(canvas) {
    this.canvas = canvas;
  }

  get isQuiet() {
    return this.points.every(({ you, back }) => you === 0 && back === 0);
  }

  add(now, you, back) {
    this.points.push({ now, you, back });
    while (this.points[0].now < now - WAVE_SECONDS * 1000) this.points.shift();
  }

  draw(now) {
    const { context, width, height, color } = prepare(this.canvas);
    const middle = height / 2;
    const bar = 3;
    const step = 5;
    const columns = Math.floor(width / step);
    const span = (WAVE_SECONDS * 1000) / columns;
    const loudest = new Map();
    for (const { now: at, you, back } of this.points) {
      const column = Math.floor(at / span);
      const old = loudest.get(column) ?? { you: 0, back: 0 };
      loudest.set(column, { you: Math.max(old.you, you), back: Math.max(old.back, back) });
    }
    const last = Math.floor(now / span);
    stroke(context, [[0, middle], [width, middle]], color("--line"), 1);
    for (let i = 0; i < columns; i++) {
      const { you, back } = loudest.get(last - i) ?? { you: 0, back: 0 };
      const x = width - (i + 1) * step;
      if (you > 0) pillar(context, x, middle - 2, bar, -1.5 - you * (middle - 5), color("--you"));
      if (back > 0) pillar(context, x, middle + 2, bar, 1.5 + back * (middle - 5), color("--back"));
    }
  }
}

function pillar(context, x, y, width, height, color) {
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x, Math.min(y, y + height), width, Math.abs(height), 1.5);
  context.fill();
}

// A series of the last minute as an area; `least` is the smallest full scale of its axis.
export class Plot {
  values = [];

  constructor(canvas, { least, size }) {
    this.canvas = canvas;
    this.least = least;
    this.size = size;
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.size) this.values.shift();
  }

  draw() {
    const { context, width, height, color } = prepare(this.canvas);
    const top = scaleFor(Math.max(this.least, ...this.values.map((value) => value ?? 0)));
    const floor = height - 4; // room for the dot
    const x = (index) => width - 4 - ((this.values.length - 1 - index) * (width - 4)) / (this.size - 1);
    const y = (value) => floor - (value / top) * (floor - 14);
    this.#grid(context, width, floor, top, color);
    for (const run of runs(this.values)) {
      const line = run.map(([index, value]) => [x(index), y(value)]);
      area(context, line, floor, color("--plot-fill"));
      stroke(context, line, color("--plot"));
    }
    const newest = this.values.at(-1);
    if (newest != null) dot(context, x(this.values.length - 1), y(newest), color("--plot"));
  }

  #grid(context, width, floor, top, color) {
    stroke(context, [[0, floor], [width, floor]], color("--line"), 1);
    context.setLineDash([2, 4]);
    stroke(context, [[0, 14], [width, 14]], color("--line"), 1);
    context.setLineDash([]);
    context.fillStyle = color("--muted");
    context.font = "11px system-ui, sans-serif";
    context.fillText(String(top), 0, 9);
  }
}

// 1, 2, 5, 10, 20, 50 ...
function scaleFor(value) {
  const decade = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * decade).find((scale) => scale >= value);
}

// Stretches without a gap, as lists of [index, value].
function runs(values) {
  const found = [];
  values.forEach((value, index) => {
    if (value == null) return;
    if (index === 0 || values[index - 1] == null) found.push([]);
    found.at(-1).push([index, value]);
  });
  return found;
}

function area(context, line, floor, color) {
  context.fillStyle = color;
  context.beginPath();
  context.moveTo(line[0][0], floor);
  for (const [x, y] of line) context.lineTo(x, y);
  context.lineTo(line.at(-1)[0], floor);
  context.fill();
}

function stroke(context, line, color, width = 1.75) {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.beginPath();
  for (const [x, y] of line) context.lineTo(x, y);
  context.stroke();
}

function dot(context, x, y, color) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(x, y, 3, 0, 2 * Math.PI);
  context.fill();
}

// Fit a canvas to its box and the screen's pixels, cleared; colours come from the style sheet.
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  const [pixelsWide, pixelsHigh] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixelsWide || canvas.height !== pixelsHigh) {
    Object.assign(canvas, { width: pixelsWide, height: pixelsHigh });
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  return { context, width, height, color: (name) => style.getPropertyValue(name) };
}
