'use strict';
// Two models side by side: linked maps, contingency table, adjusted Rand index.

const MAX_GROUPS = 30; // shown of each model
const comparison = { first: null, second: null, views: [], table: null, ari: null };

function makeCompare() {
  const panel = byId('panel-compare');
  const models = labelledModels();
  if (models.length < 2) {
    panel.append(
      h(
        'p',
        { class: 'card notice' },
        'Fewer than two models have labels in the page, so there is nothing to compare.',
      ),
    );
    return;
  }
  const entries = models.map((i) => [i, `${report.models[i].is_finalist ? '★ ' : ''}${report.models[i].name}`]);
  const picker = (side, chosen) =>
    options(
      h('select', { id: `compare-${side}`, onchange: (event) => compareModelsShown(side, Number(event.target.value)) }),
      entries,
      chosen,
    );
  comparison.first = models.includes(state.model) ? state.model : models[0];
  comparison.second = models.find((i) => i !== comparison.first);
  const mapSelect = options(
    h('select', { id: 'compare-map', onchange: (event) => compareOn(Number(event.target.value)) }),
    report.maps.map((map, i) => [i, mapName(map)]),
  );
  panel.append(
    h(
      'section',
      { class: 'card' },
      h(
        'div',
        { class: 'card-head' },
        h('h2', {}, 'Two models on one map'),
        report.maps.length ? h('label', {}, 'Map ', mapSelect) : null,
      ),
      h(
        'div',
        { class: 'pair' },
        h(
          'div',
          { id: 'compare-left' },
          h('label', { class: 'wide' }, h('span', {}, 'Left'), picker('first', comparison.first)),
        ),
        h(
          'div',
          { id: 'compare-right' },
          h('label', { class: 'wide' }, h('span', {}, 'Right'), picker('second', comparison.second)),
        ),
      ),
    ),
    h('section', { class: 'card', 'aria-label': 'Contingency table' }, h('div', { id: 'contingency' })),
  );
  if (report.maps.length) makeLinkedMaps(mapFor(report.models[comparison.first]));
  showComparison();
}

function makeLinkedMaps(mapIndex) {
  const camera = new Camera();
  comparison.views = ['left', 'right'].map(
    (side) => new MapView(byId(`compare-${side}`), { label: `Map of the ${side} model`, camera }),
  );
  byId('compare-map').value = String(mapIndex);
  compareOn(mapIndex);
}

const compareOn = (mapIndex) => Promise.all(comparison.views.map((view) => view.setMap(mapIndex)));

/** Open the comparison with a model on the left. */
async function compareFrom(index) {
  await openTab('compare');
  if (comparison.first === index) return;
  byId('compare-first').value = String(index);
  await compareModelsShown('first', index);
}

function compareModelsShown(side, index) {
  comparison[side] = index;
  return showComparison();
}

async function showComparison() {
  const { first, second } = comparison;
  const [left, right] = [report.models[first], report.models[second]];
  const [codesA, codesB, legendA, own] = await Promise.all([
    codesOf(left),
    codesOf(right),
    legendOf(left),
    legendOf(right),
  ]);
  if (comparison.first !== first || comparison.second !== second) return;
  comparison.table = contingency(codesA, codesB);
  const sides = { codesA, codesB, legendA, legendB: own };
  const legendB = { names: own.names, tints: matchedTints(comparison.table.cells, sides) };
  comparison.views[0]?.setLabels(codesA, legendA);
  comparison.views[1]?.setLabels(codesB, legendB);
  comparison.ari = adjustedRand(comparison.table);
  showContingency({ ...sides, legendB });
}

function showContingency(sides) {
  const { first, second } = comparison.table;
  const part = shownPart(comparison.table, MAX_GROUPS);
  const head = [
    h('th', { scope: 'col', class: 'corner' }, 'left \\ right'),
    part.columnCodes.map((code) => groupHead(code, sides.legendB, 'col')),
    h('th', { scope: 'col', class: 'number' }, 'all'),
  ];
  const rows = part.rows.map((code) => contingencyRow(code, part, sides));
  const box = h(
    'div',
    { class: 'table-box' },
    h('table', { class: 'heat', id: 'contingency-table' }, h('thead', {}, h('tr', {}, head)), h('tbody', {}, rows)),
  );
  const hint = h('p', { class: 'caption', id: 'contingency-hint', hidden: true }, 'Scroll sideways for the rest →');
  new ResizeObserver(() => (hint.hidden = box.scrollWidth <= box.clientWidth)).observe(box);
  byId('contingency').replaceChildren(
    h(
      'div',
      { class: 'card-head' },
      h('h2', {}, 'Which rows the clusters share'),
      h('p', { class: 'figure' }, 'Adjusted Rand index ', h('b', { id: 'ari' }, comparison.ari.toFixed(3))),
    ),
    h('p', { class: 'caption' }, contingencyCaption(part, first, second)),
    hint,
    box,
  );
}

function contingencyCaption({ rows, columnCodes }, first, second) {
  const both = plural(total([...first.values()]), 'page row');
  const cut =
    rows.length < first.size || columnCodes.length < second.size
      ? ` The largest ${rows.length} of ${first.size} and ${columnCodes.length} of ${second.size} groups are shown.`
      : '';
  return (
    `Over the ${both} that both models have seen, of ${number(report.n_rows)} in the run; noise counts as one more ` +
    `group. Rows are clusters of the left model, columns of the right one, coloured as the left ones that they share ` +
    `most with. Stronger colour: a greater share of the left cluster. Click a cell to select its rows.${cut}`
  );
}

function groupHead(code, legend, scope) {
  return h(
    'th',
    { scope, title: codeName(code, legend) },
    h('span', { class: 'group' }, swatch(code, legend), h('span', {}, shortName(code, legend))),
  );
}

function contingencyRow(a, { columnCodes, countAt }, sides) {
  const all = comparison.table.first.get(a);
  return h(
    'tr',
    {},
    groupHead(a, sides.legendA, 'row'),
    columnCodes.map((b) => contingencyCell(a, b, countAt(a, b), all, sides)),
    h('td', { class: 'number' }, number(all)),
  );
}

function contingencyCell(a, b, count, all, { codesA, codesB, legendA, legendB }) {
  if (!count) return h('td', { class: 'empty' }, '·');
  const label = `${plural(count, 'row')} in ${codeName(a, legendA)} and ${codeName(b, legendB)}`;
  const pick = () => selectRows(positionsWhere((position) => codesA[position] === a && codesB[position] === b));
  const share = count / all;
  return h(
    'td',
    { class: 'cell', style: { '--heat': `${Math.round(6 + 84 * share)}%` }, 'data-hot': share > 0.65 ? 1 : null },
    h(
      'button',
      { type: 'button', 'aria-label': label, title: label, 'data-cell': `${a},${b}`, onclick: pick },
      number(count),
    ),
  );
}

on('theme', () => {
  if (comparison.table) showComparison();
});
