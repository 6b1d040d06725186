'use strict';
// Putting the page together.

// Parts that are made when their tab is opened first, so that a large page is there quickly.
const LATER = { compare: makeCompare, whatif: makeWhatIf, figures: makeFigures };

function makeHeader() {
  document.title = report.title;
  byId('title').textContent = report.title;
  byId('facts').append(
    ...report.facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, factText(value)))),
  );
  openWhereThereIsSpace();
  NARROW.addEventListener('change', openWhereThereIsSpace);
  if (!report.notes.length) return;
  const notes = byId('notes');
  notes.hidden = false;
  notes.open = report.notes.length <= 3 && !NARROW.matches;
  notes.querySelector('summary').textContent = `Notes (${report.notes.length})`;
  notes.querySelector('ul').append(...report.notes.map((note) => h('li', {}, note)));
}

const NARROW = matchMedia('(max-width: 600px)');

/** On a narrow screen the facts of the run are folded away. */
function openWhereThereIsSpace() {
  byId('about').open = !NARROW.matches;
}

const INSTANT = /^(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?:(Z)|([+-]\d\d):?(\d\d))$/;
const instantFormat = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short' });

/** A fact as it is, but an instant in the reader's own time, and no plural after 1. */
function factText(value) {
  const found = INSTANT.exec(value);
  if (!found) return value.replace(/(?<![\d.,])1 (stage|row|image|model|feature|thread|descriptor)s\b/g, '1 $1');
  const [, time, utc, hours, minutes] = found;
  const iso = time + (utc ?? `${hours}:${minutes}`);
  return h('time', { datetime: iso, title: value }, instantFormat.format(new Date(iso)));
}

/** Where no model was chosen, that comes first. */
function makeNoBest() {
  if (!report.models.length || report.models.some((model) => model.is_finalist)) return;
  byId('no-best').hidden = false;
  byId('no-best').append(
    h('b', {}, 'No model meets the constraints of best'),
    ', so none was chosen as a finalist. All models are in the table; other constraints may suit this run better.',
  );
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
  makeNoBest();
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
    if (!comparison.table) return null; // it comes after the maps
    const { cells, first, second } = comparison.table;
    return { cells, first: [...first.keys()], second: [...second.keys()] };
  },
  ari: () => comparison.ari,
  cut: () => whatIf.cut,
  csv: selectionCsv,
  chooseModel,
  select: selectRows,
};
