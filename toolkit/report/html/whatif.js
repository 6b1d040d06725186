'use strict';
// Sliders over cuts that were computed beforehand.

const whatIf = { index: 0, at: [], view: null, cut: null };

const whatIfName = ({ cluster_class: algorithm, descriptor, scaler }) => `${algorithm} of ${descriptor}, ${scaler}`;

function makeWhatIf() {
  const panel = byId('panel-whatif');
  if (!report.what_ifs.length) {
    panel.append(h('p', { class: 'card notice' }, 'The report was made without cuts computed beforehand.'));
    return;
  }
  const select = options(
    h('select', { id: 'whatif-choice', onchange: (event) => chooseWhatIf(Number(event.target.value)) }),
    report.what_ifs.map((each, i) => [i, whatIfName(each)]),
  );
  const mapSelect = options(
    h('select', { id: 'whatif-map', onchange: (event) => whatIf.view.setMap(Number(event.target.value)) }),
    report.maps.map((map, i) => [i, mapName(map)]),
  );
  panel.append(
    h(
      'section',
      { class: 'card' },
      h(
        'div',
        { class: 'card-head' },
        h('h2', {}, 'What if the parameters were others'),
        h('label', {}, 'Cuts ', select),
      ),
      h('p', { class: 'caption', id: 'whatif-note' }),
      h(
        'div',
        { class: 'workbench' },
        h('div', { id: 'whatif-map-column' }, report.maps.length ? h('label', {}, 'Map ', mapSelect) : null),
        h(
          'div',
          {},
          h('div', { id: 'sliders' }),
          h('dl', { class: 'scores big', id: 'whatif-numbers', 'aria-live': 'polite' }),
          h('p', { class: 'notice', id: 'whatif-missing', hidden: true }),
          h('div', { id: 'whatif-chart' }),
        ),
      ),
    ),
  );
  if (report.maps.length) whatIf.view = new MapView(byId('whatif-map-column'), { label: 'Map of the cut' });
  return chooseWhatIf(0);
}

async function chooseWhatIf(index) {
  const chosen = report.what_ifs[index];
  whatIf.index = index;
  whatIf.at = placesAt(chosen, chosen.start);
  byId('whatif-note').textContent = chosen.note;
  byId('sliders').replaceChildren(
    ...Object.entries(chosen.sliders).map(([name, values], i) => slider(name, values, i)),
  );
  if (whatIf.view) {
    const map = mapFor(chosen);
    byId('whatif-map').value = String(map);
    await whatIf.view.setMap(map);
  }
  await showCut();
}

function slider(name, values, i) {
  const output = h('output', { for: `slider-${i}` }, String(values[whatIf.at[i]]));
  const input = h('input', {
    type: 'range',
    id: `slider-${i}`,
    min: 0,
    max: values.length - 1,
    step: 1,
    'aria-valuetext': String(values[whatIf.at[i]]),
  });
  input.value = String(whatIf.at[i]);
  input.addEventListener('input', () => {
    whatIf.at[i] = Number(input.value);
    output.textContent = String(values[whatIf.at[i]]);
    input.setAttribute('aria-valuetext', output.textContent);
    showCut();
  });
  return h(
    'div',
    { class: 'slider' },
    h('label', { for: `slider-${i}` }, name),
    output,
    input,
    h('div', { class: 'steps', 'aria-hidden': 'true' }, stepMarks(values)),
  );
}

/** A mark below each step of a slider, with its value at as many of them as there is space for. */
function stepMarks(values) {
  const named = new Set(spacedOut(values, 300));
  return values.map((value, i) =>
    h(
      'span',
      { style: { '--at': values.length > 1 ? i / (values.length - 1) : 0.5 } },
      named.has(i) ? h('i', {}, String(value)) : null,
    ),
  );
}

/** Places of values whose texts fit on an axis of so many pixels: the first and the last one, and others between. */
function spacedOut(values, width) {
  const last = values.length - 1;
  const left = (i) => (i / Math.max(1, last)) * width;
  const half = (i) => String(values[i]).length * 3.4 + 4;
  const apart = (i, j) => left(j) - left(i) >= half(i) + half(j);
  const kept = [0];
  for (let i = 1; i < last; i += 1) if (apart(kept.at(-1), i) && apart(i, last)) kept.push(i);
  return last > 0 ? [...kept, last] : kept;
}

/** Cuts are in the order of the product of the sliders' values: the last slider runs fastest. */
function cutAt(chosen, at) {
  const lengths = Object.values(chosen.sliders).map((values) => values.length);
  return chosen.cuts[at.reduce((index, place, i) => index * lengths[i] + place, 0)];
}

/** Where each slider stands at a cut. */
function placesAt(chosen, cut) {
  const places = [];
  let rest = cut;
  for (const { length } of Object.values(chosen.sliders).reverse()) {
    places.unshift(rest % length);
    rest = Math.floor(rest / length);
  }
  return places;
}

async function showCut() {
  const chosen = report.what_ifs[whatIf.index];
  const cut = cutAt(chosen, whatIf.at);
  whatIf.cut = cut;
  const facts = [
    ['Clusters', number(cut.n_clusters)],
    ['Coverage', percent(cut.coverage)],
    ['Noise', percent(1 - cut.coverage)],
    ['Largest cluster', cut.n_clusters ? percent(cut.largest_share) : MISSING],
  ];
  byId('whatif-numbers').replaceChildren(
    ...facts.map(([key, value]) => h('div', {}, h('dt', {}, key), h('dd', {}, value))),
  );
  byId('whatif-missing').hidden = cut.labels !== null;
  byId('whatif-missing').textContent =
    'The labels of this cut were left out to keep the page small: numbers only, the map is grey.';
  byId('whatif-chart').replaceChildren(whatIfChart(chosen));
  const codes = await codesOf(cut);
  if (whatIf.cut === cut) whatIf.view?.setLabels(codes); // else the slider went on in the meantime
}

/** Clusters (left axis) and coverage (right axis) along the first slider, the others as they are set. */
function whatIfChart(chosen) {
  const [[name, values]] = Object.entries(chosen.sliders);
  const cuts = values.map((_, place) => cutAt(chosen, [place, ...whatIf.at.slice(1)]));
  const most = cuts.reduce((a, cut) => Math.max(a, cut.n_clusters), 1);
  const x = pixelScale(0, Math.max(1, values.length - 1), 44, 316);
  const clusters = pixelScale(0, most, 150, 22);
  const coverage = pixelScale(0, 1, 150, 22);
  const yTicks = ticks(0, most, 3).filter((value) => Number.isInteger(value) && most - value > most / 8);
  const line = (kind, y) =>
    svg('polyline', {
      class: `line ${kind}`,
      points: cuts.map((cut, i) => `${x(i).toFixed(1)},${y(cut).toFixed(1)}`).join(' '),
    });
  const here = whatIf.at[0];
  return svg(
    'svg',
    { viewBox: '0 0 364 186', role: 'img', 'aria-label': `Clusters and coverage along ${name}` },
    [...yTicks, most].map((value) =>
      svg(
        'g',
        { class: 'tick left' },
        svg('line', { x1: 44, x2: 316, y1: clusters(value), y2: clusters(value) }),
        svg('text', { x: 38, y: clusters(value) + 4, 'text-anchor': 'end' }, number(value)),
      ),
    ),
    [0, 0.5, 1].map((value) => svg('text', { class: 'tick-text', x: 322, y: coverage(value) + 4 }, percent(value))),
    svg('line', { class: 'here', x1: x(here), x2: x(here), y1: 18, y2: 150 }),
    line('clusters', (cut) => clusters(cut.n_clusters)),
    line('coverage', (cut) => coverage(cut.coverage)),
    svg('circle', { class: 'clusters', cx: x(here), cy: clusters(cuts[here].n_clusters), r: 4 }),
    svg('circle', { class: 'coverage', cx: x(here), cy: coverage(cuts[here].coverage), r: 4 }),
    spacedOut(values, 272).map((i) =>
      svg(
        'g',
        { class: 'tick bottom' },
        svg('line', { x1: x(i), x2: x(i), y1: 150, y2: 154 }),
        svg('text', { x: x(i), y: 166, 'text-anchor': 'middle' }, String(values[i])),
      ),
    ),
    svg('text', { class: 'axis', x: 180, y: 182, 'text-anchor': 'middle' }, name),
    svg('text', { class: 'axis clusters', x: 4, y: 11 }, 'number of clusters'),
    svg('text', { class: 'axis coverage', x: 360, y: 11, 'text-anchor': 'end' }, 'coverage'),
  );
}
