'use strict';
// A map of points on a canvas. Views that share a camera move together.

/** Where one looks: the centre in quantised units, and the magnification. */
class Camera {
  views = new Set();

  constructor() {
    this.lookAt([0, 0]);
  }

  lookAt(spans) {
    this.home = { x: spans[0] / 2, y: spans[1] / 2, zoom: 1 };
    this.spans = spans;
    this.reset();
  }

  reset() {
    Object.assign(this, this.home);
    this.moved();
  }

  zoomBy(factor, x = this.x, y = this.y) {
    const zoom = Math.min(400, Math.max(0.5, this.zoom * factor));
    const kept = this.zoom / zoom; // the point (x, y) stays where it is on the screen
    this.x = x + (this.x - x) * kept;
    this.y = y + (this.y - y) * kept;
    this.zoom = zoom;
    this.moved();
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.moved();
  }

  moved() {
    for (const view of this.views) view.redraw();
  }
}

/** Pixels of a disc, relative to its centre: [dx, dy, coverage from 0 to 256]; smooth at the edge. */
function disc(radius) {
  const reach = Math.ceil(radius);
  const pixels = [];
  for (let dy = -reach; dy <= reach; dy += 1) {
    for (let dx = -reach; dx <= reach; dx += 1) {
      const coverage = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy))));
      if (coverage > 0) pixels.push([dx, dy, coverage]);
    }
  }
  return { reach, pixels };
}

const MAX_NUMBERS = 60;

/** Of the largest clusters, the largest last: the place of the member that is nearest to the median of the cluster. */
function numberAnchors(codes, { x, y, positions }) {
  const members = new Map();
  for (let place = 0; place < positions.length; place += 1) {
    const code = codes[positions[place]];
    if (code <= NOISE_CODE) continue;
    if (members.has(code)) members.get(code).push(place);
    else members.set(code, [place]);
  }
  const largest = [...members].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]).slice(0, MAX_NUMBERS);
  return largest.reverse().map(([code, places]) => {
    const middle = [x, y].map((values) => median(places, values));
    const away = (place) => (x[place] - middle[0]) ** 2 + (y[place] - middle[1]) ** 2;
    return { code, place: places.reduce((best, place) => (away(place) < away(best) ? place : best)) };
  });
}

function median(places, values) {
  const sorted = Float64Array.from(places, (place) => values[place]).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

class MapView {
  constructor(host, { label, camera = new Camera() }) {
    this.camera = camera;
    this.canvas = h('canvas', {
      tabindex: 0,
      role: 'application',
      'aria-label': label,
      'aria-describedby': 'map-help',
    });
    this.overlay = svg('svg', { class: 'map-overlay', 'aria-hidden': 'true' });
    this.frame = h('div', { class: 'map-frame' }, this.canvas, this.overlay);
    this.showNumbers = true;
    this.showNoise = true;
    this.showUnseen = false;
    this.isolated = null;
    this.mode = 'pan';
    camera.views.add(this);
    host.append(mapTools(this), this.frame);
    attachPointer(this);
    attachKeys(this);
    new ResizeObserver(() => this.redraw()).observe(this.frame);
    on('theme', () => this.recolour());
    on('selection', () => this.recolour());
  }

  async setMap(index) {
    const map = report.maps[index];
    this.places = await placesOf(map);
    this.mapIndex = index;
    if (this.camera.map !== map) {
      this.camera.map = map;
      this.camera.lookAt(map.spans);
    }
    this.recolour();
  }

  /** Show a labelling: codes of all page rows, and their names and tints. */
  setLabels(codes, legend = NO_LEGEND) {
    this.codes = codes;
    this.legend = legend;
    this.recolour();
  }

  isolate(code) {
    this.isolated = code;
    this.recolour();
  }

  /** Decide what is drawn, in which order and colour; moving the camera needs none of it again. */
  recolour() {
    if (!this.places) return;
    const layers = this.layers();
    this.order = Int32Array.from(layers.flatMap((layer) => layer));
    this.nPlain = this.order.length - layers[4].length - (this.isolated === null ? 0 : layers[3].length);
    this.ink = this.inks(layers);
    this.placeNumbers();
    this.redraw();
  }

  /** Places from the lowest layer to the highest: not seen, noise, dimmed clusters, clusters, selected rows. */
  layers() {
    const { positions } = this.places;
    const layers = [[], [], [], [], []];
    const selected = this.selectedMask();
    for (let place = 0; place < positions.length; place += 1) {
      const position = positions[place];
      const code = this.codes ? this.codes[position] : NOISE_CODE;
      if (selected && selected[position]) layers[4].push(place);
      else if (code === UNSEEN_CODE) layers[0].push(place);
      else if (this.isolated !== null && code === this.isolated) layers[3].push(place);
      else if (code === NOISE_CODE) layers[1].push(place);
      else layers[this.isolated === null && !selected ? 3 : 2].push(place);
    }
    if (!this.showUnseen) layers[0] = [];
    if (!this.showNoise) layers[1] = [];
    return layers;
  }

  selectedMask() {
    if (!state.selection) return null;
    const mask = new Uint8Array(report.n_page_rows);
    for (const position of state.selection) mask[position] = 1;
    return mask;
  }

  inks(layers) {
    const back = backgroundOf(this.canvas);
    const shares = [0.8, this.isolated === null && !state.selection ? 0.85 : 0.35, 0.18, 1, 1];
    const ink = new Uint32Array(this.order.length);
    let i = 0;
    layers.forEach((layer, depth) => {
      const memo = new Map();
      for (const place of layer) {
        const code = this.codes ? this.codes[this.places.positions[place]] : NOISE_CODE;
        if (!memo.has(code)) memo.set(code, packed(blended(rgbOf(tintOf(code, this.legend)), back, shares[depth])));
        ink[i++] = memo.get(code);
      }
    });
    return ink;
  }

  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  /** Pixels of the canvas for one quantised unit, and the canvas' centre. */
  transform() {
    const { width, height } = this.canvas;
    const [spanX, spanY] = this.camera.spans;
    const fit = 0.92 * Math.min(width / Math.max(1, spanX), height / Math.max(1, spanY));
    return { scale: fit * this.camera.zoom, middleX: width / 2, middleY: height / 2 };
  }

  fitCanvas() {
    const { clientWidth, clientHeight } = this.frame;
    const width = Math.round(clientWidth * devicePixelRatio);
    const height = Math.round(clientHeight * devicePixelRatio);
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.image = null;
  }

  draw() {
    this.fitCanvas();
    const { width, height } = this.canvas;
    if (!this.order || !width || !height) return;
    const start = performance.now();
    const context = this.canvas.getContext('2d', { alpha: false });
    this.image ??= context.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer);
    pixels.fill(packed(backgroundOf(this.canvas)));
    const radius = this.radius();
    this.stamp(pixels, 0, this.nPlain, disc(radius));
    this.stamp(pixels, this.nPlain, this.order.length, disc(radius + 0.9 * devicePixelRatio));
    context.putImageData(this.image, 0, 0);
    this.drawNumbers(context);
    this.drawMs = performance.now() - start;
  }

  /** Many points are small, and grow slowly when one zooms in. */
  radius() {
    const base = Math.min(3.6, Math.max(0.7, 5.2 - 0.92 * Math.log10(Math.max(10, this.order.length))));
    return Math.min(7, base * this.camera.zoom ** 0.35) * devicePixelRatio;
  }

  stamp(pixels, from, to, { reach, pixels: shape }) {
    const { width, height } = this.canvas;
    const { scale, middleX, middleY } = this.transform();
    const { x: centreX, y: centreY } = this.camera;
    const { x, y } = this.places;
    const offsets = Int32Array.from(shape, ([dx, dy]) => dy * width + dx);
    const coverages = Int32Array.from(shape, ([, , coverage]) => coverage);
    for (let i = from; i < to; i += 1) {
      const place = this.order[i];
      const px = Math.round(middleX + (x[place] - centreX) * scale);
      const py = Math.round(middleY - (y[place] - centreY) * scale);
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      const at = py * width + px;
      const ink = this.ink[i];
      for (let k = 0; k < offsets.length; k += 1) {
        const pixel = at + offsets[k];
        pixels[pixel] = coverages[k] === 256 ? ink : mixed(ink, pixels[pixel], coverages[k]);
      }
    }
  }

  /** Find where the numbers of the clusters stand, once for each labelling on each map: redrawing only writes them. */
  placeNumbers() {
    if (this.numbered?.codes === this.codes && this.numbered?.places === this.places) return;
    this.numbered = {
      codes: this.codes,
      places: this.places,
      anchors: this.codes ? numberAnchors(this.codes, this.places) : [],
    };
  }

  /** Labels of the clusters with a halo, the largest cluster's last. */
  drawNumbers(context) {
    if (!this.showNumbers) return;
    const { scale, middleX, middleY } = this.transform();
    const { color, backgroundColor } = getComputedStyle(this.canvas);
    Object.assign(context, { textAlign: 'center', textBaseline: 'middle', lineJoin: 'round' });
    Object.assign(context, { fillStyle: color, strokeStyle: backgroundColor, lineWidth: 4 * devicePixelRatio });
    context.font = `650 ${13 * devicePixelRatio}px system-ui, sans-serif`;
    for (const { code, place } of this.numbered.anchors) {
      if (this.isolated !== null && code !== this.isolated) continue;
      const x = middleX + (this.places.x[place] - this.camera.x) * scale;
      const y = middleY - (this.places.y[place] - this.camera.y) * scale;
      context.strokeText(labelOf(code), x, y);
      context.fillText(labelOf(code), x, y);
    }
  }

  /** Position on the canvas, in CSS pixels, of a page row; null if the map does not place it. */
  locate(position) {
    const place = this.places.placeOf[position];
    if (place < 0) return null;
    const { scale, middleX, middleY } = this.transform();
    return {
      x: (middleX + (this.places.x[place] - this.camera.x) * scale) / devicePixelRatio,
      y: (middleY - (this.places.y[place] - this.camera.y) * scale) / devicePixelRatio,
    };
  }

  /** Map units of a point on the canvas in CSS pixels. */
  unitsAt(cssX, cssY) {
    const { scale, middleX, middleY } = this.transform();
    return {
      x: this.camera.x + (cssX * devicePixelRatio - middleX) / scale,
      y: this.camera.y - (cssY * devicePixelRatio - middleY) / scale,
    };
  }

  /** The drawn page row nearest to a point within 9 CSS pixels, the topmost of equals; or null. */
  rowAt(cssX, cssY) {
    if (!this.order) return null;
    const at = this.unitsAt(cssX, cssY);
    const { x, y, positions } = this.places;
    let best = ((9 * devicePixelRatio) / this.transform().scale) ** 2;
    let found = null;
    for (let i = this.order.length - 1; i >= 0; i -= 1) {
      const place = this.order[i];
      const distance = (x[place] - at.x) ** 2 + (y[place] - at.y) ** 2;
      if (distance < best) {
        best = distance;
        found = positions[place];
      }
    }
    return found;
  }

  /** Drawn page rows for which `inside(x, y)` holds, in map units; ascending. */
  rowsInside(inside) {
    const { x, y, positions } = this.places;
    const found = [];
    for (const place of this.order) if (inside(x[place], y[place])) found.push(positions[place]);
    return found.sort((a, b) => a - b);
  }
}

function mixed(front, back, coverage) {
  const rest = 256 - coverage;
  // Red and blue are far enough apart to be mixed in one multiplication.
  const redBlue = (((front & 0xff00ff) * coverage + (back & 0xff00ff) * rest) >>> 8) & 0xff00ff;
  const green = (((front & 0x00ff00) * coverage + (back & 0x00ff00) * rest) >>> 8) & 0x00ff00;
  return (0xff000000 | redBlue | green) >>> 0;
}
