'use strict';
// Agreement of the best models, and the static figures.

function makeFigures() {
  const figures = JSON.parse(byId('figures').textContent);
  const groups = new Map();
  for (const each of figures) groups.set(each.descriptor, [...(groups.get(each.descriptor) ?? []), each]);
  byId('panel-figures').append(
    h('section', { class: 'card' }, h('h2', {}, 'Agreement of the best models'), agreementTable()),
    ...[...groups].map(([descriptor, group]) =>
      h(
        'section',
        { class: 'card' },
        h('h2', {}, descriptor || 'The whole run'),
        h('div', { class: 'figures' }, group.map(figure)),
      ),
    ),
  );
  if (!figures.length)
    byId('panel-figures').append(h('p', { class: 'card notice' }, 'The report was made without figures.'));
}

function figure({ title: name, caption, image }) {
  const picture = h('img', { src: image, alt: name });
  return h(
    'figure',
    {},
    h(
      'button',
      {
        type: 'button',
        class: 'picture',
        'aria-label': `Enlarge: ${name}`,
        onclick: () => enlarge(image, name, caption),
      },
      picture,
    ),
    h('figcaption', {}, h('b', {}, name), ' ', caption),
  );
}

function enlarge(image, name, caption) {
  const dialog = byId('enlarged');
  dialog.replaceChildren(
    h(
      'div',
      { class: 'card-head' },
      h('h2', {}, name),
      h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'),
    ),
    h('img', { src: image, alt: name }),
    h('p', { class: 'caption' }, caption),
  );
  dialog.onclick = (event) => event.target === dialog && dialog.close(); // outside of the picture
  dialog.showModal();
}

/** Adjusted Rand index above the diagonal, adjusted mutual information below. */
function agreementTable() {
  if (!report.agreement.length)
    return h('p', { class: 'notice' }, 'Fewer than two best models, so there is nothing to agree on.');
  const ids = [...new Set(report.agreement.flatMap(([first, second]) => [first, second]))];
  const found = new Map(
    report.agreement.flatMap(([first, second, ari, ami]) => [
      [`${first} ${second}`, [ari, ami]],
      [`${second} ${first}`, [ari, ami]],
    ]),
  );
  const nameOfId = (id) => report.models.find((model) => model.id === id)?.name ?? id;
  return h(
    'div',
    {},
    h(
      'p',
      { class: 'caption' },
      'Above the diagonal: adjusted Rand index (ARI). Below it: adjusted mutual information (AMI). ' +
        '1 is the same partition, 0 what chance gives.',
    ),
    h(
      'div',
      { class: 'table-box' },
      h(
        'table',
        { class: 'heat', id: 'agreement' },
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            h('td', {}),
            ids.map((id, j) => h('th', { scope: 'col', title: nameOfId(id) }, String(j + 1))),
          ),
        ),
        h(
          'tbody',
          {},
          ids.map((a, i) =>
            h(
              'tr',
              {},
              h('th', { scope: 'row' }, `${i + 1}  ${nameOfId(a)}`),
              ids.map((b, j) => agreementCell(i, j, found.get(`${a} ${b}`))),
            ),
          ),
        ),
      ),
    ),
  );
}

function agreementCell(i, j, values) {
  if (i === j || !values) return h('td', { class: 'empty' }, i === j ? '1' : MISSING);
  const value = values[i < j ? 0 : 1];
  const heat = Math.round(6 + 84 * Math.max(0, value ?? 0));
  return h(
    'td',
    { class: 'cell', style: { '--heat': `${heat}%` }, 'data-hot': heat > 60 ? 1 : null },
    typeof value === 'number' ? value.toFixed(2) : MISSING,
  );
}
