'use strict';
// The selected rows: a drawer at the bottom with what is in them.

const MAX_TILES = 200;
const MAX_PATHS = 1000;

/** Select page rows by position, ascending; null or none clears. */
function selectRows(positions) {
  state.selection = positions && positions.length ? Int32Array.from(positions) : null;
  announce('selection');
}

async function showSelection() {
  const drawer = byId('selection');
  const { selection } = state;
  drawer.hidden = !selection;
  document.body.classList.toggle('with-drawer', Boolean(selection));
  if (!selection) {
    drawer.replaceChildren();
    return;
  }
  await loadImages();
  const model = report.models[state.model];
  const codes = model ? await codesOf(model) : null;
  const legend = model ? await legendOf(model) : NO_LEGEND;
  if (selection !== state.selection) return; // another one was made in the meantime
  const withThumbnail = [...selection].filter((position) => thumbnailOf(position));
  drawer.replaceChildren(
    selectionHead(selection),
    h(
      'div',
      { class: 'drawer-body' },
      codes ? breakdown(codes, legend, selection, model) : null,
      h(
        'section',
        {},
        h('h3', {}, thumbnailCaption(withThumbnail.length, selection.length)),
        tiles(withThumbnail.slice(0, MAX_TILES)),
      ),
      pathList(selection),
    ),
  );
}

function selectionHead(selection) {
  return h(
    'div',
    { class: 'card-head' },
    h('h2', { role: 'status' }, `${plural(selection.length, 'row')} selected`),
    h(
      'div',
      { class: 'actions' },
      h('button', { type: 'button', id: 'copy-paths', onclick: (event) => copyPaths(event.target) }, 'Copy paths'),
      h('button', { type: 'button', id: 'download-csv', onclick: downloadCsv }, 'Download CSV'),
      h(
        'button',
        { type: 'button', id: 'clear-selection', class: 'quiet', title: 'Escape', onclick: () => selectRows(null) },
        'Clear',
      ),
    ),
  );
}

function thumbnailCaption(withThumbnail, all) {
  if (!withThumbnail) return 'None of them has a thumbnail in the page';
  const first = withThumbnail > MAX_TILES ? `The first ${MAX_TILES} thumbnails` : 'Thumbnails';
  return `${first} (${number(withThumbnail)} of ${plural(all, 'row')} have one)`;
}

function breakdown(codes, legend, selection, model) {
  const counts = countCodes(codes, selection);
  const chips = counts
    .slice(0, 40)
    .map(([code, count]) =>
      h(
        'li',
        {},
        swatch(code, legend),
        h('span', { class: 'clip', title: codeName(code, legend) }, codeName(code, legend)),
        h('b', {}, number(count)),
        h('span', { class: 'muted' }, percent(count / selection.length)),
      ),
    );
  const more = counts.length > 40 ? h('li', { class: 'muted' }, `and ${plural(counts.length - 40, 'more cluster')}`) : null;
  return h(
    'section',
    {},
    h('h3', { title: model.name }, 'By the chosen model'),
    h('ul', { class: 'chips' }, chips, more),
  );
}

function pathList(selection) {
  const shownRows = [...selection.subarray(0, MAX_PATHS)];
  const more =
    selection.length > MAX_PATHS
      ? h('p', { class: 'muted' }, `The first ${number(MAX_PATHS)}; the CSV has all.`)
      : null;
  return h(
    'section',
    { class: 'paths' },
    h('h3', {}, 'Paths'),
    h(
      'ol',
      { tabindex: 0, 'aria-label': 'Paths of the selected rows' },
      shownRows.map((position) => h('li', {}, images.paths[position])),
    ),
    more,
  );
}

const selectedPaths = () => [...state.selection].map((position) => images.paths[position]).join('\n');

async function copyPaths(button) {
  try {
    await navigator.clipboard.writeText(selectedPaths());
    button.textContent = 'Copied';
  } catch {
    button.textContent = copyByHand() ? 'Copied' : 'Not allowed by the browser';
  }
  setTimeout(() => (button.textContent = 'Copy paths'), 1500);
}

/** For browsers that give no clipboard to local files. */
function copyByHand() {
  const area = h('textarea', { 'aria-hidden': 'true' });
  area.value = selectedPaths();
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  return copied;
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** One line per selected row: its row of the run, its path, its label by the chosen model if that has labels. */
async function selectionCsv() {
  const model = report.models[state.model];
  const codes = model ? await codesOf(model) : null;
  const lines = [...state.selection].map((position) => {
    const label = codes && codes[position] !== UNSEEN_CODE ? labelOf(codes[position]) : '';
    return `${images.rows[position]},${quoted(images.paths[position])},${label}`;
  });
  return ['row,path,label', ...lines, ''].join('\n');
}

async function downloadCsv() {
  const address = URL.createObjectURL(new Blob([await selectionCsv()], { type: 'text/csv' }));
  h('a', { href: address, download: 'selected_rows.csv' }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

on('selection', showSelection);
on('model', () => {
  if (state.selection) showSelection();
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || byId('enlarged').open) return;
  hideTooltip();
  if (state.selection) selectRows(null);
  else if (state.isolated !== null) isolateCluster(null);
});
