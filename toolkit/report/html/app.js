'use strict';
// Putting the page together.

// Parts that are made when their tab is opened first, so that a large page is there quickly.
const LATER = { compare: makeCompare, whatif: makeWhatIf, figures: makeFigures };

function makeHeader() {
  document.title = report.title;
  byId('title').textContent = report.title;
  byId('facts').append(...report.facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
  if (!report.notes.length) return;
  const notes = byId('notes');
  notes.hidden = false;
  notes.open = report.notes.length <= 3;
  notes.querySelector('summary').textContent = `Notes (${report.notes.length})`;
  notes.querySelector('ul').append(...report.notes.map((note) => h('li', {}, note)));
}

function openTab(name) {
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute('aria-selected', String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute('aria-controls')).hidden = !chosen;
  }
  hideTooltip();
  return once(`tab ${name}`, async () => LATER[name]?.());
}

function makeTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const nameOfTab = (tab) => tab.id.replace('tab-', '');
  tabs.forEach((tab, i) => {
    tab.addEventListener('click', () => openTab(nameOfTab(tab)));
    tab.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      next.focus();
      openTab(nameOfTab(next));
    });
  });
}

function showTheme() {
  byId('theme').textContent = isDark() ? 'Light' : 'Dark';
  byId('theme').setAttribute('aria-label', `Change to ${isDark() ? 'light' : 'dark'} colours`);
}

function changeTheme(theme) {
  document.documentElement.dataset.theme = theme;
  showTheme();
  announce('theme');
}

function makeTheme() {
  showTheme();
  byId('theme').addEventListener('click', () => changeTheme(isDark() ? 'light' : 'dark'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    showTheme();
    announce('theme');
  });
}

async function startPage() {
  makeHeader();
  makeTabs();
  makeTheme();
  makeFilters();
  makeHead();
  makeRows();
  makeScatter();
  makeDetail();
  openTab('models');
  showTable();
  if (!report.models.length) return;
  await chooseModel(labelledModels()[0] ?? 0);
}

// For tests and for the curious: what the page holds and shows, as it is.
window.report = {
  data: report,
  state,
  images,
  ready: startPage(),
  views: () => ({ detail: detailView, compare: comparison.views, whatif: whatIf.view }),
  contingency: () => {
    const { cells, first, second } = comparison.table;
    return { cells, first: [...first.keys()], second: [...second.keys()] };
  },
  ari: () => comparison.ari,
  cut: () => whatIf.cut,
  csv: selectionCsv,
  chooseModel,
  select: selectRows,
};
