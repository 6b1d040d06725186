'use strict';
// The chosen model: why, scores, its map, its clusters and what is in them.

const KINDS = { central: 'Most central', random: 'Random', border: 'At the border' };
const MAX_BARS = 500;
let detailView = null;
let clusterOrder = 'size';

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
  const [codes, names] = await Promise.all([codesOf(model), namesOf(model)]);
  if (state.model !== index) return; // another one was chosen in the meantime
  showHead(model);
  if (detailView) {
    detailView.isolated = null;
    detailView.setLabels(codes, names);
    await chooseMap(mapFor(model));
  }
  await showContents();
}

async function showContents() {
  const model = report.models[state.model];
  const [codes, clusters] = await Promise.all([codesOf(model), clustersOf(model)]);
  showClusters(model, clusters, codes);
  await showMembers(model, clusters, codes);
}

function showHead(model) {
  const compare =
    model.labels && labelledModels().length > 1
      ? h('button', { type: 'button', id: 'compare-this', onclick: () => compareFrom(state.model) }, 'Compare with …')
      : null;
  const marks = [
    model.is_finalist && h('span', { class: 'badge finalist' }, '★ Finalist'),
    model.is_pareto && h('span', { class: 'badge pareto' }, '◆ Pareto'),
  ].filter(Boolean);
  const facts = [
    ['Descriptor', model.descriptor],
    ['Scaler', model.scaler],
    ['Stage', model.stage],
    ['Parameters', paramsText(model.params) || MISSING],
  ];
  const scores = Object.entries(model.scores).filter(
    ([key, value]) => value !== null && !['error', 'warning', 'labels'].includes(key),
  );
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
      h(
        'dl',
        { class: 'scores' },
        [...facts, ...scores].map(([key, value]) =>
          h('div', {}, h('dt', {}, title(key)), h('dd', {}, (FORMATS[key] ?? number)(value))),
        ),
      ),
    ].filter(Boolean),
  );
}

/** The legend, which is also the chart of sizes: one bar for each cluster. */
function showClusters(model, clusters, codes) {
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
    keepFocus(() => showClusters(model, clusters, codes));
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
        sorted.slice(0, MAX_BARS).map((cluster) => clusterBar(cluster, largest)),
      ),
      sorted.length > MAX_BARS ? h('p', {}, `The first ${MAX_BARS} of ${number(sorted.length)}.`) : null,
      h(
        'p',
        { class: 'caption' },
        `Of the ${number(model.scores.n_rows ?? report.n_rows)} rows that the model was fitted on` +
          (listed < model.scores.n_clusters ? `; the ${number(listed)} largest clusters. ` : '. ') +
          'Click a bar to see the cluster alone and what is in it.',
      ),
    ].filter(Boolean),
  );
}

function clusterBar(cluster, largest) {
  const code = codeOf(cluster.label);
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
        title: cluster.sheet ? 'Has a contact sheet' : null,
        style: { '--share': `${(100 * cluster.n_rows) / largest}%`, '--colour': css(code) },
        onclick: () => isolateCluster(state.isolated === code ? null : code),
      },
      h('span', { class: 'bar-name' }, swatch(code), nameOf(cluster)),
      cluster.stability === null
        ? null
        : h('span', { class: 'muted', title: 'Stability, from 0 to 1' }, cluster.stability.toFixed(2)),
      h('b', {}, number(cluster.n_rows)),
    ),
  );
}

async function isolateCluster(code) {
  state.isolated = code;
  for (const bar of document.querySelectorAll('#clusters .bar'))
    bar.setAttribute('aria-pressed', String(Number(bar.dataset.code) === code));
  detailView?.isolate(code);
  const model = report.models[state.model];
  await showMembers(model, await clustersOf(model), await codesOf(model));
}

/** Sheets of the isolated cluster, or of every cluster. */
async function showMembers(model, clusters, codes) {
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
          h(
            'div',
            { class: 'sheets' },
            few.map((cluster) => sheet(cluster, codes)),
          ),
        ]
      : []),
  );
}

function sheet(cluster, codes) {
  const code = codeOf(cluster.label);
  const facts = [
    plural(cluster.n_rows, 'row'),
    cluster.stability === null ? null : `stability ${cluster.stability.toFixed(2)}`,
  ]
    .filter(Boolean)
    .join(', ');
  return h(
    'article',
    { class: 'sheet', 'data-code': code, style: { '--colour': css(code) } },
    h(
      'header',
      {},
      swatch(code),
      h('b', {}, nameOf(cluster)),
      cluster.name ? h('span', { class: 'muted' }, `label ${cluster.label}`) : null,
      h('span', { class: 'muted' }, facts),
      cluster.sheet ? h('a', { href: cluster.sheet, target: '_blank', rel: 'noopener' }, 'Contact sheet') : null,
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
    Object.values(cluster.members).some((members) => members.length) ? memberTiles(cluster) : exampleTiles(codes, code),
  );
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
