'use strict';
// The table of models: columns, sorting, filters, keys.

const FORMATS = { coverage: percent, largest_share: percent };

/** Columns: {key, title, value(model), format, metric: greater is better / smaller / undefined}. */
function tableColumns() {
  const has = (key) => report.models.some((model) => typeof model.scores[key] === 'number');
  const score = (key, metric) => ({
    key,
    title: title(key),
    value: (model) => model.scores[key],
    format: FORMATS[key] ?? number,
    metric,
  });
  const keys = new Set(report.models.flatMap((model) => Object.keys(model.scores)));
  const stabilities = [...keys].filter((key) => key.includes('stability'));
  return [
    { key: 'mark', title: 'Mark', value: (model) => 2 * model.is_finalist + model.is_pareto },
    { key: 'name', title: 'Model', value: (model) => model.name },
    score('n_clusters'),
    ...Object.entries(report.metrics)
      .filter(([key]) => has(key))
      .map(([key, greater]) => score(key, greater)),
    ...['coverage', 'largest_share', ...stabilities]
      .filter((key) => has(key) && !(key in report.metrics))
      .map((key) => score(key)),
  ];
}

const columns = tableColumns();
const INELIGIBLE = 'Does not meet the constraints of best';
const ORDER = 'Most important first: finalists, then by rank';
const sorting = { key: null, descending: false }; // null: the order of the report, finalists first, then by rank
const tableRows = [];

function markCell(model) {
  const marks = [];
  if (model.is_finalist)
    marks.push(h('span', { class: 'mark finalist', title: 'Finalist', role: 'img', 'aria-label': 'finalist' }, '★'));
  if (model.is_pareto)
    marks.push(
      h(
        'span',
        { class: 'mark pareto', title: 'On the Pareto front of its descriptor', role: 'img', 'aria-label': 'Pareto' },
        '◆',
      ),
    );
  return h('td', { class: 'marks' }, marks);
}

function paramsText(params) {
  return Object.entries(params)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

function nameCell(model) {
  return h(
    'td',
    { class: 'name', title: model.is_eligible ? model.name : `${model.name}\n${INELIGIBLE}` },
    h('div', {}, h('b', {}, model.cluster_class), ' ', paramsText(model.params)),
    h('div', { class: 'muted' }, `${model.descriptor} · ${model.scaler} · ${model.stage}`),
  );
}

function tableCell(model, column) {
  if (column.key === 'mark') return markCell(model);
  if (column.key === 'name') return nameCell(model);
  const value = column.value(model);
  if (column.key === 'n_clusters' && model.scores.error)
    return h('td', { class: 'failed', title: model.scores.error }, 'failed');
  const bar = column.format === percent && typeof value === 'number' ? { '--share': `${100 * value}%` } : {};
  return h(
    'td',
    { class: column.format === percent ? 'number share' : 'number', style: bar, 'data-key': column.key },
    column.format(value),
  );
}

function makeRows() {
  report.models.forEach((model, index) => {
    const row = h(
      'tr',
      {
        'data-model': index,
        tabindex: -1,
        'aria-selected': 'false',
        class: model.is_eligible ? null : 'ineligible',
        title: model.is_eligible ? null : INELIGIBLE,
      },
      columns.map((column) => tableCell(model, column)),
    );
    tableRows.push(row);
  });
  const body = document.querySelector('#models tbody');
  body.addEventListener('click', (event) => {
    const row = event.target.closest('tr');
    if (row?.dataset.model) chooseModel(Number(row.dataset.model));
  });
  body.addEventListener('keydown', tableKeys);
}

function makeHead() {
  document.querySelector('#models thead tr').append(
    ...columns.map((column) => {
      const better = column.metric === undefined ? null : `${column.metric ? 'higher' : 'lower'} is better`;
      const button = h(
        'button',
        { type: 'button', title: better, onclick: () => sortBy(column.key) },
        h('span', { class: 'sorted' }, column.key === 'mark' ? '★' : column.title),
        better && h('small', { class: 'muted' }, better),
      );
      if (column.key === 'mark') button.setAttribute('aria-label', 'Finalist or Pareto');
      return h(
        'th',
        { scope: 'col', 'data-key': column.key, 'aria-sort': 'none', class: column.format ? 'number' : '' },
        button,
      );
    }),
  );
}

/** First click: the better or greater first, text ascending; second: the other way; third: the report's order. */
function sortBy(key) {
  const column = columns.find((candidate) => candidate.key === key);
  const first = column.metric ?? key !== 'name';
  if (sorting.key !== key) Object.assign(sorting, { key, descending: first });
  else if (sorting.descending === first) sorting.descending = !first;
  else sorting.key = null;
  for (const th of document.querySelectorAll('#models th')) {
    th.setAttribute(
      'aria-sort',
      th.dataset.key === sorting.key ? (sorting.descending ? 'descending' : 'ascending') : 'none',
    );
  }
  showTable();
}

/** The order of the table in words. */
function orderText() {
  if (sorting.key === null) return `${ORDER}. Click a heading to sort.`;
  const ways = { mark: ['finalists last', 'finalists first'], name: ['from A to Z', 'from Z to A'] };
  const [up, down] = ways[sorting.key] ?? ['lowest first', 'highest first'];
  const { title: words } = columns.find(({ key }) => key === sorting.key);
  return `Sorted by ${words.toLowerCase()}, ${sorting.descending ? down : up}.`;
}

/** Missing values come last, whatever the direction; ties keep the order of the report. */
function compareModels(value, descending) {
  const sign = descending ? -1 : 1;
  return (a, b) => {
    const [first, second] = [value(report.models[a]), value(report.models[b])];
    const [gone, gone2] = [first ?? null, second ?? null].map((v) => v === null);
    if (gone || gone2) return gone - gone2 || a - b;
    if (typeof first === 'string') return sign * first.localeCompare(second, 'en', { numeric: true }) || a - b;
    return sign * (first - second) || a - b;
  };
}

function showTable() {
  const order = report.models.map((_, index) => index).filter((index) => passesFilters(report.models[index]));
  if (sorting.key) order.sort(compareModels(columns.find(({ key }) => key === sorting.key).value, sorting.descending));
  state.visible = order;
  byId('models-order').textContent = orderText();
  document
    .querySelector('#models tbody')
    .replaceChildren(...(order.length ? order.map((index) => tableRows[index]) : [nothingRow()]));
  markBest(order);
  setFocusable(order.includes(state.model) ? state.model : order[0]);
  byId('shown').textContent =
    order.length === report.models.length
      ? plural(order.length, 'model')
      : `${number(order.length)} of ${plural(report.models.length, 'model')}`;
  announce('filter');
}

function nothingRow() {
  return h('tr', {}, h('td', { colspan: columns.length, class: 'muted' }, 'No model passes the filters.'));
}

/** Mark the best value of each metric among the models shown that may be chosen as best. */
function markBest(order) {
  for (const cell of document.querySelectorAll('#models td.best')) cell.classList.remove('best');
  columns.forEach(({ metric, value }, at) => {
    if (metric === undefined) return;
    const known = order.filter(
      (index) => report.models[index].is_eligible && typeof value(report.models[index]) === 'number',
    );
    const values = known.map((index) => value(report.models[index]));
    const best = values.reduce((a, b) => (metric === b > a ? b : a), values[0]);
    known.forEach((index, i) => {
      if (values[i] === best) tableRows[index].cells[at].classList.add('best');
    });
  });
}

/** One row at a time takes part in the order of Tab; the arrows go from row to row. */
function setFocusable(index) {
  for (const row of document.querySelectorAll('#models tbody tr[tabindex="0"]')) row.tabIndex = -1;
  if (index !== undefined) tableRows[index].tabIndex = 0;
}

function tableKeys(event) {
  const row = event.target.closest('tr');
  if (!row.dataset.model) return; // the one that says that there are none
  if (event.key === 'Enter' || event.key === ' ') chooseModel(Number(row.dataset.model));
  else {
    const at = state.visible.indexOf(Number(row.dataset.model));
    const goals = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: Infinity };
    if (!(event.key in goals)) return;
    const goal = state.visible[Math.max(0, Math.min(state.visible.length - 1, goals[event.key]))];
    setFocusable(goal);
    tableRows[goal].focus();
  }
  event.preventDefault();
}

const NO_FILTERS = {
  text: '',
  descriptor: '',
  scaler: '',
  cluster_class: '',
  stage: '',
  coverage: 0,
  least: null,
  most: null,
  finalist: false,
  pareto: false,
  eligible: false,
};
const filters = { ...NO_FILTERS };

function passesFilters(model) {
  const { n_clusters: nClusters, coverage } = model.scores;
  const haystack = `${model.name} ${paramsText(model.params)}`.toLowerCase();
  return (
    filters.text
      .toLowerCase()
      .split(/\s+/)
      .every((word) => haystack.includes(word)) &&
    ['descriptor', 'scaler', 'cluster_class', 'stage'].every((key) => !filters[key] || model[key] === filters[key]) &&
    (!filters.coverage || coverage >= filters.coverage) &&
    (filters.least === null || (typeof nClusters === 'number' && nClusters >= filters.least)) &&
    (filters.most === null || (typeof nClusters === 'number' && nClusters <= filters.most)) &&
    (!filters.finalist || model.is_finalist) &&
    (!filters.pareto || model.is_pareto) &&
    (!filters.eligible || model.is_eligible)
  );
}

function filterSelect(key, everything) {
  const values = [...new Set(report.models.map((model) => model[key]))].sort();
  const select = options(h('select', { id: `filter-${key}`, 'aria-label': everything }), [
    ['', everything],
    ...values.map((value) => [value, value]),
  ]);
  select.addEventListener('change', () => setFilter(key, select.value));
  return values.length > 1 ? select : null;
}

function setFilter(key, value) {
  filters[key] = value;
  showTable();
}

function filterNumber(key, label, placeholder, attributes) {
  const unit = key === 'coverage' ? 100 : 1; // typed in percent
  const read = ({ target }) => setFilter(key, target.value === '' ? NO_FILTERS[key] : Number(target.value) / unit);
  return h('input', {
    type: 'number',
    id: `filter-${key}`,
    'aria-label': label,
    placeholder,
    oninput: read,
    ...attributes,
  });
}

function filterCheck(key, text) {
  return h(
    'label',
    { class: 'check' },
    h('input', { type: 'checkbox', id: `filter-${key}`, onchange: (event) => setFilter(key, event.target.checked) }),
    text,
  );
}

function makeFilters() {
  byId('filters').append(
    ...[
      h('input', {
        type: 'search',
        id: 'filter-text',
        placeholder: 'Name or parameters',
        'aria-label': 'Filter by name or parameters',
        oninput: (event) => setFilter('text', event.target.value),
      }),
      filterSelect('descriptor', 'All descriptors'),
      filterSelect('scaler', 'All scalers'),
      filterSelect('cluster_class', 'All algorithms'),
      filterSelect('stage', 'All stages'),
      h(
        'span',
        { class: 'field' },
        'Coverage ≥',
        filterNumber('coverage', 'Least coverage in percent', '0', { min: 0, max: 100, step: 5 }),
        '%',
      ),
      h(
        'span',
        { class: 'field' },
        'Clusters',
        filterNumber('least', 'Fewest clusters', 'from', { min: 0 }),
        filterNumber('most', 'Most clusters', 'to', { min: 0 }),
      ),
      filterCheck('finalist', 'Finalists only'),
      filterCheck('pareto', 'Pareto only'),
      filterCheck('eligible', 'Meets constraints'),
      h('button', { type: 'reset', class: 'quiet' }, 'Clear filters'),
    ].filter(Boolean),
  );
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('filters').addEventListener('reset', () => {
    Object.assign(filters, NO_FILTERS);
    showTable();
  });
}

on('model', () => {
  document.querySelector('#models tr[aria-selected="true"]')?.setAttribute('aria-selected', 'false');
  tableRows[state.model].setAttribute('aria-selected', 'true');
  setFocusable(state.model);
});
