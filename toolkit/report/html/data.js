'use strict';
// The data inside the page. Blocks are inflated when they are first asked for, and kept.

const report = JSON.parse(byId('page').textContent);

const UNSEEN_CODE = 0; // codes are labels + 2
const NOISE_CODE = 1;
const codeOf = (label) => label + 2;
const labelOf = (code) => code - 2;

const state = {
  model: null, // index of the model in the detail
  map: null, // index of the map in the detail
  isolated: null, // code of the cluster that the detail shows alone
  selection: null, // positions of the selected page rows, ascending
  visible: [], // indices of the models that the table shows, in its order
};

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function inflate(name) {
  const packed = new Blob([fromBase64(byId(name).textContent)]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream('deflate'))).arrayBuffer();
}

const inflated = new Map();

/** Remember the promise: a block that is asked for twice at the same time is inflated once. */
function once(key, make) {
  if (!inflated.has(key)) inflated.set(key, make());
  return inflated.get(key);
}

/** Numbers were written plane by plane: all lowest bytes, then all second ones. */
function joinPlanes(buffer, itemsize) {
  const planes = new Uint8Array(buffer);
  if (itemsize === 1) return planes;
  const n = planes.length / itemsize;
  const joined = itemsize === 2 ? new Uint16Array(n) : new Uint32Array(n);
  for (let plane = itemsize - 1; plane >= 0; plane -= 1) {
    for (let i = 0; i < n; i += 1) joined[i] = (joined[i] << 8) | planes[plane * n + i];
  }
  return joined;
}

function numbers(name, itemsize) {
  return once(name, async () => joinPlanes(await inflate(name), itemsize));
}

function json(name) {
  return once(name, async () => JSON.parse(new TextDecoder().decode(await inflate(name))));
}

/** From steps to the ascending numbers themselves; without a block they are 0, 1, 2 and so on. */
function ascending(name, n) {
  if (name === null) return once(`range ${n}`, async () => Uint32Array.from({ length: n }, (_, i) => i));
  return once(`${name} summed`, async () => {
    let sum = 0;
    return (await numbers(name, 4)).map((step) => (sum += step));
  });
}

/** The label codes of every page row, of a model or of a cut; null if the page has none. */
function codesOf(labelled) {
  return labelled.labels ? numbers(...labelled.labels) : Promise.resolve(null);
}

function clustersOf(model) {
  return model.clusters ? json(model.clusters) : Promise.resolve([]);
}

/** Places of a map: {x, y, positions, placeOf}, where placeOf gives the place of each page row, or -1. */
function placesOf(map) {
  return once(`places ${map.points}`, async () => {
    const both = await numbers(map.points, 2);
    const positions = await ascending(map.positions, map.n_placed);
    const placeOf = new Int32Array(report.n_page_rows).fill(-1);
    positions.forEach((position, place) => (placeOf[position] = place));
    return { x: both.subarray(0, map.n_placed), y: both.subarray(map.n_placed), positions, placeOf };
  });
}

const images = { paths: [], urls: null, rows: null };

/** Paths are needed only once something is hovered or selected; they come after the first drawing. */
function loadImages() {
  return once('images', async () => {
    const texts = await json(report.images);
    images.rows = await ascending(report.rows, report.n_page_rows);
    images.paths = report.has_urls ? texts.filter((_, i) => i % 2 === 0) : texts;
    images.urls = report.has_urls ? texts.filter((_, i) => i % 2 === 1) : null;
  });
}

let thumbnails = null;

/** Position -> address of its thumbnail. The text is large, and parsed only when the first one is shown. */
function thumbnailOf(position) {
  thumbnails ??= JSON.parse(byId('thumbnails').textContent);
  const data = thumbnails[position];
  return data ? `data:image/jpeg;base64,${data}` : null;
}

/** Why a model has no labels in the page. */
function whyNoLabels(model) {
  if (model.scores.error) return `This model failed, so it has no labels: ${model.scores.error}`;
  if (model.has_labels) return 'Its labels were left out to keep the page small; models/ in the run’s folder has them.';
  return 'Its labels are not in the page; models/ in the run’s folder has the labels of all models that did not fail.';
}

/**
 * How a model's clusters are called and coloured: names given by the user by code, and tints, which are the codes whose
 * colour is taken. Clusters that share a name have one tint, so that they look like the one cluster they are meant as.
 */
async function legendOf(model) {
  const named = (await clustersOf(model)).filter(({ name }) => name);
  const names = new Map(named.map(({ label, name }) => [codeOf(label), name]));
  const firsts = new Map();
  const tints = new Map();
  for (const [code, name] of names) {
    if (code === NOISE_CODE) continue; // stays grey
    if (!firsts.has(name)) firsts.set(name, code);
    tints.set(code, firsts.get(name));
  }
  return { names, tints };
}

const NO_LEGEND = { names: new Map(), tints: new Map() };
const tintOf = (code, legend = NO_LEGEND) => legend.tints.get(code) ?? code;

/** The label and, where there is one, the name: 8 · one. */
function shortName(code, { names } = NO_LEGEND) {
  if (code === UNSEEN_CODE) return 'not seen';
  const label = code === NOISE_CODE ? 'noise' : String(labelOf(code));
  return names.has(code) ? `${label} · ${names.get(code)}` : label;
}

/** As `shortName`, in a sentence: a number alone becomes cluster 8. */
function codeName(code, legend = NO_LEGEND) {
  const name = shortName(code, legend);
  return code > NOISE_CODE && !legend.names.has(code) ? `cluster ${name}` : name;
}

const labelledModels = () => report.models.map((_, i) => i).filter((i) => report.models[i].labels);

/** Count rows by code, only of `positions` if given: [[code, count], ...], the most first. */
function countCodes(codes, positions) {
  const counts = new Map();
  const add = (code) => counts.set(code, (counts.get(code) ?? 0) + 1);
  if (positions) positions.forEach((position) => add(codes[position]));
  else codes.forEach(add);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

function positionsWhere(test) {
  const found = [];
  for (let position = 0; position < report.n_page_rows; position += 1) if (test(position)) found.push(position);
  return found;
}
