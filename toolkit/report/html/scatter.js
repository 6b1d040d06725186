'use strict';
// Scores against the number of clusters: colour is the algorithm, shape the scaler.

const SHAPES = [
  'M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z', // circle
  'M-3.6,-3.6H3.6V3.6H-3.6Z', // square
  'M0,-4.8L4.6,3.4H-4.6Z', // triangle
  'M0,-5.2L4.4,0L0,5.2L-4.4,0Z', // diamond
  'M-4.6,-1.4H-1.4V-4.6H1.4V-1.4H4.6V1.4H1.4V4.6H-1.4V1.4H-4.6Z', // cross
];
const PLOT = {
  width: 460,
  height: 360, // the width is the page's
  left: 54,
  right: 12,
  top: 12,
  bottom: 40,
};

const algorithms = [...new Set(report.models.map((model) => model.cluster_class))].sort();
const scalers = [...new Set(report.models.map((model) => model.scaler))].sort();
const scatter = { metric: null, log: null, current: 0, dots: [] };

function ticks(low, high, count = 5) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    found.push(Number(value.toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = 1; power <= high; power *= 10) found.push(power, 2 * power, 5 * power);
  const inside = found.filter((value) => value >= low && value <= high);
  return inside.length > 7 ? inside.filter((value) => Number.isInteger(Math.log10(value))) : inside;
}

/** A scale from values to pixels. */
function pixelScale(low, high, from, to, log = false) {
  const bend = log ? Math.log : (value) => value;
  const span = bend(high) - bend(low) || 1;
  return (value) => from + ((bend(value) - bend(low)) / span) * (to - from);
}

function scatterPoints() {
  return state.visible
    .map((index) => ({
      index,
      x: report.models[index].scores.n_clusters,
      y: report.models[index].scores[scatter.metric],
    }))
    .filter(({ x, y }) => typeof x === 'number' && x > 0 && typeof y === 'number');
}

function axes(xTicks, yTicks, x, y, xTitle) {
  const { width, height, left, right, top, bottom } = PLOT;
  return [
    ...yTicks.map((value) =>
      svg(
        'g',
        { class: 'tick' },
        svg('line', { x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg('text', { x: left - 7, y: y(value) + 4, 'text-anchor': 'end' }, shortFormat.format(value)),
      ),
    ),
    ...xTicks.map((value) =>
      svg(
        'g',
        { class: 'tick' },
        svg('line', { x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
        svg('text', { x: x(value), y: height - bottom + 16, 'text-anchor': 'middle' }, number(value)),
      ),
    ),
    svg('text', { class: 'axis', x: (left + width - right) / 2, y: height - 4, 'text-anchor': 'middle' }, xTitle),
  ];
}

function showScatter() {
  PLOT.width = Math.max(300, byId('scatter').clientWidth);
  const points = scatterPoints();
  const { width, height, left, right, top, bottom } = PLOT;
  if (!points.length) {
    byId('scatter').replaceChildren(h('p', { class: 'notice' }, 'None of the models shown has this score.'));
    return;
  }
  const extent = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const [fewest, most] = extent(points.map((point) => point.x));
  const [lowest, highest] = extent(points.map((point) => point.y));
  const log = scatter.log ?? most - fewest > 100;
  const margin = (highest - lowest || 1) * 0.05;
  const x = log
    ? pixelScale(fewest * 0.9, most * 1.1, left, width - right, true)
    : pixelScale(fewest - 0.5, most + 0.5, left, width - right);
  const y = pixelScale(lowest - margin, highest + margin, height - bottom, top + 8);
  const xTicks = log ? logTicks(fewest, most) : ticks(fewest, most).filter(Number.isInteger);
  // Finalists and the chosen model are drawn last, above the others.
  const weight = ({ index }) => {
    const { is_finalist: isFinalist, is_eligible: isEligible } = report.models[index];
    return 4 * (index === state.model) + 2 * isFinalist + isEligible;
  };
  scatter.dots = points.sort((a, b) => weight(a) - weight(b) || a.x - b.x);
  const picture = svg(
    'svg',
    {
      id: 'scatter-picture',
      viewBox: `0 0 ${width} ${height}`,
      tabindex: 0,
      role: 'group',
      'aria-label': `${title(scatter.metric)} by number of clusters; arrows go from model to model, Enter chooses`,
    },
    axes(xTicks, ticks(lowest, highest), x, y, `number of clusters${log ? ' (logarithmic)' : ''}`),
    scatter.dots.map((point) => dot(point, x(point.x), y(point.y))),
  );
  picture.addEventListener('keydown', scatterKeys);
  picture.addEventListener(
    'click',
    (event) => event.target.dataset.model && chooseModel(Number(event.target.dataset.model)),
  );
  const caption = h('p', { class: 'caption', id: 'scatter-current', role: 'status' }, describeDot());
  keepFocus(() => byId('scatter').replaceChildren(picture, caption, scatterLegend(log)));
}

function dot({ index, y }, left, top) {
  const model = report.models[index];
  const kinds = { chosen: index === state.model, finalist: model.is_finalist, ineligible: !model.is_eligible };
  const classes = ['dot', ...Object.keys(kinds).filter((kind) => kinds[kind])].join(' ');
  return svg(
    'path',
    {
      class: classes,
      'data-model': index,
      d: SHAPES[scalers.indexOf(model.scaler) % SHAPES.length],
      transform: `translate(${left.toFixed(1)},${top.toFixed(1)})`,
      style: { '--colour': css(codeOf(algorithms.indexOf(model.cluster_class))) },
    },
    svg(
      'title',
      {},
      `${model.name}\n${plural(model.scores.n_clusters, 'cluster')}, ${title(scatter.metric)} ${number(y)}` +
        (model.is_eligible ? '' : `\n${INELIGIBLE}`),
    ),
  );
}

function describeDot() {
  const chosen = scatter.dots.find(({ index }) => index === state.model);
  return chosen ? `Chosen: ${plural(chosen.x, 'cluster')}, ${number(chosen.y)}` : 'The chosen model is not among these.';
}

function scatterKeys(event) {
  const byX = [...scatter.dots].sort((a, b) => a.x - b.x || a.y - b.y);
  const at = byX.findIndex(({ index }) => index === scatter.current);
  if (event.key === 'Enter' || event.key === ' ') chooseModel(scatter.current);
  else if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
    const goal = byX[Math.max(0, Math.min(byX.length - 1, at + (event.key === 'ArrowRight' ? 1 : -1)))];
    scatter.current = goal.index;
    for (const path of document.querySelectorAll('#scatter .dot'))
      path.classList.toggle('current', Number(path.dataset.model) === goal.index);
    byId('scatter-current').textContent =
      `${report.models[goal.index].name}: ${plural(goal.x, 'cluster')}, ${number(goal.y)}. Enter chooses.`;
  } else return;
  event.preventDefault();
}

function scatterLegend(log) {
  const shape = (i, kind = '') =>
    svg('svg', { viewBox: '-6 -6 12 12', class: `key ${kind}` }, svg('path', { d: SHAPES[i % SHAPES.length] }));
  const toggle = h('input', { type: 'checkbox', id: 'scatter-log', checked: log });
  toggle.addEventListener('change', () => {
    scatter.log = toggle.checked;
    showScatter();
  });
  return h(
    'div',
    { class: 'legend-line' },
    algorithms.map((name, i) => h('span', {}, swatch(codeOf(i)), name)),
    scalers.length > 1 ? scalers.map((name, i) => h('span', {}, shape(i), name)) : null,
    scatter.dots.some(({ index }) => !report.models[index].is_eligible)
      ? h('span', { id: 'scatter-hollow' }, shape(0, 'hollow'), 'hollow: does not meet the constraints')
      : null,
    h('label', { class: 'check' }, toggle, 'Logarithmic'),
  );
}

function makeScatter() {
  const metrics = columns
    .filter(({ key, metric }) => metric !== undefined || ['coverage', 'largest_share'].includes(key))
    .map(({ key }) => key);
  scatter.metric = metrics.includes('silhouette_score') ? 'silhouette_score' : (metrics[0] ?? 'coverage');
  const select = options(
    byId('scatter-metric'),
    metrics.map((key) => [key, title(key)]),
    scatter.metric,
  );
  select.addEventListener('change', () => {
    scatter.metric = select.value;
    showScatter();
  });
  new ResizeObserver(() => {
    if (byId('scatter').clientWidth && byId('scatter').clientWidth !== PLOT.width) showScatter();
  }).observe(byId('scatter'));
  on('filter', showScatter);
  on('theme', showScatter);
  on('model', () => {
    scatter.current = state.model;
    showScatter();
  });
}
