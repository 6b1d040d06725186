'use strict';
// The chosen model: why, scores, its map, its clusters and what is in them.

const KINDS = { central: 'Most central', random: 'Random', border: 'At the border' };
const MAX_BARS = 500;
let detailView = null;
let clusterOrder = 'size';
let howIsOpen = false; // stays as it is from model to model

function makeDetail() {
  const mapSelect = h('select', { id: 'detail-map', onchange: (event) => chooseMap(Number(event.target.value)) });
  options(
    mapSelect,
    report.maps.map((map, i) => [i, mapName(map)]),
  );
  byId('detail').append(
    h('div', { id: 'detail-head' }),
    h(
      'div',
      { class: 'workbench' },
      h(
        'div',
        { id: 'map-column' },
        report.maps.length
          ? h('label', {}, 'Map ', mapSelect)
          : h('p', { class: 'notice' }, 'The report was made without maps.'),
        h('p', { id: 'map-note', class: 'caption' }),
        h(
          'p',
          { id: 'map-help', class: 'visually-hidden' },
          'Wheel or + and − zoom, drag or arrows move, Shift and drag selects, double click or 0 resets, Escape clears.',
        ),
      ),
      h('div', { id: 'clusters' }),
    ),
    h('div', { id: 'members' }),
  );
  if (!report.maps.length) return;
  detailView = new MapView(byId('map-column'), { label: 'Map of the chosen model' });
  byId('map-column').append(byId('map-note'));
}

const mapName = (map) => `${map.method} of ${map.descriptor}, ${map.scaler}`;

async function chooseMap(index) {
  state.map = index;
  byId('detail-map').value = String(index);
  byId('map-note').textContent = report.maps[index].note;
  await detailView.setMap(index);
}

/** The map of the model's own matrix, else of its descriptor, else the one that is shown. */
function mapFor(model) {
  const ofDescriptor = (map) => map.descriptor === model.descriptor;
  const exact = report.maps.findIndex((map) => ofDescriptor(map) && map.scaler === model.scaler);
  const near = exact >= 0 ? exact : report.maps.findIndex(ofDescriptor);
  return near >= 0 ? near : (state.map ?? 0);
}

async function chooseModel(index) {
  state.model = index;
  state.isolated = null;
  announce('model');
  const model = report.models[index];
  const [codes, legend] = await Promise.all([codesOf(model), legendOf(model)]);
  if (state.model !== index) return; // another one was chosen in the meantime
  showHead(model);
  if (detailView) {
    detailView.isolated = null;
    detailView.setLabels(codes, legend);
    await chooseMap(mapFor(model));
  }
  await showContents();
}

async function showContents() {
  const model = report.models[state.model];
  const [codes, clusters, legend] = await Promise.all([codesOf(model), clustersOf(model), legendOf(model)]);
  if (report.models[state.model] !== model) return;
  showClusters(model, { clusters, codes, legend });
  await showMembers(model, { clusters, codes, legend });
}

function showHead(model) {
  const compare =
    model.labels && labelledModels().length > 1
      ? h('button', { type: 'button', id: 'compare-this', onclick: () => compareFrom(state.model) }, 'Compare with …')
      : null;
  const marks = [
    model.is_finalist && h('span', { class: 'badge finalist' }, '★ Finalist'),
    model.is_pareto && h('span', { class: 'badge pareto' }, '◆ Pareto'),
    !model.is_eligible && h('span', { class: 'badge muted', title: INELIGIBLE }, 'Not eligible'),
  ].filter(Boolean);
  const [facts, how] = factsOf(model);
  byId('detail-head').replaceChildren(
    ...[
      h(
        'div',
        { class: 'card-head' },
        h('h2', { id: 'detail-name' }, model.name),
        h('div', { class: 'actions' }, marks, compare),
      ),
      model.why ? h('p', { class: 'why' }, model.why) : null,
      model.scores.error ? h('p', { class: 'notice bad' }, `Error: ${model.scores.error}`) : null,
      model.scores.warning ? h('p', { class: 'notice' }, `Warning: ${model.scores.warning}`) : null,
      factList(facts, 'scores'),
      h(
        'details',
        { id: 'how', class: 'how', open: howIsOpen, ontoggle: (event) => (howIsOpen = event.target.open) },
        h('summary', {}, 'How it was computed'),
        factList(how, 'scores small'),
      ),
    ].filter(Boolean),
  );
}

/** What matters of a model, and the rest, which tells how it was computed: two lists of [name, text]. */
function factsOf(model) {
  const { n_rows: nRows, n_noise: nNoise } = model.scores;
  const special = {
    n_noise: () => number(nNoise) + (nNoise > 0 && nRows > 0 ? ` (${percent(nNoise / nRows)})` : ''),
  };
  const known = Object.keys(model.scores).filter((key) => (model.scores[key] ?? null) !== null);
  const keys = ['n_clusters', ...Object.keys(report.metrics), 'coverage', 'n_noise', 'largest_share', 'stability'];
  const main = [...new Set(keys)].filter((key) => known.includes(key));
  const rest = known.filter((key) => ![...main, 'n_rows', 'error', 'warning', 'labels'].includes(key));
  const fact = (key) => [title(key), special[key]?.() ?? (FORMATS[key] ?? number)(model.scores[key])];
  return [
    [
      ...main.map(fact),
      ['Parameters', paramsText(model.params) || MISSING],
      ['Rows', number(nRows ?? report.n_rows)],
    ],
    [
      ['Descriptor', model.descriptor],
      ['Scaler', model.scaler],
      ['Algorithm', model.cluster_class],
      ['Stage', model.stage],
      ...rest.map(fact),
    ],
  ];
}

function factList(facts, kind) {
  return h(
    'dl',
    { class: kind },
    facts.map(([key, value]) => h('div', {}, h('dt', {}, key), h('dd', {}, value))),
  );
}

/** The legend, which is also the chart of sizes: one bar for each cluster. */
function showClusters(model, { clusters, codes, legend }) {
  const host = byId('clusters');
  if (!codes && !clusters.length) {
    host.replaceChildren(h('p', { class: 'notice', id: 'no-labels' }, whyNoLabels(model)));
    return;
  }
  const sorted = [...clusters].sort((a, b) => (clusterOrder === 'size' && b.n_rows - a.n_rows) || a.label - b.label);
  const listed = clusters.filter(({ label }) => label >= 0).length;
  const largest = sorted.reduce((most, cluster) => Math.max(most, cluster.n_rows), 1);
  const order = options(
    h('select', { id: 'cluster-order', 'aria-label': 'Order of the clusters' }),
    [
      ['size', 'by size'],
      ['label', 'by label'],
    ],
    clusterOrder,
  );
  order.addEventListener('change', () => {
    clusterOrder = order.value;
    keepFocus(() => showClusters(model, { clusters, codes, legend }));
  });
  host.replaceChildren(
    ...[
      h(
        'div',
        { class: 'card-head' },
        h('h3', {}, plural(model.scores.n_clusters ?? listed, 'cluster')),
        order,
      ),
      codes ? null : h('p', { class: 'notice', id: 'no-labels' }, whyNoLabels(model)),
      h(
        'ul',
        { class: 'bars' },
        barsHead(sorted),
        sorted.slice(0, MAX_BARS).map((cluster) => clusterBar(cluster, largest, legend)),
      ),
      sorted.length > MAX_BARS ? h('p', {}, `The first ${MAX_BARS} of ${number(sorted.length)}.`) : null,
      h(
        'p',
        { class: 'caption' },
        `Of the ${number(model.scores.n_rows ?? report.n_rows)} rows that the model was fitted on` +
          (listed < model.scores.n_clusters ? `; the largest ${plural(listed, 'cluster')}. ` : '. ') +
          'Click a bar to see the cluster alone and what is in it.',
      ),
    ].filter(Boolean),
  );
}

/** The heading over the columns of the list. */
function barsHead(clusters) {
  const known = clusters.some(({ stability }) => stability !== null);
  return h(
    'li',
    { class: 'bars-head' },
    h('span', { class: 'bar-name' }, 'Cluster'),
    known ? h('span', { class: 'bar-stability', title: STABILITY }, 'Stability') : null,
    h('span', { class: 'bar-rows' }, 'Rows'),
  );
}

const STABILITY = 'How well refits on random halves find the cluster again, from 0 to 1';

function clusterBar(cluster, largest, legend) {
  const code = codeOf(cluster.label);
  const name = codeName(code, legend);
  return h(
    'li',
    {},
    h(
      'button',
      {
        type: 'button',
        class: 'bar',
        'data-code': code,
        'aria-pressed': String(state.isolated === code),
        title: cluster.sheet ? `${name}\nHas a contact sheet` : name,
        style: { '--share': `${(100 * cluster.n_rows) / largest}%`, '--colour': css(code, legend) },
        onclick: () => isolateCluster(state.isolated === code ? null : code),
      },
      h('span', { class: 'bar-name' }, swatch(code, legend), h('span', { class: 'clip' }, name)),
      cluster.stability === null
        ? null
        : h('span', { class: 'muted bar-stability', title: STABILITY }, cluster.stability.toFixed(2)),
      h('b', { class: 'bar-rows' }, number(cluster.n_rows)),
    ),
  );
}

async function isolateCluster(code) {
  state.isolated = code;
  for (const bar of document.querySelectorAll('#clusters .bar'))
    bar.setAttribute('aria-pressed', String(Number(bar.dataset.code) === code));
  detailView?.isolate(code);
  const model = report.models[state.model];
  const [codes, clusters, legend] = await Promise.all([codesOf(model), clustersOf(model), legendOf(model)]);
  await showMembers(model, { clusters, codes, legend });
}

/** Sheets of the isolated cluster, or of every cluster. */
async function showMembers(model, { clusters, codes, legend }) {
  await loadImages();
  if (report.models[state.model] !== model) return;
  const chosen =
    state.isolated === null
      ? clusters.filter(({ label }) => label >= 0)
      : clusters.filter(({ label }) => codeOf(label) === state.isolated);
  const few = chosen.slice(0, state.isolated === null ? 12 : 1);
  const heading =
    state.isolated === null
      ? `What is in the clusters${chosen.length > few.length ? `: the first ${few.length} of ${chosen.length}` : ''}`
      : 'What is in this cluster';
  byId('members').replaceChildren(
    ...(few.length
      ? [
          h('h3', {}, heading),
          few.some((cluster) => links(cluster).length)
            ? h('p', { class: 'caption', id: 'sheets-note' }, SHEETS_NOTE)
            : null,
          h(
            'div',
            { class: 'sheets' },
            few.map((cluster) => sheet(cluster, codes, legend)),
          ),
        ].filter(Boolean)
      : []),
  );
}

const SHEETS_NOTE =
  'Contact sheets lie in plots/ beside the report, eigenfaces and attributes in aggregates/; without these folders ' +
  'their links lead nowhere.';

function sheet(cluster, codes, legend) {
  const code = codeOf(cluster.label);
  const name = codeName(code, legend);
  const facts = [
    plural(cluster.n_rows, 'row'),
    cluster.stability === null ? null : `stability ${cluster.stability.toFixed(2)}`,
  ]
    .filter(Boolean)
    .join(', ');
  return h(
    'article',
    { class: 'sheet', 'data-code': code, style: { '--colour': css(code, legend) } },
    h(
      'header',
      {},
      swatch(code, legend),
      h('b', { class: 'clip', title: name }, name),
      h('span', { class: 'muted' }, facts),
      h(
        'span',
        { class: 'actions' },
        links(cluster),
        codes
          ? h(
              'button',
              {
                type: 'button',
                class: 'quiet',
                onclick: () => selectRows(positionsWhere((position) => codes[position] === code)),
              },
              'Select its rows',
            )
          : null,
      ),
    ),
    Object.values(cluster.members).some((members) => members.length) ? memberTiles(cluster) : exampleTiles(codes, code),
  );
}

/** Links to the pictures of a cluster that lie beside the report. */
function links({ sheet: href, aggregates }) {
  const pictures = [...(href ? [['Contact sheet', href]] : []), ...Object.entries(aggregates)];
  return pictures.map(([text, address]) => {
    const plain = address.replaceAll('%20', ' ');
    return h('a', { href: address, target: '_blank', rel: 'noopener', title: `${plain} beside this file` }, text);
  });
}

function memberTiles(cluster) {
  return Object.entries(cluster.members)
    .filter(([, members]) => members.length)
    .map(([kind, members]) => h('div', { class: 'kind' }, h('h4', {}, KINDS[kind] ?? title(kind)), tiles(members)));
}

/** For a cluster whose members were not chosen beforehand: rows with a thumbnail that happen to be in it. */
function exampleTiles(codes, code) {
  const examples = codes
    ? positionsWhere((position) => codes[position] === code && thumbnailOf(position)).slice(0, 16)
    : [];
  const caption = examples.length
    ? 'Examples: rows of this cluster that have a thumbnail for another reason, not chosen to show it.'
    : 'No row of this cluster has a thumbnail in the page.';
  return [h('p', { class: 'caption' }, caption), tiles(examples)];
}

on('theme', () => {
  if (state.model !== null) showContents();
});
